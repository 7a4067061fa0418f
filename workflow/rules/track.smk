def tracked():
    return []


rule track:
    output:
        f"{RESULTS}/track/{{key}}",
    log:
        f"{RESULTS}/logs/track/{{key}}.log",
    shell:
        "touch {output}"
