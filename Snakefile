# A study, from its file to its figures: `snakemake --cores all` runs the demo, `--configfile config/paper.yaml` another.
#
# Data flows one way, and each arrow is one rule that calls one `neuroprune` sub-command:
# study -> plan -> prepare -> train -> measure -> collect -> figures and tables -> report.


include: "workflow/rules/study.smk"


report: "workflow/report/workflow.rst"


# The first rule is the default target of `snakemake`.
rule all:
    input:
        FIGURE_FILES,
        TABLE_FILES,
    message:
        "The study is complete"


if not PLAN.study.from_results:

    include: "workflow/rules/prepare.smk"
    include: "workflow/rules/train.smk"
    include: "workflow/rules/measure.smk"


include: "workflow/rules/artefacts.smk"
