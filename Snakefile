# `snakemake` in this folder and `snakemake -s workflow/Snakefile` run the same workflow.
include: "workflow/Snakefile"


# The first rule of an included file is no default target.
rule default:
    default_target: True
    input:
        rules.all.input,
