"""The command line: fast start, sentences instead of tracebacks, complete files or none."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neuroprune
from neuroprune import cli, subcommands
from neuroprune.cli import main
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.jobs import count_by_rule
from neuroprune.config.study import StudySettings
from neuroprune.errors import UserError

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "config" / "config.yaml"
HEAVY = ("torch", "transformers", "datasets", "pandas", "matplotlib", "snakemake")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["prune", "--help"],
        ["export", "--help"],
        ["plan"],
        ["plan", "--json"],
        ["schema", "--check"],
    ],
)
def test_quick_commands_load_nothing_heavy(words):
    code = f"""
import sys
from neuroprune.cli import main
try:
    main({words})
except SystemExit:
    pass
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"neuroprune {neuroprune.__version__}\n"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in (
        "plan",
        "prepare-data",
        "prepare-model",
        "train",
        "measure",
        "train-job",
        "measure-job",
        "collect",
        "figure",
        "table",
        "prune",
        "export",
        "schema",
    ):
        assert name in text


def test_plan_prints_what_will_be_run(capsys):
    assert main(["plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(["plan"]) == 0
    text = capsys.readouterr().out
    assert f"{len(plan['runs'])} runs, results in results/demo" in text
    jobs = count_by_rule(make_plan(read_study([DEMO]), "demo", ROOT / "config"))
    assert ", ".join(f"{count} {rule}" for rule, count in jobs.items()) in text
    assert all(f"\n{run} " in text for run in plan["runs"])
    assert main(["plan", "--folder"]) == 0
    assert capsys.readouterr().out == "results/demo\n"


def test_the_plan_of_a_large_study_fits_on_a_few_screens(capsys):
    assert main(["plan", "--config", "config/paper.yaml"]) == 0
    text = capsys.readouterr().out
    made = make_plan(read_study([ROOT / "config" / "paper.yaml"]), "paper", ROOT / "config")
    first, *_, last = made.runs
    assert f"\n{first} " in text and f"\n{last} " not in text
    assert f"… and {len(made.runs) - 100:,} more runs: --json prints all" in text
    assert len(text.splitlines()) < 350
    assert text.index("more runs") < text.index("Study paper: ") < text.index("Before the first job: opt_125m")


def test_plan_is_the_same_from_a_file_and_from_its_own_settings(tmp_path):
    assert main(["plan", "--output", str(tmp_path / "a" / "plan.json")]) == 0
    first = json.loads((tmp_path / "a" / "plan.json").read_text())
    assert main(["plan", "--settings", json.dumps(first["settings"]), "--output", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text()) == first


def test_later_files_of_a_study_lie_over_earlier_ones(tmp_path, capsys):
    (tmp_path / "seeds.yaml").write_text("seeds: [7]\nstudy: other\n")
    assert main(["plan", "--json", "--config", str(DEMO), str(tmp_path / "seeds.yaml")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["study"] == "other" and plan["settings"]["seeds"] == [7]


def test_all_mistakes_of_a_study_go_to_standard_error_and_nothing_is_written(tmp_path, capsys):
    study = tmp_path / "x.yaml"
    study.write_text(
        "study: x\nsedes: [1]\n"
        "experiments: {a: {models: [minilm], tasks: [sst3], methods: [{name: l1, sparsity: 2}]}}\n"
    )
    assert main(["plan", "--config", str(study), "--output", str(tmp_path / "plan.json")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    keys = [line.split(": ")[1] for line in err.splitlines()]
    assert keys == ["experiments.a.tasks[0]", "experiments.a.methods[0].sparsity", "sedes"]
    assert all(line.startswith(f"{study}: ") for line in err.splitlines())
    assert list(tmp_path.iterdir()) == [study]


RUN = {
    "run": "a",
    "model": {"name": "m", "source": "random:bert"},
    "task": {"name": "t", "source": "a/b", "inputs": ["text"]},
    "method": {"name": "dense"},
    "training": {},
    "seed": 0,
}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--settings", "{", "--output", "run.json"], "--settings: not JSON: "),
        (["train", "--settings", "{}", "--output", "run.json"], "--settings: run: this key is missing"),
        (
            ["train", "--settings", json.dumps(RUN | {"method": {"name": "l2"}}), "--output", "run.json"],
            "--settings: method: unknown method 'l2'; known: dense, l1, neuroprune",
        ),
        (
            [
                "train",
                "--settings",
                json.dumps(RUN | {"method": {"name": "l1", "sparsity": 2}}),
                "--output",
                "run.json",
            ],
            "--settings: method.l1.sparsity: 2 is not allowed; it must be greater than 0 and less than 1",
        ),
        (
            ["train", "--settings", json.dumps(RUN | {"seed": 2**32}), "--output", "run.json"],
            "--settings: seed: 4294967296 is not allowed; it must be at least 0 and at most 4,294,967,295",
        ),
        (["prepare-data", "--settings", '{"nme": 1}', "--output", "x.json"], "--settings: name: this key is missing"),
        (["measure", "--settings", '{"repeats": 0}', "--run", "r", "--output", "x"], "--settings: repeats: 0 is not"),
        (["plan", "--settings", "["], "--settings: not JSON: "),
        (["plan", "--settings", "[]"], "--settings: [] is not allowed; it must be a mapping of keys to values"),
        (["plan", "--config", "nowhere.yaml"], "nowhere.yaml: the file cannot be read: No such file or directory"),
        (["figure", "figure44", "--study", "nowhere"], "figure 'figure44': unknown (did you mean 'figure4'?)"),
        (["table", "sumary", "--study", "nowhere"], "table 'sumary': unknown (did you mean 'summary'?)"),
        (["collect", "--study", "nowhere"], "nowhere/runs: no run has a record"),
    ],
)
def test_a_mistake_is_a_sentence_and_code_1(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(sentence), err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert re.search(r"\btrain\b", capsys.readouterr().err)  # in quotes before Python 3.13


def test_a_reader_that_stops_early_sees_no_traceback():
    command = f"{sys.executable} -m neuroprune.cli plan --json | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "{\n" and done.stderr == ""


def test_schema_check_names_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["schema", "--check"]) == 1
    assert "config/schema.json, config/README.md: out of date; run `neuroprune schema`" in capsys.readouterr().err
    assert main(["schema"]) == 0 and main(["schema", "--check"]) == 0


def test_checkpoints_are_as_far_apart_as_asked_else_as_a_study_has_them():
    words = ["train", "--settings", "{}", "--output", "run.json"]
    asked = [*words, "--checkpoint-minutes", "0"]
    default = StudySettings.model_fields["checkpoint_minutes"].default
    assert [subcommands._checkpoint_minutes(cli.parser().parse_args(some)) for some in (words, asked)] == [default, 0]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_file_that_cannot_be_read_or_written_is_told_in_a_sentence(number, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "results/a/runs.csv")

    monkeypatch.setattr("neuroprune.results.collect.collect", refuse)
    assert main(["collect", "--study", "results/a"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"results/a/runs.csv: {os.strerror(number)}; ") and error.count("\n") == 1


def test_other_errors_of_the_system_keep_their_traceback(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error", "results/a/runs.csv")

    monkeypatch.setattr("neuroprune.results.collect.collect", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        main(["collect", "--study", "results/a"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "--settings", "[" * 5000], "--settings: not JSON: "),
        (["plan", "--settings", "5"], "--settings: 5 is not allowed"),
        (["plan", "--config", "."], ".: the file cannot be read: Is a directory"),
        (["prepare-data", "--output", "x", "--settings", "{" * 5000], "--settings: not JSON: "),
        (["prepare-data", "--output", "x", "--settings", "[" * 5000], "--settings: not JSON: "),
        (["verify", "--number", "0"], "--number: 0 is not allowed; it must be at least 1"),
        (["verify", "--number", "-1"], "--number: -1 is not allowed; it must be at least 1"),
        (["verify"], "results/published: no finished run"),
        (["collect", "--study", "file"], "file/runs: no run has a record"),
        (["merge", "file", "--study", "x"], "file: no run has a record"),
        (["table", "summary", "--study", "none"], "none/runs.csv: no table of runs"),
        (["export", "none", "--format", "onnx", "--out", "x"], "none contains no saved model"),
        (["measure", "--run", "none", "--output", "x"], "none: cannot be read"),
    ],
)  # fmt: skip
def test_arguments_that_name_nothing_are_refused_and_nothing_is_written(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(sentence) and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("minutes", ["nan", "-1"])
def test_checkpoints_at_odd_distances_are_refused(minutes):
    words = ["train", "--settings", "{}", "--output", "x", "--checkpoint-minutes", minutes]
    with pytest.raises(UserError, match=r"--checkpoint-minutes: .* must be at least 0"):
        subcommands._checkpoint_minutes(cli.parser().parse_args(words))
