# Key moments of a text other than the prompt.
rule moments:
    input:
        inputs("moments"),
    output:
        outputs("moments"),
    log:
        f"{RESULTS}/logs/moments/{{key}}.log",
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=gpus("moments"),
    params:
        spec=spec("moments"),
        command=command("moments"),
    message:
        "key moments: {wildcards.key}"
    shell:
        SHELL
