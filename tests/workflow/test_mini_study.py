"""The real workflow on a tiny study: results, reruns, and redrawing from records only."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Value

from neuroprune.cli import main
from neuroprune.files.atomic import file_hash
from neuroprune.results.figures import FIGURES
from neuroprune.results.records import read_record, read_timing
from neuroprune.results.tables import TABLES

MINI = Path(__file__).with_name("mini.yaml")
ROOT = MINI.parents[2]
DENSE, NEUROPRUNE, L1 = "tiny-weather-dense-s0", "tiny-weather-neuroprune-50-s0", "tiny-weather-l1-50-s0"
WORDS = (["rain", "storm", "snow", "hail"], ["sun", "warm", "clear", "bright"])
FILLERS = ["the", "day", "was", "with", "and", "again", "over", "town"]
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: train-*}
  - {split: validation, path: validation-*}
---
"""


def write_weather(root, seed=0):
    """A dataset in the hub's layout, with the labels bad and good: two words of each sentence tell which."""
    folder = root / "tests" / "weather"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    draw = random.Random(seed)
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    for split, rows in (("train", 240), ("validation", 80)):
        labels = [row % 2 for row in range(rows)]
        sentences = [" ".join(draw.choices(FILLERS, k=5) + draw.choices(WORDS[label], k=2)) for label in labels]
        dataset = Dataset.from_dict({"sentence": sentences, "label": labels}, features=features)
        dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def finished(snakemake, tmp_path_factory):
    """A folder with the finished mini study; read-only."""
    folder = tmp_path_factory.mktemp("mini")
    write_weather(folder / "data")
    done = snakemake(folder, "--cores", "2", "--configfile", MINI)
    assert done.code == 0, done.out + done.err
    assert (done.jobs["train"], done.jobs["measure"]) == (3, 2)
    assert "All runs: results/mini/runs.csv" in done.out
    return folder


@pytest.fixture
def own_copy(finished, tmp_path):
    """A modifiable copy of that folder, including modification times."""
    return Path(shutil.copytree(finished, tmp_path / "mini"))


def study_file(folder, edit):
    """The mini study, edited, as a file in the folder."""
    study = yaml.safe_load(MINI.read_text())
    edit(study)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=True))
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_mini_study_measures_what_was_asked(finished):
    runs = finished / "results" / "mini" / "runs"
    records = {name: read_record(runs / name / "run.json") for name in (DENSE, NEUROPRUNE, L1)}
    assert {record.status for record in records.values()} == {"done"}
    dense, pruned, l1 = (records[name].result for name in (DENSE, NEUROPRUNE, L1))
    assert dense.sparsity.weights == 0 and dense.sparsity.parameters == dense.sparsity.dense_parameters
    assert pruned.sparsity.weights == pytest.approx(0.5, abs=1e-3)
    assert l1.sparsity.weights == pytest.approx(0.5, abs=1e-3)
    assert pruned.sparsity.parameters < pruned.sparsity.dense_parameters == dense.sparsity.parameters
    for result in (dense, pruned, l1):
        assert (result.majority, result.labels) == (0.5, ["bad", "good"])
        assert (result.train_rows, result.eval_rows, result.steps) == (240, 80, 60)
        assert result.value > 0.9  # the two words tell the class
        assert 0 < result.eval_seconds < result.train_seconds


def test_every_cut_model_is_timed_beside_the_dense_one(finished):
    runs = finished / "results" / "mini" / "runs"
    for timing in (read_timing(runs / run / "timing.json") for run in (NEUROPRUNE, L1)):
        assert [(batch.batch_size, batch.examples) for batch in timing.batches] == [(1, 16), (8, 16)]
        assert all(batch.ms_per_example.median > 0 < batch.dense_ms_per_example.median for batch in timing.batches)
    assert not (runs / DENSE / "timing.json").exists()
    times = {row["run"]: float(row["inference_ms_b8"]) for row in rows_of(finished / "results" / "mini" / "runs.csv")}
    assert all(time > 0 for time in times.values()) and set(times) == {DENSE, NEUROPRUNE, L1}


def test_of_a_run_little_stays(finished):
    for run in (DENSE, NEUROPRUNE, L1):
        folder = finished / "results" / "mini" / "runs" / run
        assert not (folder / "model").exists() and not (folder / "checkpoints").exists()
        assert sum(path.stat().st_size for path in folder.iterdir()) < 1e6  # all that stays


