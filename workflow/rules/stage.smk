# What the rules of all stages share: each adds its files and its message.
rule stage:
    input:
        inputs,
    log:
        log_file("stage"),
    threads: 1
    resources:
        mem_mb=lambda wildcards: stage_of(wildcards).mem_mb,
        runtime=lambda wildcards: stage_of(wildcards).runtime,
        gpu=gpus,
    params:
        spec=spec,
        command=command,
    message:
        "{rule}: {wildcards.key}"
    shell:
        SHELL
