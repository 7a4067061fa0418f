# What the rules of all stages share: each adds its mark of the end, its log and its message.
rule stage:
    input:
        of_batch,
    log:
        log_file("stage"),
    threads: 1
    resources:
        mem_mb=of_jobs(memory_mb),
        gpu_mb=of_jobs(gpu_mb),
        runtime=of_table("runtime"),
        gpu=gpus,
    params:
        command=run_batch,
    message:
        "{rule}: {wildcards.batch}"
    shell:
        SHELL
