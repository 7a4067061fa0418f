# The dense model's greedy answers.
rule dense:
    input:
        inputs("dense"),
    output:
        outputs("dense"),
    log:
        f"{RESULTS}/logs/dense/{{key}}.log",
    threads: 1
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=gpus("dense"),
    params:
        spec=spec("dense"),
        command=command("dense"),
    message:
        "dense answers: {wildcards.key}"
    shell:
        SHELL
