# Plain-named copies of figures; a marker's name says which address they are copies of.
rule publish:
    input:
        of_copy,
    output:
        f"{RESULTS}/figures/{{point}}/{{figure}}--{{digest}}.key",
    log:
        f"{RESULTS}/logs/publish/{{point}}/{{figure}}--{{digest}}.log",
    wildcard_constraints:
        figure=r"\w+",
    threads: 1
    resources:
        mem_mb=100,
        runtime=5,
    params:
        folder=lambda wildcards, input: f"{RESULTS}/figures/{wildcards.point}",
        key=lambda wildcards, input: figure_of(wildcards).key,
        files=lambda wildcards, input: PLAN.files(figure_of(wildcards))[:-1],
    message:
        "copy: {wildcards.point}/{wildcards.figure}"
    shell:
        "( rm -f {params.folder:q}/{wildcards.figure}--*.key && cp {params.files:q} {params.folder:q}/"
        " && echo {params.key} > {output:q} ) 2> {log:q}"
