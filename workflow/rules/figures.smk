# A rule a figure, because a report's caption belongs to a rule.
for figure in FIGURES:

    rule:
        name:
            f"figure_{figure}"
        input:
            inputs,
        output:
            report(
                outputs("figures", figure=figure)[0],
                caption=caption(figure),
                category="Figures",
                subcategory=figure,
                labels={"figure": figure, "of": "{key}"},
            ),
            outputs("figures", figure=figure)[1:],
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
