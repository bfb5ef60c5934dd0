# Runs that share a job (`runs_per_job`): one process trains them one after another, another one times them. A run is there
# or not by what its record says, so a job that is done again does only what is missing. Snakemake sees the lists alone; run
# folders are no outputs here, as it would empty them before a job starts again.


# A list is true as long as all its files are there: where a user has deleted one, the list goes too, and the job is done.
for path in untrue_lists(Path(FOLDER), JOBS) if workflow.is_main_process else ():
    if workflow.output_settings.dryrun:
        print(
            f"{path} names records that are gone: its job will be done, though a dry run does not show it.",
            file=sys.stderr,
        )
    else:
        path.unlink()

# It says that the models of a job's runs are there as far as they are still to be timed.
MODELS = touch("<study>/jobs/{job}/models")
KEEP = "--keep-models" * PLAN.study.keep_models


rule train_several:
    input:
        unpack(lambda wildcards: prepared(alike(wildcards))),
    output:
        records="<study>/jobs/{job}/runs.json",
        models=MODELS if PLAN.study.keep_models else temp(MODELS),
    log:
        "<study>/jobs/{job}/train.log",
    priority: longest_job_first
    conda:
        "../../environment.yml"
    threads: processors
    resources:
        gpu=lambda wildcards: GPU * alike(wildcards).training.processes,
        mem_mb=memory_of_several,
        runtime=minutes_of_several,
        checkpoint_minutes=10,
    params:
        settings=lambda wildcards: canonical(settings_of(PLAN, JOBS[wildcards.job])),
        data_root=DATA_ROOT,
        study=subpath(output.records, ancestor=3),
        keep=KEEP,
    message:
        "Train the runs of {wildcards.job}"
    shell:
        "neuroprune train-several --settings {params.settings:q} --data {input.data:q} --model {input.model:q}"
        " --data-root {params.data_root:q} --study {params.study:q} --output {output.records:q} {params.keep}"
        " --checkpoint-minutes {resources.checkpoint_minutes} > {log:q} 2>&1"


rule measure_several:
    input:
        unpack(lambda wildcards: prepared(alike(wildcards))),
        records="<study>/jobs/{job}/runs.json",
        models="<study>/jobs/{job}/models",
    output:
        "<study>/jobs/{job}/timings.json",
    log:
        "<study>/jobs/{job}/measure.log",
    priority: measured_soon
    conda:
        "../../environment.yml"
    threads: lambda wildcards: workflow.cores
    resources:
        gpu=GPU,
        mem_mb=memory_of_several,
        runtime=minutes_of_several,
    params:
        settings=lambda wildcards: canonical(PLAN.study.timing, exclude={"seeds"}),
        runs=lambda wildcards: JOBS[wildcards.job].timed,
        data_root=DATA_ROOT,
        study=subpath(input.records, ancestor=3),
        keep=KEEP,
    message:
        "Time the runs of {wildcards.job}"
    shell:
        "neuroprune measure-several --settings {params.settings:q} --runs {params.runs:q} --data-root {params.data_root:q}"
        " --study {params.study:q} --output {output:q} {params.keep} > {log:q} 2>&1"
