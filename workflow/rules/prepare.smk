# Fetch data and models if necessary. Each is represented by a manifest with a hash of its content: dependent jobs are
# repeated if the content changes, but not if a file is touched.


localrules:
    plan,


rule plan:
    output:
        "<study>/plan.json",
    log:
        "<study>/logs/plan.log",
    params:
        # Not sorted: tables follow the order of the study file.
        plan=lambda wildcards: sha256(json.dumps(PLAN.as_dict()).encode()).hexdigest(),
    message:
        "Write the plan"
    run:
        write_json(Path(output[0]), PLAN.as_dict())


rule prepare_data:
    output:
        "<study>/data/{task}.json",
    log:
        "<study>/logs/data-{task}.log",
    priority: FIRST
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical(PLAN.study.tasks[wildcards.task], "task"),
        data_root=DATA_ROOT,
        files=lambda wildcards: folder_state(
            dataset_folder(PLAN.study.tasks[wildcards.task], Path(DATA_ROOT))
        ),
    message:
        "Prepare the data of {wildcards.task}"
    shell:
        "neuroprune prepare-data --settings {params.settings:q} --data-root {params.data_root:q} --output {output:q}"
        " > {log:q} 2>&1"


rule prepare_model:
    output:
        "<study>/models/{model}.json",
    log:
        "<study>/logs/model-{model}.log",
    priority: FIRST
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical(
            PLAN.study.models[wildcards.model], "model"
        ),
        files=lambda wildcards: folder_state(
            Path(PLAN.study.models[wildcards.model].source)
        ),
    message:
        "Prepare the model {wildcards.model}"
    shell:
        "neuroprune prepare-model --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"
