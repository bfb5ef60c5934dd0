"""A killed run resumes from its last checkpoint and ends with the same weights, regardless of its shapes."""

import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from test_run import settings

from helpers.data import write_glue
from helpers.loops import make_run, make_trainer, take_step
from helpers.models import make_model
from neuroprune import methods
from neuroprune.errors import UserError
from neuroprune.methods import L1, CoFi, Dense, NeuroPrune
from neuroprune.methods.components.state_files import load_state, save_state
from neuroprune.models import pretrained
from neuroprune.pruning.sparsity import measure_sparsity
from neuroprune.results.records import read_record
from neuroprune.training import checkpoints, job
from neuroprune.training import run as training

METHODS = {
    "dense": Dense,
    "l1-target": lambda: L1(sparsity=0.613),
    "l1-penalty": lambda: L1(strength=0.3, mode="decoupled"),
    "neuroprune-target": lambda: NeuroPrune(sparsity=0.613, calibration_rows=8),
    "neuroprune-penalty": lambda: NeuroPrune(alpha=0.03, beta=0.3, theta=0.5, mode="decoupled"),
}
STEPS = 40  # events at 13, 17 and 20, the rate rises again in 21


# ---- one process: interruption at every stage of a run


def finish(method, run, name):
    while run.step < run.total_steps:
        take_step(method, run, name)
        if run.step % run.steps_per_epoch == 0:
            method.epoch_end(run)
    method.finish(run)
    return run.model.state_dict()


def stop_and_go_on(make_method, name, step, folder):
    """Train up to a step, save the state, load it into new objects and train to the end."""
    method, run = make_method(), make_run(make_model(name), STEPS)
    method.start(run)
    while run.step < step:
        take_step(method, run, name)
        if run.step % run.steps_per_epoch == 0:
            method.epoch_end(run)
    save_state(folder, method.state_dict())
    pretrained.save_pretrained(run.model, folder)
    torch.save([run.optimizer.state_dict(), run.scheduler.state_dict()], folder / "optimizer.pt")

    again, method = make_run(pretrained.from_pretrained(folder), STEPS), make_method()
    for part, state in zip((again.optimizer, again.scheduler), torch.load(folder / "optimizer.pt"), strict=True):
        part.load_state_dict(state)
    again.step = step
    method.resume(again, load_state(folder))
    return finish(method, again, name), method.report


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


@pytest.mark.parametrize("kind", METHODS)
def test_a_run_may_stop_after_any_step(kind, tmp_path):
    torch.manual_seed(0)
    method, run = METHODS[kind](), make_run(make_model("bert"), STEPS)
    method.start(run)
    whole = finish(method, run, "bert")
    for step in (11, 13, 17, 20, 21) if "target" in kind else (1, 20, 30):
        state, report = stop_and_go_on(METHODS[kind], "bert", step, tmp_path)
        assert_same(state, whole)
        assert report == method.report


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "t5"])
@pytest.mark.parametrize("kind", ["l1-target", "neuroprune-target"])
def test_so_it_is_for_fused_shared_and_encoder_decoder_attentions(kind, name, tmp_path):
    method, run = METHODS[kind](), make_run(make_model(name), STEPS)
    method.start(run)
    assert_same(stop_and_go_on(METHODS[kind], name, 16, tmp_path)[0], finish(method, run, name))


def test_a_trainer_of_ones_own_goes_on_too(tmp_path):
    """Two lines suffice: load the cut model from the checkpoint, and call train with `resume_from_checkpoint`."""

    def method():
        return NeuroPrune(sparsity=0.5, start=0.3, calibration_rows=12)

    arguments = {"folder": tmp_path, "save_strategy": "steps", "save_steps": 10, "seed": 1}
    whole = make_trainer(method(), make_model("bert"), **arguments)
    whole.train()  # 24 steps: events at 7, 10 and 12
    checkpoint, second = tmp_path / "checkpoint-10", method()
    again = make_trainer(second, pretrained.from_pretrained(checkpoint), **arguments)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert_same(again.model.state_dict(), whole.model.state_dict())
    assert [event["step"] for event in second.report["events"]] == [7, 10, 12]


