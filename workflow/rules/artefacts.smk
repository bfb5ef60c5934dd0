# The table of runs, and all figures and tables made from it. Each has a rule of the same name: `snakemake figure4`. They are
# separate jobs, so that a failure does not affect the others; `neuroprune redraw` makes all of them in one call.
from neuroprune.config.cores import available_cores, too_many_threads
from neuroprune.results.outdated import repeated
from neuroprune.results.progress import Progress, watch
from neuroprune.results.report import headline, make_report, report_command


rule collect:
    input:
        records,
    output:
        table="<study>/runs.csv",
        provenance="<study>/provenance.json",
    log:
        "<study>/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        study=subpath(output.table, parent=True),
    message:
        "Collect all records"
    shell:
        "neuroprune collect --study {params.study:q} --output {output.table:q} > {log:q} 2>&1"


for figure, section in FIGURES.items():

    rule:
        name:
            figure
        input:
            shown(figure),
        output:
            multiext(f"<study>/figures/{figure}", ".pdf", ".png", ".csv"),
            report(
                f"<study>/figures/{figure}.svg",
                category=section,
                caption=f"../report/{figure}.rst",
                labels={"figure or table": figure},
            ),
        log:
            f"<study>/logs/{figure}.log",
        conda:
            "../../environment.yml"
        params:
            name=figure,
            study=subpath(output[0], ancestor=2),
        message:
            "Draw {params.name}"
        shell:
            "neuroprune figure {params.name:q} --study {params.study:q} > {log:q} 2>&1"


for table, section in TABLES.items():

    rule:
        name:
            table
        input:
            shown(table),
        output:
            multiext(f"<study>/tables/{table}", ".csv", ".md", ".tex"),
            report(
                f"<study>/tables/{table}.html",
                category=section,
                caption=f"../report/{table}.rst",
                labels={"figure or table": table},
            ),
        log:
            f"<study>/logs/{table}.log",
        conda:
            "../../environment.yml"
        params:
            name=table,
            study=subpath(output[0], ancestor=2),
        message:
            "Write the table {params.name}"
        shell:
            "neuroprune table {params.name:q} --study {params.study:q} > {log:q} 2>&1"


onstart:
    if not PLAN.study.from_results:
        for sentence in too_many_threads(PLAN, available_cores()):
            if on_this_machine():
                print(sentence, file=sys.stderr)
        progress = Progress(Path(FOLDER), PLAN.runs)
        if told := repeated(Path(FOLDER), progress.unfinished):
            print(told, file=sys.stderr)
        watch(
            progress,
            lambda line: print(line, file=sys.stderr, flush=True),
        )


# NEUROPRUNE_REPORT= (empty) in the environment disables the report.
onsuccess:
    if Path(FOLDER, "runs.csv").exists():
        print(
            f"All runs: {FOLDER}/runs.csv   Figures: {FOLDER}/figures   Tables: {FOLDER}/tables"
        )
    print(*headline(Path(FOLDER)), sep="\n")
    command = report_command(
        Path(workflow.main_snakefile),
        Path(FOLDER),
        STUDY_FILES if workflow.overwrite_configfiles else [],
        workflow.config_settings.config,
    )
    if told := make_report(command, FIGURE_FILES + TABLE_FILES):
        print(told)


onerror:
    if not PLAN.study.from_results:
        print(
            f"To list finished and missing runs: neuroprune collect --study {FOLDER}"
        )
