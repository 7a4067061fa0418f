# Figures are addressed like all results; their plain-named copies say by a file name which address they are copies of.
for figure in sorted(
    {json.loads(found.spec)["figure"] for found in PLAN.nodes["figures"].values()}
):

    rule:
        name:
            f"figure_{figure}"
        input:
            inputs("figures"),
        output:
            report(
                f"{RESULTS}/figures/{{key}}/{figure}.png",
                caption=f"../report/{figure}.rst",
                category="Figures",
                subcategory=figure,
                labels={"figure": figure, "of": "{key}"},
            ),
            f"{RESULTS}/figures/{{key}}/{figure}.pdf",
            f"{RESULTS}/figures/{{key}}/{figure}.csv",
            f"{RESULTS}/figures/{{key}}/provenance.json",
        log:
            f"{RESULTS}/logs/figures/{{key}}.log",
        wildcard_constraints:
            key=rf"{figure}-[\w.-]+--[0-9a-f]{{10}}",
        threads: 1
        resources:
            mem_mb=8000,
            runtime=60,
        params:
            spec=spec("figures"),
            command=command("figures"),
        message:
            "draw: {wildcards.key}"
        shell:
            SHELL


rule publish:
    input:
        pictures,
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
        key=lambda wildcards, input: Path(input[0]).parent.name,
    message:
        "copy: {wildcards.point}/{wildcards.figure}"
    shell:
        "( rm -f {params.folder:q}/{wildcards.figure}--*.key && cp {input:q} {params.folder:q}/"
        " && echo {params.key} > {output:q} ) 2> {log:q}"