@pytest.mark.parametrize("make", [lambda: NeuroPrune(heads=4, sparsity=0.5), lambda: L1(sparsity=0.5)])
@pytest.mark.parametrize("step", [12, 24])
def test_a_run_that_is_made_longer_keeps_its_plan(make, step, tmp_path):
    """Past events are not planned again, so the rate is raised only once; embeddings are unfrozen at the end."""
    first = make_trainer(make(), make_model("bert"), tmp_path, save_strategy="steps", save_steps=4)
    first.train()  # 24 steps: events at 8, 10 and 12
    checkpoint, method = tmp_path / f"checkpoint-{step}", make()
    model = pretrained.from_pretrained(checkpoint)
    longer = make_trainer(method, model, tmp_path, num_train_epochs=6)
    longer.train(resume_from_checkpoint=str(checkpoint))
    assert longer.state.global_step == 72
    assert [event["step"] for event in method.report["events"]] == [8, 10, 12]
    assert longer.lr_scheduler.base_lrs == pytest.approx(first.lr_scheduler.base_lrs)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert measure_sparsity(model).weights == pytest.approx(0.5, abs=1e-3)


def test_cofi_that_is_made_longer_keeps_its_stages(tmp_path):
    first = CoFi(sparsity=0.5, start=0.3, end=0.6)
    make_trainer(first, make_model("bert"), tmp_path, save_strategy="steps", save_steps=24).train()
    checkpoint, method = tmp_path / "checkpoint-24", CoFi(sparsity=0.5, start=0.3, end=0.6)
    longer = make_trainer(method, pretrained.from_pretrained(checkpoint), tmp_path, num_train_epochs=8)
    longer.train(resume_from_checkpoint=str(checkpoint))
    assert method.report["events"] == first.report["events"]


def test_a_state_that_is_not_found_or_is_anothers_is_told(tmp_path, caplog):
    arguments = {"save_strategy": "steps", "save_steps": 15}
    make_trainer(L1(sparsity=0.5), make_model("bert"), tmp_path / "a", **arguments).train()
    checkpoint = tmp_path / "a" / "checkpoint-15"
    for other, what in ((NeuroPrune(sparsity=0.5), "l1"), (L1(sparsity=0.6), "other settings")):
        trainer = make_trainer(other, pretrained.from_pretrained(checkpoint), tmp_path / "a")
        with pytest.raises(UserError, match=what):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    trainer = make_trainer(L1(sparsity=0.5), pretrained.from_pretrained(checkpoint), tmp_path / "b")
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert f"no method state in {tmp_path / 'b' / 'checkpoint-15'}" in caplog.text


def test_a_state_of_an_earlier_version_names_it_and_can_be_resumed_with_it(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 15}
    before = NeuroPrune(sparsity=0.5, calibration_rows=8, version=2)
    make_trainer(before, make_model("bert"), tmp_path, **arguments).train()
    checkpoint = tmp_path / "checkpoint-15"
    resumed = []
    for version in ({}, {"version": 2}):
        method = NeuroPrune(sparsity=0.5, calibration_rows=8, **version)
        resumed.append(make_trainer(method, pretrained.from_pretrained(checkpoint), tmp_path))
    with pytest.raises(
        UserError, match=r"of version 2 of neuroprune, not of version 4; resume with version=2, or train"
    ):
        resumed[0].train(resume_from_checkpoint=str(checkpoint))
    resumed[1].train(resume_from_checkpoint=str(checkpoint))
    assert resumed[1].state.global_step == 24


# ---- real kills

PENALTY = {"name": "neuroprune", "alpha": 0.03, "beta": 0.3, "theta": 0.5, "mode": "decoupled"}
TARGET = {"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16}
KILLS = {  # of 32 steps; events, if there are any, at 11, 13 and 16
    "dense": ({"name": "dense"}, (3,)),
    "l1": ({"name": "l1", "sparsity": 0.5}, (13, 22)),
    "l1-penalty": ({"name": "l1", "strength": 0.3, "mode": "decoupled"}, (9,)),
    "neuroprune": (TARGET, (10, 14, 16)),  # in a calibration, between events, the rate rising
    "heads": ({"name": "neuroprune", "heads": 5, "calibration_rows": 16}, (14,)),
    "paper": (PENALTY, (8, 17)),  # at the end of the first epoch, in the third
    "dsp": ({"name": "dsp", "heads": 5}, (14,)),
    "taylor": ({"name": "taylor", "sparsity": 0.5, "calibration_rows": 16}, (12,)),  # its sums begun
    "random": ({"name": "random", "sparsity": 0.5}, (12,)),
    "cofi": ({"name": "cofi", "sparsity": 0.5}, (14, 28)),  # masks in the model; compacted
}


def test_no_method_is_left_out():
    assert {method["name"] for method, _ in KILLS.values()} == set(methods.METHODS)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("data"), "sst2", train=60, evaluated=24)