def test_what_lies_beside_a_record_is_what_the_record_names(finished):
    for path in (finished / "results" / "mini" / "runs").glob("*/run.json"):
        files = read_record(path).result.files
        assert files and all(file_hash(path.with_name(name)) == digest for name, digest in files.items())


def test_a_run_of_the_study_is_the_run_of_a_command_alone(finished, tmp_path):
    study = finished / "results" / "mini"
    settings = json.loads((study / "plan.json").read_text())["runs"][NEUROPRUNE]
    words = ["train", "--settings", json.dumps(settings), "--data-root", str(finished / "data")]
    command = [sys.executable, "-m", "neuroprune.cli", *words, "--output", str(tmp_path / "run" / "run.json")]
    subprocess.run(command, check=True, cwd=finished, env=os.environ | {"PYTHONPATH": str(ROOT)})
    alone, planned = (
        read_record(path).result for path in (tmp_path / "run" / "run.json", study / "runs" / NEUROPRUNE / "run.json")
    )
    assert alone.files == planned.files  # hashes of arrays of the trained weights
    assert alone.metrics == planned.metrics


def test_all_figures_and_tables_are_there_in_all_formats(finished):
    study = finished / "results" / "mini"
    wanted = [study / "figures" / f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png", "svg", "csv")]
    wanted += [study / "tables" / f"{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex", "html")]
    assert [path for path in wanted if not path.exists() or path.stat().st_size == 0] == []
    rows = rows_of(study / "runs.csv")
    assert [row["run"] for row in rows] == [DENSE, NEUROPRUNE, L1]
    assert [row["model_random"] for row in rows] == ["True"] * 3
    plan = json.loads((study / "plan.json").read_text())
    assert list(plan["runs"]) == [DENSE, NEUROPRUNE, L1]
    assert plan["timed"] == [NEUROPRUNE, L1]


def test_a_second_call_has_nothing_to_do(snakemake, finished):
    done = snakemake(finished, "--cores", "2", "--configfile", MINI)
    assert done.code == 0
    assert "Nothing to be done" in done.out + done.err
    assert done.jobs == {}


def test_a_complete_study_ends_with_its_report_as_it_was_configured(snakemake, own_copy):
    shutil.move(own_copy / "results", own_copy / "elsewhere")
    words = ["--cores", "2", "--configfile", MINI, "--config", "results=elsewhere", "from_results=true"]
    done = snakemake(own_copy, *words, "--forcerun", "summary", NEUROPRUNE_REPORT="1")
    assert done.code == 0, done.out + done.err
    assert "The report: elsewhere/mini/report.html" in done.out
    page = (own_copy / "elsewhere" / "mini" / "report.html").read_text()
    assert "Metric against the measured times" in page  # the picture of the first page
    assert "NeuroPrune" in page and all(name in page for name in (*FIGURES, *TABLES))


def test_how_often_checkpoints_are_written_redoes_nothing(snakemake, own_copy):
    words = ["--dry-run", "--configfile", MINI, "--config", "checkpoint_minutes=1"]
    done = snakemake(own_copy, *words)
    assert "Nothing to be done" in done.out + done.err


def test_a_study_written_in_another_order_trains_nothing(snakemake, own_copy):
    study = study_file(own_copy, lambda study: None)  # keys sorted
    assert study.read_text() != MINI.read_text()
    done = snakemake(own_copy, "--dry-run", "--configfile", study)
    assert done.code == 0 and not {"train", "measure", "prepare_data", "prepare_model"} & set(done.jobs)


def test_a_new_seed_means_new_runs_and_no_old_ones(snakemake, own_copy):
    done = snakemake(own_copy, "--dry-run", "--configfile", MINI, "--config", "seeds=[0, 1]")
    assert (done.jobs["train"], done.jobs["measure"]) == (3, 2)
    trained = [line.split()[-1] for line in done.out.splitlines() if ": Train " in line]
    assert sorted(trained) == sorted(name.replace("-s0", "-s1") for name in (DENSE, NEUROPRUNE, L1))


