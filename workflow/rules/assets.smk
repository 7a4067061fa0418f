# Models and texts. A local rule: it runs where the internet is.
rule assets:
    input:
        inputs("assets"),
    output:
        outputs("assets"),
    log:
        f"{RESULTS}/logs/assets/{{key}}.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        spec=spec("assets"),
        command=command("assets"),
    message:
        "fetch and check: {wildcards.key}"
    shell:
        SHELL
