# Exact log masses and each estimator's, on the dense answers.
rule oracle:
    input:
        inputs("oracle"),
    output:
        outputs("oracle"),
    log:
        f"{RESULTS}/logs/oracle/{{key}}.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=gpus("oracle"),
    params:
        spec=spec("oracle"),
        command=command("oracle"),
    message:
        "exact and estimated masses: {wildcards.key}"
    shell:
        SHELL
