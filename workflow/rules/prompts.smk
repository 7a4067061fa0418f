# Prompts of one task, length and tokenizer.
rule prompts:
    input:
        inputs("prompts"),
    output:
        outputs("prompts"),
    log:
        f"{RESULTS}/logs/prompts/{{key}}.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        spec=spec("prompts"),
        command=command("prompts"),
    message:
        "write prompts: {wildcards.key}"
    shell:
        SHELL
