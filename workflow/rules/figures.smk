# A rule a figure, because a report's caption belongs to a rule.
for figure in FIGURES:

    rule:
        name:
            f"figure_{figure}"
        input:
            inputs,
        output:
            report(
                f"{RESULTS}/figures/{{key}}/{figure}.png",
                caption=caption(figure),
                category="Figures",
                subcategory=figure,
                labels={"figure": figure, "of": "{key}"},
            ),
            output("figures"),
        log:
            log_file("figures"),
        wildcard_constraints:
            key=rf"{figure}-[\w.-]+--[0-9a-f]{{10}}",
        threads: 1
        resources:
            mem_mb=STAGES["figures"].mem_mb,
            runtime=STAGES["figures"].runtime,
        params:
            spec=spec,
            command=command,
        message:
            message("figures")
        shell:
            SHELL
