# Timing jobs. They reserve all cores, so that nothing else runs on the machine. On one machine, all training
# comes first; on a cluster, a job's runs are timed and their models deleted soon after training.


rule measure:
    input:
        unpack(manifests),
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
        mem_mb=memory,
        runtime=minutes,
    params:
        settings=lambda wildcards: canonical(PLAN.study.timing, "timing"),
        runs=lambda wildcards: job_of(wildcards).timed,
        data_root=DATA_ROOT,
        study=subpath(input.records, ancestor=3),
        keep=KEEP,
    message:
        "Time {wildcards.job}"
    shell:
        "neuroprune measure-job --settings {params.settings:q} --runs {params.runs:q} --data-root {params.data_root:q}"
        " --study {params.study:q} --output {output:q} {params.keep} > {log:q} 2>&1"
