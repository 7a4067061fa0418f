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
            parents=folders("figures"),
        message:
            "draw: {wildcards.key}"
        shell:
            RUN.replace("{rule}", "figures")


def copies():
    """Each plain-named copy as its marker, whose name carries the key: another key is a missing file."""
    return [f"{RESULTS}/figures/{copy}.key" for copy in PLAN.copies()]


def pictures(wildcards):
    """The files that a plain-named copy is made of."""
    found = PLAN.copies()[f"{wildcards.point}/{wildcards.figure}--{wildcards.digest}"]
    return [
        f"{PLAN.folder(found)}/{wildcards.figure}.{end}"
        for end in ("pdf", "png", "csv")
    ]


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
    message:
        "copy to {RESULTS}/figures/{wildcards.point}/{wildcards.figure}.{{pdf,png,csv}}"
    shell:
        "( cd {RESULTS:q}/figures/{wildcards.point:q} && rm -f {wildcards.figure}--*.key && cd - > /dev/null"
        " && cp {input:q} {RESULTS:q}/figures/{wildcards.point:q}/"
        " && dirname {input[0]:q} > {output:q} ) 2> {log:q}"
