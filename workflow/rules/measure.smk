# Inference times, one job a run, with nothing else beside it on the machine: hence all cores.


rule measure:
    input:
        unpack(manifests),
        record="<study>/runs/{run}/run.json",
        weights="<study>/runs/{run}/model",
    output:
        "<study>/runs/{run}/timing.json",
    log:
        "<study>/runs/{run}/measure.log",
    priority: measured_soon
    conda:
        "../../environment.yml"
    threads: lambda wildcards: workflow.cores
    resources:
        gpu=GPU,
        mem_mb=memory,
        runtime=minutes,
    params:
        settings=lambda wildcards: canonical(PLAN.study.timing, exclude={"seeds"}),
        data_root=DATA_ROOT,
    message:
        "Time {wildcards.run}"
    shell:
        "neuroprune measure --settings {params.settings:q} --data-root {params.data_root:q} --run {input.record:q}"
        " --output {output:q} > {log:q} 2>&1"