@pytest.fixture(scope="module")
def processes():
    """Separate processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(job.LIBRARIES))
    return context


def chosen(method):
    return settings(method=method, training={"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "evaluate": "epoch"})


def kill_at(step, processes, chosen, data_root, folder, train=training.train):
    """Train in another process and kill it as soon as its checkpoint of this or a later step is complete."""
    process = processes.Process(target=train, args=(chosen, folder / "run.json", data_root, 0.0))
    process.start()
    deadline = time.monotonic() + 120
    while not any(checkpoints._step(mark.parent) >= step for mark in folder.glob("checkpoints/*/progress.json")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (folder / "run.json").exists()


def comparable(record):
    """A record without values that depend on the clock or on lost steps."""
    plain = json.loads(record.model_dump_json())["result"]
    history = [{key: value for key, value in entry.items() if key != "loss"} for entry in plain.pop("history")]
    timed = [(stretch["parameters"], stretch["steps"]) for stretch in plain.pop("step_times")]  # all jobs' steps, once
    times = ("train_seconds", "train_cpu_seconds", "eval_seconds", "seconds_per_step", "resumed_at", "metrics")
    return {key: value for key, value in plain.items() if key not in times} | {"history": history, "timed": timed}


@pytest.mark.parametrize("kind", KILLS)
def test_a_killed_run_ends_like_one_that_was_not(kind, processes, data_root, tmp_path):
    method, kills = KILLS[kind]
    run = chosen(method)
    training.train(run, tmp_path / "whole" / "run.json", data_root)
    expected = read_record(tmp_path / "whole" / "run.json")
    weights = pretrained.from_pretrained(tmp_path / "whole" / "model").state_dict()
    for step in kills:
        folder = tmp_path / str(step)
        kill_at(step, processes, run, data_root, folder)
        training.train(run, folder / "run.json", data_root)
        found = read_record(folder / "run.json")
        assert_same(pretrained.from_pretrained(folder / "model").state_dict(), weights)
        assert comparable(found) == comparable(expected)  # degrees and patterns by their hashes, too
        assert len(found.result.resumed_at) == 1 and found.result.resumed_at[0] >= step
        assert not (folder / "checkpoints").exists()


def test_a_run_may_be_killed_again_and_again(processes, data_root, tmp_path):
    run = chosen(TARGET)
    training.train(run, tmp_path / "whole" / "run.json", data_root)
    folder, parts = tmp_path / "killed", []
    for step in (4, 14, 23):
        kill_at(step, processes, run, data_root, folder)
        # A kill between the last checkpoint's writing and its predecessor's removal leaves two whole ones.
        left = [json.loads(mark.read_text())["progress"] for mark in folder.glob("checkpoints/*/progress.json")]
        last = max(left, key=lambda mark: mark["train_seconds"])
        parts.append(last["train_seconds"])
        assert sum(sum(seconds) for _, seconds in last["step_seconds"]) < last["train_seconds"] - last["eval_seconds"]
    training.train(run, folder / "run.json", data_root)
    result = read_record(folder / "run.json").result
    assert comparable(read_record(folder / "run.json")) == comparable(read_record(tmp_path / "whole" / "run.json"))
    assert len(result.resumed_at) == 3 and result.resumed_at == sorted(result.resumed_at)
    assert parts == sorted(parts) and result.train_seconds > parts[-1]  # all parts count
    assert result.train_cpu_seconds > last["cpu_seconds"] - last["eval_cpu_seconds"] > 0


def test_processor_time_is_that_of_training_without_evaluation(monkeypatch):
    clock = iter([100.0, 103.0, 107.0, 120.0])
    monkeypatch.setattr(checkpoints.time, "process_time", lambda: next(clock))
    progress = checkpoints.Progress({}, cpu_seconds=50.0, eval_cpu_seconds=5.0)
    kept = checkpoints.Checkpoints(progress, math.inf)
    assert kept.evaluate(lambda *words, **names: (words, names))(1, key=2) == ((1,), {"key": 2})
    kept.stop()
    assert (progress.cpu_seconds, progress.eval_cpu_seconds) == (50 + 20, 5 + 4)


def test_the_times_of_all_evaluations_count():
    progress = checkpoints.Progress({}, eval_seconds=5.0)
    kept = checkpoints.Checkpoints(progress, math.inf)
    for _ in range(2):
        kept.on_evaluate(None, None, None, metrics={"eval_runtime": 2.0})
    assert progress.eval_seconds == 5 + 2 + 2


def train_as_a_job(chosen, output, data_root, minutes):
    """Train with all output going to the run's log, which Snakemake has deleted."""
    log = output.with_name("train.log")
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    training.train(chosen, output, data_root, minutes)


