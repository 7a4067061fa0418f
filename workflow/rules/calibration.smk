# Thresholds and rankings for the target sparsities.
rule calibration:
    input:
        inputs("calibration"),
    output:
        outputs("calibration"),
    log:
        f"{RESULTS}/logs/calibration/{{key}}.log",
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        spec=spec("calibration"),
        command=command("calibration"),
    message:
        "calibrate: {wildcards.key}"
    shell:
        SHELL
