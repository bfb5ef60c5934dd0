"""`neuroprune prune`: a small model without code, or an error message with the option to correct."""

import json

import pytest
import transformers
import yaml
from safetensors.torch import load_file
from test_run import BERT, TASK

import neuroprune
from helpers.data import write_glue
from helpers.models import make_model
from neuroprune.cli import main
from neuroprune.config.settings import ModelSettings, TaskSettings
from neuroprune.config.training import TrainingSettings
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.results.records import read_record
from neuroprune.training import checkpoints, run
from neuroprune.training.prune import Request, run_settings

TASK_ROW = {key: value for key, value in TASK.items() if key != "name"} | {"training": {"epochs": 2, "batch_size": 8}}


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """A folder with a catalogue and data, where the command is run."""
    write_glue(tmp_path / "resources" / "data", "sst2", train=60, evaluated=24)
    (tmp_path / "config" / "tasks").mkdir(parents=True)
    (tmp_path / "config" / "models.yaml").write_text(
        yaml.safe_dump({"tiny": {"source": "random:bert", "config": BERT}})
    )
    (tmp_path / "config" / "tasks" / "sst2.yaml").write_text(yaml.safe_dump(TASK_ROW))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(**changes):
    options = {"model": "tiny", "task": "sst2", "sparsity": 0.5, "out": "small"} | changes
    return ["prune", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def test_a_row_becomes_a_small_model_with_its_card_and_record(at_home, capsys):
    assert main(words()) == 0
    shown = capsys.readouterr().out
    assert "small: accuracy 0." in shown and "50.0% of the weights" in shown
    model = neuroprune.from_pretrained("small")
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)
    record = json.loads((at_home / "small" / "run.json").read_text())
    assert record["settings"]["training"]["epochs"] == 2
    card = (at_home / "small" / "README.md").read_text()
    assert f"| accuracy | {record['result']['value']:.4g} |" in card and "# tiny-sst2-neuroprune-50-s0" in card
    answer = transformers.pipeline("text-classification", model="small", device="cpu")("a great film")[0]
    assert answer["label"] in {"negative", "positive"}
    assert sorted(path.name for path in at_home.iterdir()) == ["config", "resources", "small"]


def test_a_folder_can_be_pruned_again_on_a_task_of_ones_own(at_home, capsys):
    assert main(words(out="a", epochs=1)) == 0
    (at_home / "mine.yaml").write_text(yaml.safe_dump(TASK_ROW))
    assert main(words(model="a", task="mine.yaml", out="b/c", sparsity=0.8, epochs=1, seed=3)) == 0
    assert measure_sparsity(neuroprune.from_pretrained("b/c")).weights == pytest.approx(0.8, abs=1e-3)
    assert "fine-tuned on mine (nyu-mll/glue)" in (at_home / "b" / "c" / "README.md").read_text()


@pytest.mark.parametrize("out", [".", "../link"])
def test_an_empty_folder_is_filled_wherever_it_is(out, at_home, monkeypatch, capsys):
    """The current folder, a link, or a mount, which cannot be replaced by moving a folder."""
    (at_home / "here" / ".here-left").mkdir(parents=True)  # by an earlier start that was killed
    (at_home / "link").symlink_to("here")
    monkeypatch.chdir(at_home / "here")
    places = {"catalogue": at_home / "config", "data-root": at_home / "resources" / "data"}
    assert main(words(out=out, epochs=1, **places)) == 0
    assert measure_sparsity(neuroprune.from_pretrained(at_home / "here")).weights == pytest.approx(0.5, abs=1e-3)
    assert (at_home / "link").is_symlink()
    assert [path.name for path in (at_home / "here").iterdir() if path.name.startswith(".")] == [".here-left"]
    assert (at_home / "here" / "run.json").exists()


def test_a_place_that_cannot_be_written_is_told_before_training(at_home, monkeypatch, capsys):
    monkeypatch.setattr(run, "train", lambda *_: pytest.fail("it was trained"))
    (at_home / "file").write_text("")
    (at_home / "loop").symlink_to("loop")
    for out in ("file/small", "loop", "/proc/small"):
        assert main(words(out=out)) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"--out: {out} can't be written (") and error.endswith("; give another folder.\n")