def test_the_words_of_killed_jobs_are_kept(processes, data_root, tmp_path):
    run, folder = chosen({"name": "dense"}), tmp_path / "run"
    for step in (2, 10):
        kill_at(step, processes, run, data_root, folder, train_as_a_job)
    first = (folder / "train.1.log").read_text()
    assert first.startswith("Job started at ") and first.splitlines()[0].endswith("UTC")
    assert (folder / "train.2.log").samefile(folder / "train.log")
    process = processes.Process(target=train_as_a_job, args=(run, folder / "run.json", data_root, math.inf))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert sorted(path.name for path in folder.glob("*.log")) == ["train.1.log", "train.2.log", "train.log"]
    assert (folder / "train.1.log").read_text() == first
    last = (folder / "train.log").read_text()
    assert "; logs of interrupted jobs: train.1.log, train.2.log\n" in last and "eval_accuracy" in last


# ---- damaged checkpoints


@pytest.fixture(scope="module")
def interrupted(data_root, tmp_path_factory):
    """A run interrupted in step 14 that has two complete checkpoints, and the same run without interruption."""
    folder = tmp_path_factory.mktemp("interrupted")
    keep = checkpoints.Checkpoints.on_save

    def on_save(self, args, state, *more, **kwargs):
        keep(self, args, state, *more, **kwargs)
        if state.global_step == 12:
            shutil.copytree(folder / "run" / "checkpoints" / "checkpoint-12", folder / "earlier")
        if state.global_step == 14:  # in a calibration, between two cuts
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "on_save", on_save)
        with pytest.raises(KeyboardInterrupt):
            training.train(short(), folder / "run" / "run.json", data_root, 0.0)
    (folder / "earlier").rename(folder / "run" / "checkpoints" / "checkpoint-12")
    training.train(short(), folder / "whole" / "run.json", data_root)
    return folder


def short():
    return settings(method=TARGET, training={"epochs": 2, "batch_size": 8, "learning_rate": 1e-3})


