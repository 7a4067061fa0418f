# Tracking is a leaf: finished folders are replayed, nothing waits for it, and it is part of no result's address.
rule track:
    input:
        inputs("track"),
    output:
        outputs("track"),
    log:
        f"{RESULTS}/logs/track/{{key}}.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        spec=spec("track"),
        command=command("track"),
    message:
        "track: {wildcards.key}"
    shell:
        SHELL