def test_one_changed_value_trains_only_the_run_that_it_concerns(snakemake, own_copy):
    runs = own_copy / "results" / "mini" / "runs"
    before = {path: path.read_bytes() for path in runs.glob("*/*.json")}
    study = study_file(own_copy, lambda study: study["experiments"]["sweep"]["methods"][1].update(ridge=0.02))
    done = snakemake(own_copy, "summary", "--cores", "2", "--configfile", study)
    assert done.code == 0, done.out + done.err
    assert done.jobs == {"plan": 1, "train": 1, "measure": 1, "collect": 1, "summary": 1}
    changed = {path.parent.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {NEUROPRUNE}
    assert read_record(runs / NEUROPRUNE / "run.json").settings.method.ridge == 0.02
    assert len(rows_of(own_copy / "results" / "mini" / "runs.csv")) == 3


def test_one_changed_value_is_noticed_in_results_that_were_moved(snakemake, finished, tmp_path):
    for name in ("data", "results"):  # without .snakemake
        shutil.copytree(finished / name, tmp_path / name)
    same = snakemake(tmp_path, "--dry-run", "--configfile", MINI)
    assert "Nothing to be done" in same.out + same.err
    study = study_file(tmp_path, lambda study: study["experiments"]["sweep"]["methods"][1].update(ridge=0.02))
    done = snakemake(tmp_path, "summary", "--cores", "2", "--configfile", study)
    assert done.code == 0, done.out + done.err
    assert done.jobs == {"plan": 1, "train": 1, "measure": 1, "collect": 1, "summary": 1}
    assert "1 run has a record that does not count and will be repeated: 1 made with other settings." in done.err
    assert f"3 of 3 runs: {NEUROPRUNE}, accuracy " in done.err  # the progress
    plan = json.loads((tmp_path / "results/mini/plan.json").read_text())
    record = read_record(tmp_path / "results/mini/runs" / NEUROPRUNE / "run.json")
    assert plan["runs"][NEUROPRUNE]["method"]["ridge"] == record.settings.method.ridge == 0.02
    again = snakemake(tmp_path, "summary", "--dry-run", "--configfile", study)
    assert "Nothing to be done" in again.out + again.err


def test_a_study_under_way_has_its_table_too(own_copy, capsys):
    study = own_copy / "results" / "mini"
    shutil.rmtree(study / "runs" / L1)
    (study / "runs" / NEUROPRUNE / "timing.json").unlink()
    (study / "runs.csv").unlink()
    assert main(["collect", "--study", str(study)]) == 0
    assert [row["run"] for row in rows_of(study / "runs.csv")] == [DENSE, NEUROPRUNE]
    said = capsys.readouterr().out.splitlines()
    assert f"1 of 3 runs without a readable record: {L1}." in said
    assert f"1 of 3 runs not timed: {NEUROPRUNE}." in said
    assert main(["table", "summary", "--study", str(study)]) == 0
    assert len(rows_of(study / "tables" / "summary.csv")) == 2


def test_figures_and_tables_come_from_records_alone(snakemake, finished, tmp_path):
    old, new = finished / "results" / "mini", tmp_path / "published" / "mini"
    kinds = ("run.json", "timing.json", "degrees.safetensors", "patterns.safetensors", "predictions.safetensors")
    shutil.copytree(
        old, new, ignore=lambda folder, names: [n for n in names if "." in n and n not in (*kinds, "plan.json")]
    )
    words = ["figure4", "summary", "--forceall", "--cores", "2", "--configfile", MINI]
    done = snakemake(tmp_path, *words, "--config", "from_results=True", "results=published")
    assert done.code == 0, done.out + done.err
    assert done.jobs == {"collect": 1, "figure4": 1, "summary": 1}
    for name in ("runs.csv", "figures/figure4.csv", "tables/summary.csv"):
        assert (new / name).read_text() == (old / name).read_text()


def test_a_job_that_fails_says_why_and_leaves_nothing_half_written(snakemake, tmp_path):
    done = snakemake(tmp_path, "results/mini/data/weather.json", "--cores", "1", "--configfile", MINI)
    assert done.code == 1
    sentence = "task weather: dataset tests/weather is not at data/tests/weather and can't be had from the hub"
    assert sentence in done.out + done.err
    assert not (tmp_path / "results" / "mini" / "data").exists() or not any((tmp_path / "results/mini/data").iterdir())
