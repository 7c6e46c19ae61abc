"""DeepSeeMoE: from text and a Mixture-of-Experts model to a map of features onto experts."""

from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "rules/common.smk"
include: "rules/gpus.smk"
include: "rules/memory.smk"
include: "rules/common_training.smk"
include: "rules/common_report.smk"
include: "rules/common_justify.smk"
include: "rules/corpus.smk"
include: "rules/model.smk"


if RUN.activations.shards_per_job > 1:

    include: "rules/activations_grouped.smk"

else:

    include: "rules/activations.smk"


if trained():

    include: f"rules/training_{RUN.batches.rules}.smk"


if imported():

    include: "rules/imported.smk"


include: "rules/dictionary.smk"
include: "rules/features.smk"
include: "rules/routing.smk"
include: "rules/experts.smk"
include: "rules/prediction.smk"
include: "rules/labels.smk"
include: "rules/report.smk"
include: "rules/justify.smk"
include: "rules/compare.smk"
include: "rules/trust.smk"


localrules:
    all,
    write_config,


onstart:
    with told():
        check_start()
        check_gpus()
        hold_run()


onerror:
    tell_endings(log)


rule all:
    """Everything of the run, down to its report."""
    default_target: True
    input:
        f"<results>/{RUN.name}/config.yaml",
        f"<results>/{RUN.name}/report/summary.html",
        tables(),
        routing_tables(),
