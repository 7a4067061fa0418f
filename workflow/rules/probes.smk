# Queries of the calibration prompts, for rules that choose outliers.
rule probes:
    input:
        inputs("probes"),
    output:
        outputs("probes"),
    log:
        f"{RESULTS}/logs/probes/{{key}}.log",
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=gpus("probes"),
    params:
        spec=spec("probes"),
        command=command("probes"),
    message:
        "probes: {wildcards.key}"
    shell:
        SHELL