@pytest.fixture
def run_folder(interrupted, tmp_path):
    """A copy of the interrupted run."""
    return shutil.copytree(interrupted / "run", tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path):
    """Replace one byte in the middle without changing the size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


CHECKPOINT_FILES = (
    "config.json",
    "method.json",
    "method.safetensors",
    "model.safetensors",
    "optimizer.pt",
    "progress.json",
    "rng_state.pth",
    "scheduler.pt",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
    "training_args.bin",
)


def files_of(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("damage", [cut, empty, change, remove])
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_damaged_checkpoint_is_never_used(name, damage, run_folder, interrupted, data_root, caplog):
    newest = run_folder / "checkpoints" / "checkpoint-14"
    damage(newest / name)
    training.train(short(), run_folder / "run.json", data_root)
    (sentence,) = [record.message for record in caplog.records if record.name == checkpoints.__name__]
    assert sentence.startswith(f"{newest}: ") and name in sentence
    assert read_record(run_folder / "run.json").result.resumed_at == [12]
    assert_same_run(run_folder, interrupted / "whole")


@pytest.mark.parametrize("damage", [cut, remove])
def test_without_an_intact_checkpoint_training_starts_again(damage, run_folder, interrupted, data_root):
    for checkpoint in (run_folder / "checkpoints").iterdir():
        damage(checkpoint / "optimizer.pt")
    training.train(short(), run_folder / "run.json", data_root)
    assert read_record(run_folder / "run.json").result.resumed_at == []
    assert_same_run(run_folder, interrupted / "whole")


def test_every_file_of_a_checkpoint_is_tried(interrupted):
    assert files_of(interrupted / "run" / "checkpoints" / "checkpoint-14") == set(CHECKPOINT_FILES)


def test_a_file_added_to_a_checkpoint_makes_it_unusable(run_folder, data_root, caplog):
    (run_folder / "checkpoints" / "checkpoint-14" / "model.safetensors.index.json").write_text("{}")
    training.train(short(), run_folder / "run.json", data_root)
    assert "model.safetensors.index.json is not part of it" in caplog.text
    assert read_record(run_folder / "run.json").result.resumed_at == [12]


def assert_same_run(folder, expected):
    assert comparable(read_record(folder / "run.json")) == comparable(read_record(expected / "run.json"))
    state, wanted = (pretrained.from_pretrained(run / "model").state_dict() for run in (folder, expected))
    assert_same(state, wanted)


def test_only_the_last_whole_checkpoint_is_kept_and_none_of_other_settings_used(data_root, tmp_path, monkeypatch):
    folder, run = tmp_path / "run", chosen({"name": "dense"})
    seen = []
    keep = checkpoints.Checkpoints.on_save

    def on_save(self, *args, **kwargs):
        keep(self, *args, **kwargs)
        seen.append(sorted(path.name for path in (folder / "checkpoints").iterdir()))
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoints, "on_save", on_save)
    with pytest.raises(KeyboardInterrupt):
        training.train(run, folder / "run.json", data_root, 0.0)
    assert seen == [["checkpoint-1"], ["checkpoint-2"], ["checkpoint-3"]]
    torn = folder / "checkpoints" / "checkpoint-4"
    torn.mkdir()  # a kill while it was written
    other = run.model_copy(update={"seed": 1})
    training.train(other, folder / "run.json", data_root, math.inf)
    assert read_record(folder / "run.json").result.resumed_at == []
    assert not (folder / "checkpoints").exists()


def test_a_state_that_is_damaged_is_told(tmp_path):
    save_state(tmp_path, {"a": torch.ones(2), "b": 1})
    assert load_state(tmp_path)["b"] == 1
    (tmp_path / "method.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="delete"):
        load_state(tmp_path)


def test_the_evaluation_of_an_epoch_comes_before_its_checkpoint():
    callback = checkpoints.Checkpoints(checkpoints.Progress({}), minutes=0)
    for epoch, saves in ((0.5, True), (1.0, False)):
        control = SimpleNamespace(should_save=False)
        callback.on_step_end(None, SimpleNamespace(global_step=4, max_steps=10, epoch=epoch), control)
        assert control.should_save == saves


def test_of_two_whole_checkpoints_the_later_is_used(tmp_path):
    for step in (9, 10):
        checkpoint = tmp_path / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        checkpoints.write_mark(checkpoint, checkpoints.Progress({}))
    assert checkpoints.find_progress(tmp_path, {}).resumed_at == [10]


def test_no_checkpoint_is_written_after_the_last_step():
    callback = checkpoints.Checkpoints(checkpoints.Progress({}), minutes=0)
    for step, saves in ((9, True), (10, False)):
        control = SimpleNamespace(should_save=False)
        callback.on_epoch_end(None, SimpleNamespace(global_step=step, max_steps=10), control)
        assert control.should_save == saves


def test_checkpoints_are_as_many_minutes_apart_as_asked(tmp_path, monkeypatch):
    clock, saved = SimpleNamespace(minute=0), []
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: 60.0 * clock.minute)
    callback = checkpoints.Checkpoints(checkpoints.Progress({}), minutes=3)
    for clock.minute in range(1, 11):  # a step a minute
        control = SimpleNamespace(should_save=False)
        state = SimpleNamespace(global_step=clock.minute, max_steps=20, epoch=clock.minute / 20, trial_name=None)
        callback.on_step_end(None, state, control)
        if control.should_save:
            (tmp_path / f"checkpoint-{clock.minute}").mkdir()
            callback.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, control)
            saved.append(clock.minute)
    assert saved == [3, 6, 9]


def test_the_training_time_of_earlier_jobs_counts():
    progress = checkpoints.Progress({}, train_seconds=100.0)
    checkpoints.Checkpoints(progress, minutes=math.inf).stop()
    assert 100 < progress.train_seconds < 160
