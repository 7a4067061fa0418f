# The workflow: conf/ says what to compute, headscope.pipeline.plan.plan turns that into jobs, the rules carry them out.
#   snakemake                                                          the default experiment
#   snakemake --config hydra="experiment=smoke window.recent=64,128"   any options, in Hydra's grammar
from snakemake.utils import min_version

min_version("9.11")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/moments.smk"
include: "workflow/rules/dense.smk"
include: "workflow/rules/probes.smk"
include: "workflow/rules/oracle.smk"
include: "workflow/rules/margins.smk"
include: "workflow/rules/diagnostics.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/track.smk"


localrules:
    all,
    assets,
    publish,
    track,


rule all:
    input:
        copies(),
        tracked(),
