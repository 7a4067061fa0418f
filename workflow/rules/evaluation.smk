# All criteria and targets of one task and length, decoded as one batch a prompt.
rule evaluation:
    input:
        inputs("evaluation"),
    output:
        outputs("evaluation"),
    log:
        f"{RESULTS}/logs/evaluation/{{key}}.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=gpus("evaluation"),
    params:
        spec=spec("evaluation"),
        command=command("evaluation"),
    message:
        "evaluate: {wildcards.key}"
    shell:
        SHELL
