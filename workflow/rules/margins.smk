# Margins of criteria with outliers or for the lost output, on the dense answers.
rule margins:
    input:
        inputs("margins"),
    output:
        outputs("margins"),
    log:
        f"{RESULTS}/logs/margins/{{key}}.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=gpus("margins"),
    params:
        spec=spec("margins"),
        command=command("margins"),
    message:
        "margins: {wildcards.key}"
    shell:
        SHELL
