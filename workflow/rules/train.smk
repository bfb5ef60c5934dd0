# One job a run. Its settings are its parameters, so exactly the runs that a change concerns are trained again. On one
# machine all training comes before the measurements, which need the machine for themselves; on a cluster a model is
# measured, and deleted, soon after its training.


MODEL = directory("<study>/runs/{run}/model")


rule train:
    input:
        unpack(manifests),
    output:
        record="<study>/runs/{run}/run.json",
        model=MODEL if PLAN.study.keep_models else temp(MODEL),
    log:
        "<study>/runs/{run}/train.log",
    priority: longest_first
    conda:
        "../../environment.yml"
    threads: lambda wildcards: training(wildcards).threads * training(wildcards).processes
    resources:
        gpu=lambda wildcards: GPU * training(wildcards).processes,
        mem_mb=memory,
        runtime=minutes,
        checkpoint_minutes=10,
    params:
        settings=lambda wildcards: canonical(PLAN.runs[wildcards.run]),
        data_root=DATA_ROOT,
    message:
        "Train {wildcards.run}"
    shell:
        "neuroprune train --settings {params.settings:q} --data-root {params.data_root:q} --output {output.record:q}"
        " --checkpoint-minutes {resources.checkpoint_minutes} > {log:q} 2>&1"