def test_a_model_that_cannot_take_its_place_is_kept(at_home, monkeypatch, capsys):
    train = run.train

    def and_meanwhile(*arguments):
        train(*arguments)
        (at_home / "small").mkdir()
        (at_home / "small" / "notes.txt").write_text("mine")

    monkeypatch.setattr(run, "train", and_meanwhile)
    assert main(words(epochs=1)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("--out: the model is made, but small can't be written (Directory not empty)")
    kept = error.split("kept in ")[1].rstrip(".")
    assert measure_sparsity(neuroprune.from_pretrained(kept)).weights == pytest.approx(0.5, abs=1e-3)
    assert [path.name for path in (at_home / "small").iterdir()] == ["notes.txt"]


def test_options_lie_over_rows_and_rows_over_defaults(at_home):
    settings = run_settings(Request("org/some-model", "sst2", 0.8, 0, at_home / "config", {"epochs": 5.0}))
    assert settings.model.source == "org/some-model" and settings.run == "some_model-sst2-neuroprune-80-s0"
    assert (settings.training.epochs, settings.training.batch_size) == (5.0, 8)


def test_a_file_or_folder_named_like_a_row_of_the_catalogue_takes_nothing_from_it(at_home):
    """Nor does a hub id; the run has the short name all the same."""
    row = {"source": "random:bert", "config": BERT, "layers": 1, "training": {"accumulation": 4}}
    (at_home / "config" / "models.yaml").write_text(yaml.safe_dump({"tiny": row}))
    (at_home / "mine").mkdir()
    (at_home / "mine" / "sst2.yaml").write_text(yaml.safe_dump({"source": "demo", "inputs": ["text"]}))
    for model in ("mine/tiny", "org/tiny"):
        made = run_settings(Request(model, "mine/sst2.yaml", 0.5, 0, at_home / "config", trim_vocabulary=True))
        assert made.run == "tiny-sst2-neuroprune-50-s0"
        assert made.model == ModelSettings(name="tiny", source=model, trim_vocabulary=True)
        assert made.task == TaskSettings(name="sst2", source="demo", inputs=("text",))
        assert made.training == TrainingSettings()
    made = run_settings(Request("tiny", "sst2", 0.5, 0, at_home / "config", trim_vocabulary=True))
    assert (made.model.layers, made.model.trim_vocabulary, made.training.accumulation) == (1, True, 4)
    assert made.task.config == TASK_ROW["config"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sparsity": 2}, "--sparsity: 2.0 is not allowed; it must be greater than 0 and less than 1"),
        ({"task": "sst3"}, "--task: there is no task 'sst3' in config/tasks (did you mean 'sst2'?); known: sst2; or"),
        ({"task": "no.yaml"}, "no.yaml: the file cannot be read: No such file or directory"),
        ({"epochs": 0}, "--epochs: 0.0 is not allowed; it must be greater than 0"),
        ({"batch_size": 0}, "--batch-size: 0 is not allowed"),
        ({"budget": "dense"}, "--budget: 'dense' is not allowed (did you mean 'dense_flops'?); allowed: 'epochs' or"),
        ({"seed": -1}, "--seed: -1 is not allowed"),
        ({"model": "random:brt"}, "--model: "),
        ({"model": "not a name!"}, "model not_a_name_: 'not a name!' is neither a folder nor a hub id"),
        ({"model": "."}, "--model: there is no config.json in the folder '.'; change the source"),
        ({"model": "/"}, "--model: there is no config.json in the folder '/'; change the source"),
        ({"out": "config"}, "--out: config is not empty; give a new folder"),
        ({"catalogue": "nowhere"}, "--task: the task 'sst2' can't be looked up, because"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(changes, sentence, at_home, capsys):
    before = sorted(at_home.rglob("*.json"))
    changes = {name.replace("_", "-"): value for name, value in changes.items()}
    assert main(words(**changes)) == 1
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].startswith(sentence), error
    assert "is not allowed" not in "".join(error.splitlines()[:-1])
    assert sorted(at_home.rglob("*.json")) == before and not (at_home / "small").exists()


def test_a_task_file_with_another_name_is_one_sentence(at_home, capsys):
    (at_home / "mine.yaml").write_text(yaml.safe_dump(TASK_ROW | {"name": "yours"}))
    assert main(words(task="mine.yaml")) == 1
    assert capsys.readouterr().err.strip() == "--task.name must be 'mine', the same as its key; leave it out"


def test_a_task_file_checks_the_number_of_rows(at_home, capsys):
    (at_home / "mine.yaml").write_text(yaml.safe_dump(TASK_ROW | {"expected_rows": 61}))
    assert main(words(task="mine.yaml")) == 1
    assert "has 60 rows, but expected_rows is 61" in capsys.readouterr().err


def test_a_task_file_without_a_source_is_one_sentence(at_home, capsys):
    for name in ("mine.yaml", "sst2.yaml"):  # with and without a row of this name
        (at_home / name).write_text(yaml.safe_dump({"inputs": ["text"]}))
        assert main(words(task=name)) == 1
        assert capsys.readouterr().err.startswith("--task.source: this key is missing (A hub id")


def test_a_model_without_a_tokenizer_is_told_before_training(at_home, monkeypatch, capsys):
    monkeypatch.setattr(run, "_fit", lambda *_: pytest.fail("it was trained"))
    make_model("bert").save_pretrained("bare")
    assert main(words(model="bare")) == 1
    said = capsys.readouterr().err
    assert "model bare: bare has no tokenizer; save it with the model: save_pretrained(model, folder" in said
    assert not (at_home / "small").exists()


def test_a_length_without_room_for_text_is_told_before_training(at_home, monkeypatch, capsys):
    monkeypatch.setattr(run, "_fit", lambda *_: pytest.fail("it was trained"))
    (at_home / "mine.yaml").write_text(yaml.safe_dump(TASK_ROW | {"max_length": 2}))
    assert main(words(task="mine.yaml")) == 1
    assert "task mine: max_length is 2, which leaves no room for text" in capsys.readouterr().err
    assert not (at_home / "small").exists()


def test_a_loss_that_diverges_is_told_and_leaves_nothing(at_home, capsys):
    assert main([*words(), "--learning-rate", "1e30", "--epochs", "8"]) == 1
    assert "the loss is no longer finite; try a smaller --learning-rate" in capsys.readouterr().err
    assert sorted(path.name for path in at_home.iterdir()) == ["config", "resources"]


def test_a_model_can_cost_as_much_as_dense_fine_tuning(at_home, capsys):
    steps = {}
    for budget in ("epochs", "dense_flops"):
        assert main(words(out=budget, epochs=3, sparsity=0.8, budget=budget)) == 0
        steps[budget] = read_record(at_home / budget / "run.json").result.steps
    assert steps["dense_flops"] > 1.3 * steps["epochs"]


def test_the_vocabulary_is_trimmed_to_the_task(at_home, capsys):
    assert main(words(out="whole", epochs=1)) == 0
    assert main([*words(out="trimmed", epochs=1, model="whole"), "--trim-vocabulary"]) == 0
    whole, trimmed = neuroprune.from_pretrained("whole"), neuroprune.from_pretrained("trimmed")
    assert trimmed.config.vocab_size <= whole.config.vocab_size
    settings = json.loads((at_home / "trimmed" / "run.json").read_text())["settings"]
    assert settings["model"]["trim_vocabulary"] is True
    assert "trim_vocabulary" not in json.loads((at_home / "whole" / "run.json").read_text())["settings"]["model"]
    tokenizer = transformers.AutoTokenizer.from_pretrained("trimmed")
    assert len(tokenizer) == trimmed.config.vocab_size
    assert transformers.pipeline("text-classification", model="trimmed", device="cpu")("a great film")[0]["label"]


@pytest.mark.parametrize(
    ("method", "budget"), [("neuroprune", "epochs"), ("taylor", "epochs"), ("neuroprune", "dense_flops")]
)
def test_a_family_has_the_weights_of_its_members_alone(method, budget, at_home, capsys):
    options = ["--method", method, "--budget", budget]
    assert main([*words(out="alone", sparsity=0.8), *options]) == 0
    assert main([*words()[:5], *options, "--out", "family", "--sparsity", "0.5", "0.8"]) == 0
    shown = capsys.readouterr().out
    assert f"tiny-sst2-{method}-50-s0" in shown and "frontier.png" in shown
    folder, name = at_home / "family", f"runs/tiny-sst2-{method}-80-s0"
    alone, member = (load_file(place / "model.safetensors") for place in (at_home / "alone", folder / name / "model"))
    assert alone.keys() == member.keys() and all(value.equal(member[key]) for key, value in alone.items())
    record, other = (json.loads((place / "run.json").read_text()) for place in (folder / name, at_home / "alone"))
    for key in ("value", "metrics", "sparsity", "steps"):
        assert record["result"][key] == other["result"][key]
    assert record["result"]["method"] == other["result"]["method"] and other["settings"]["method"]["name"] == method
    assert record["result"]["resumed_at"] == [4] and other["result"]["resumed_at"] == []  # 16 steps, a third is 5
    for made in ("runs.csv", "tables/summary.md", "figures/frontier.png"):
        assert (folder / made).is_file()
    assert not list(folder.glob(".*")) and not list(folder.glob("runs/*/checkpoints"))


def test_a_family_whose_first_removal_follows_the_first_step_shares_nothing(at_home, monkeypatch):
    monkeypatch.setattr(checkpoints, "event_steps", lambda *_: [1, 2])
    assert main([*words(out="family")[:-4], "--out", "family", "--sparsity", "0.5", "0.8"]) == 0
    records = [json.loads(path.read_text()) for path in sorted((at_home / "family").glob("runs/*/run.json"))]
    assert [record["result"]["resumed_at"] for record in records] == [[], []]


@pytest.mark.parametrize("shares", [("0.5", "1.5"), ("0.5", "0.5")])
def test_sparsities_that_are_no_family_are_one_sentence(shares, at_home, capsys):
    assert main([*words(out="family")[:-4], "--out", "family", "--sparsity", *shares]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("--sparsity"), said
