"""Timing: alternating passes, correct statistics, and a real cut model timed with its dense counterpart."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from helpers import results
from helpers.data import glue_rows, write_glue
from neuroprune import tasks
from neuroprune.config.settings import ModelSettings, RunSettings, TaskSettings, TimingSettings
from neuroprune.config.training import TrainingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json
from neuroprune.methods.components import latency
from neuroprune.models import pretrained, sources
from neuroprune.models.sources import train_tokenizer
from neuroprune.pruning.surgery import remove
from neuroprune.results.records import read_timing
from neuroprune.tasks.class_head import ClassHead
from neuroprune.training import inference_time

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
TASK = TaskSettings(name="sst2", source="nyu-mll/glue", config="sst2", inputs=("sentence",), max_length=32)


class Clock:
    """A clock that is advanced only by the timed functions."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def function(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds.pop(0) if isinstance(seconds, list) else seconds

        return run

    def read(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_functions_take_turns_and_warm_up_does_not_count(clock):
    functions = {"a": clock.function("a", [9.0, 1.0, 2.0]), "b": clock.function("b", [7.0, 3.0, 4.0])}
    found = latency.interleave(functions, repeats=2, warmup=1, sync=lambda: None, clock=clock.read)
    assert found == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert clock.calls == list("ababab")


def test_the_device_is_waited_for_before_each_look_at_the_clock(clock):
    queued = clock.function("work", 5.0)
    waiting = []

    def sync():
        while waiting:
            waiting.pop()()

    found = latency.interleave({"a": lambda: waiting.append(queued)}, repeats=3, warmup=0, sync=sync, clock=clock.read)
    assert found == {"a": [5.0] * 3}


def test_the_usual_precision_changes_no_older_settings():
    assert "precision" not in TimingSettings().model_dump() | TimingSettings(precision="fp32").model_dump()
    assert TimingSettings(precision="bf16").model_dump()["precision"] == "bf16"
    assert inference_time.use_bf16("bf16") and not inference_time.use_bf16("fp32")
    assert inference_time.use_bf16("auto") == (torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def test_quartiles():
    found = inference_time.quartiles(np.array([4.0, 1.0, 3.0, 2.0, 5.0]))
    assert (found.q1, found.median, found.q3) == (2.0, 3.0, 4.0)
    assert inference_time.quartiles(np.array([7.0])).q1 == 7.0


def test_the_speed_up_is_a_ratio_of_neighbouring_passes(monkeypatch):
    """A temporary tenfold slowdown of the machine changes the times but not the speed-up."""
    seconds = {"cut": [0.1, 1.0, 0.1], "dense": [0.4, 4.0, 0.4]}
    monkeypatch.setattr(inference_time, "interleave", lambda *_: seconds)
    found = inference_time.time_batch_size({"cut": None, "dense": None}, [], 32, 100, TimingSettings())
    assert (found.ms_per_example.median, found.ms_per_example.q3) == pytest.approx((1.0, 5.5))
    assert (found.speedup.q1, found.speedup.median, found.speedup.q3) == pytest.approx((4, 4, 4))


def test_every_model_reads_all_batches_in_warm_up_and_measured_passes():
    read = []
    pair = {name: lambda row, name=name: read.append((name, row)) for name in ("cut", "dense")}
    asked = TimingSettings(repeats=3, warmup=2)
    inference_time.time_batch_size(pair, [{"row": 0}, {"row": 1}], 1, 2, asked)
    assert read == [("cut", 0), ("cut", 1), ("dense", 0), ("dense", 1)] * 5


def test_batches_are_sorted_by_length_and_hold_every_row_once():
    tokenizer = train_tokenizer([row["sentence"] for row in glue_rows("sst2", 50)], 60)
    texts = ["a film", "a very long dull story of a film", "warm", "not a great film", "the story is dull"]
    rows = Dataset.from_dict({"sentence": texts, "label": [0, 1, 1, 0, 0]})
    head = ClassHead(TASK, tokenizer)
    encoded = head.encode(rows)
    batches = inference_time.batch_rows(encoded, head.question, 2, torch.device("cpu"))
    assert [batch["input_ids"].shape[0] for batch in batches] == [2, 2, 1]
    lengths = [int(length) for batch in batches for length in batch["attention_mask"].sum(1)]
    assert lengths == sorted(len(ids) for ids in encoded["input_ids"])
    assert all(batch["input_ids"].shape[1] == batch["attention_mask"].sum(1).max() for batch in batches)
    assert "labels" not in batches[0]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run whose model has lost heads and most of its neurons, and its data."""
    root = tmp_path_factory.mktemp("timing")
    data_root = write_glue(root / "data", "sst2", train=40, evaluated=24)
    settings = RunSettings(
        run="tiny-sst2-neuroprune-80-s0",
        model=ModelSettings(name="tiny", source="random:bert", config=SMALL),
        task=TASK,
        method={"name": "neuroprune", "sparsity": 0.8},
        training=TrainingSettings(),
        seed=0,
    )
    model, tokenizer = sources.load(settings.model, tasks.load(TASK, data_root), seed=0)
    remove(model, heads={0: [1, 2], 1: [0]}, neurons={0: range(16, 256), 1: range(8, 256)})
    folder = root / "runs" / settings.run
    write_json(folder / "run.json", results.record(settings))
    pretrained.save_pretrained(model, folder / "model", tokenizer)
    return SimpleNamespace(folder=folder, data_root=data_root, settings=settings, parameters=model.num_parameters())


def test_a_cut_model_is_timed_beside_the_dense_one(run_folder, tmp_path):
    threads = torch.get_num_threads()
    asked = TimingSettings(batch_sizes=(1, 8), examples=20, repeats=3, warmup=1)
    inference_time.measure(asked, run_folder.folder / "run.json", tmp_path / "timing.json", run_folder.data_root)
    found = read_timing(tmp_path / "timing.json")
    assert (found.run, found.settings) == (run_folder.settings.run, asked)
    assert found.parameters == run_folder.parameters < found.dense_parameters
    assert [(batch.batch_size, batch.examples) for batch in found.batches] == [(1, 20), (8, 20)]
    for batch in found.batches:
        for quartiles in (batch.ms_per_example, batch.dense_ms_per_example, batch.speedup):
            assert 0 < quartiles.q1 <= quartiles.median <= quartiles.q3
    assert (found.environment.threads, found.environment.data_sha256) == (1, "1" * 64)
    assert torch.get_num_threads() == threads
    assert [path.name for path in tmp_path.iterdir()] == ["timing.json"]


def test_no_more_rows_are_read_than_there_are(run_folder, tmp_path):
    asked = TimingSettings(batch_sizes=(16,), examples=1000, repeats=1, warmup=0)
    inference_time.measure(asked, run_folder.folder / "run.json", tmp_path / "timing.json", run_folder.data_root)
    assert read_timing(tmp_path / "timing.json").batches[0].examples == 24


@pytest.mark.parametrize("status", ["diverged", "stopped"])
def test_a_run_that_is_not_done_has_no_batches(run_folder, tmp_path, status, caplog):
    write_json(tmp_path / "run.json", results.record(run_folder.settings, status=status))
    inference_time.measure(TimingSettings(), tmp_path / "run.json", tmp_path / "timing.json", run_folder.data_root)
    assert read_timing(tmp_path / "timing.json").batches == []
    assert f"{run_folder.settings.run} is {status}: there is nothing to time" in caplog.text


def test_a_model_that_was_deleted_is_said(run_folder, tmp_path):
    write_json(tmp_path / "run.json", results.record(run_folder.settings))
    with pytest.raises(UserError, match="the run's model no longer exists; train tiny-sst2-neuroprune-80-s0 again"):
        inference_time.measure(TimingSettings(), tmp_path / "run.json", tmp_path / "timing.json", run_folder.data_root)
    assert not (tmp_path / "timing.json").exists()


def test_the_file_is_json_without_anything_else(run_folder, tmp_path):
    asked = TimingSettings(batch_sizes=(16,), examples=16, repeats=1, warmup=0)
    inference_time.measure(asked, run_folder.folder / "run.json", tmp_path / "timing.json", run_folder.data_root)
    data = json.loads((tmp_path / "timing.json").read_text())
    assert list(data) == [
        "schema_version",
        "run",
        "settings",
        "environment",
        "dense_parameters",
        "parameters",
        "batches",
    ]
