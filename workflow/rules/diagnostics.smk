# Diagnostics of the Gaussian model; only for figures that read them.
rule diagnostics:
    input:
        inputs("diagnostics"),
    output:
        outputs("diagnostics"),
    log:
        f"{RESULTS}/logs/diagnostics/{{key}}.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=gpus("diagnostics"),
    params:
        spec=spec("diagnostics"),
        command=command("diagnostics"),
    message:
        "diagnose: {wildcards.key}"
    shell:
        SHELL
