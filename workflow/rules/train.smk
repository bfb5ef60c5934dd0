# Training jobs. A job trains one run or, with `runs_per_job`, several in turn. Its settings are its parameters, so Snakemake
# starts exactly the jobs affected by a change. The job itself skips every run whose record has the same settings, data
# and model. Run folders are not outputs: Snakemake deletes the outputs of a job before it starts and after it fails.

# Exists while the models of the job's runs are needed for timing.
MODELS = touch("<study>/jobs/{job}/models")
KEEP = "--keep-models" * PLAN.study.keep_models


rule train:
    input:
        unpack(manifests),
        teachers=teachers,
    output:
        records="<study>/jobs/{job}/runs.json",
        models=MODELS if PLAN.study.keep_models else temp(MODELS),
    log:
        "<study>/jobs/{job}/train.log",
    priority: longest_first
    conda:
        "../../environment.yml"
    threads: threads_of_job
    resources:
        gpu=lambda wildcards: GPU * first_run(wildcards).training.processes,
        mem_mb=memory,
        runtime=minutes,
        # A setting of the study and not a parameter, because a change would repeat the job.
        checkpoint_minutes=str(PLAN.study.checkpoint_minutes),
    params:
        settings=lambda wildcards: canonical(settings_of(PLAN, job_of(wildcards))),
        data_root=DATA_ROOT,
        study=subpath(output.records, ancestor=3),
        keep=KEEP,
    message:
        "Train {wildcards.job}"
    shell:
        "neuroprune train-job --settings {params.settings:q} --data {input.data:q} --model {input.model:q}"
        " --data-root {params.data_root:q} --study {params.study:q} --output {output.records:q} {params.keep}"
        " --checkpoint-minutes {resources.checkpoint_minutes} > {log:q} 2>&1"
