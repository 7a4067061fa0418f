# A rule a figure, because a report's caption belongs to a rule.
for place, figure in enumerate(FIGURES, start=1):

    rule:
        name:
            f"figure_{figure}"
        input:
            lambda wildcards: waiting_for([DRAWN[wildcards.key]]),
        output:
            report(
                f"{RESULTS}/figures/{{key}}/{figure}.png",
                caption=caption(figure),
                category="Figures",
                subcategory=f"{place:02} {figure}",  # the report sorts by name
                labels={"figure": figure, "of": "{key}"},
            ),
            f"{RESULTS}/figures/{{key}}/provenance.json",
        log:
            f"{RESULTS}/logs/figures/{{key}}.log",
        wildcard_constraints:
            key=rf"{figure}-[\w.-]+--[0-9a-f]{{10}}",
        threads: 1
        resources:
            mem_mb=STAGES["figures"].mem_mb,
            runtime=STAGES["figures"].runtime,
        params:
            command=draw,
        message:
            f"{STAGES['figures'].message}: {{wildcards.key}}"
        shell:
            SHELL
