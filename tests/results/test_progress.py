"""Progress of a running study: one line per finished run with its result and the remaining time."""

import subprocess
import sys
import threading

import pytest

from helpers.results import edit, record, settings
from neuroprune.files.atomic import write_json
from neuroprune.results import progress as module
from neuroprune.results.progress import Progress, minutes, watch


def planned(name, epochs):
    return settings(training={"epochs": epochs}).model_copy(update={"run": name})


RUNS = {name: planned(name, epochs) for name, epochs in {"a": 5, "b": 3, "c": 2}.items()}  # shares of a half, 0.3, 0.2


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def finish(folder, name, status="done", run=None):
    entry = record(run or RUNS[name], value=0.8125, status=status)
    entry.result.train_seconds = 30.0
    write_json(folder / "runs" / name / "run.json", entry)
    (folder / "runs" / name / "train.log").write_text("log")


def begin(folder, name):
    (folder / "runs" / name).mkdir(parents=True)
    (folder / "runs" / name / "train.log").write_text("log")


def test_each_finished_run_is_told_once_with_the_time_left(tmp_path):
    clock = Clock()
    progress = Progress(tmp_path, RUNS, clock)
    assert progress.news() == []
    clock.now += 60
    finish(tmp_path, "a")
    assert progress.news() == ["1 of 3 runs: a, accuracy 0.812, 30 s; training takes about 60 s more"]
    assert progress.news() == []
    begin(tmp_path, "b")  # half of 0.3 counts: 0.85 in 65 s
    clock.now += 5
    finish(tmp_path, "c", status="diverged")
    assert progress.news() == ["2 of 3 runs: c, diverged; training takes about 11 s more"]
    assert not progress.finished
    finish(tmp_path, "b")
    assert progress.news() == ["3 of 3 runs: b, accuracy 0.812, 30 s"]
    assert progress.finished


def test_runs_without_a_record_of_their_settings_are_unfinished(tmp_path):
    finish(tmp_path, "a")
    finish(tmp_path, "b", run=planned("b", 9))
    assert Progress(tmp_path, RUNS).unfinished == [RUNS["b"], RUNS["c"]]


def test_what_was_there_before_is_not_told_and_not_counted_as_speed(tmp_path):
    finish(tmp_path, "a")
    clock = Clock()
    progress = Progress(tmp_path, RUNS, clock)
    clock.now += 30
    finish(tmp_path, "b")
    assert progress.news() == ["2 of 3 runs: b, accuracy 0.812, 30 s; training takes about 20 s more"]


def test_a_record_with_other_settings_is_that_of_a_run_to_be_repeated(tmp_path):
    finish(tmp_path, "a", run=planned("a", epochs=1))
    progress = Progress(tmp_path, RUNS, clock := Clock())
    assert progress.news() == [] and not progress.finished
    clock.now += 60
    finish(tmp_path, "a")
    assert progress.news() == ["1 of 3 runs: a, accuracy 0.812, 30 s; training takes about 60 s more"]


def test_a_study_whose_settings_changed_is_watched_to_its_end(tmp_path):
    finish(tmp_path, "a", run=planned("a", epochs=1))
    said = []
    thread = watch(Progress(tmp_path, {"a": RUNS["a"]}), said.append, seconds=0.01)
    assert thread.is_alive()
    finish(tmp_path, "a")
    thread.join(timeout=60)
    assert said == ["1 of 1 runs: a, accuracy 0.812, 30 s"]


def test_a_record_is_read_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(module, "has_record", lambda folder, run: read.append(run.run) or run.run == "a")
    finish(tmp_path, "a")
    finish(tmp_path, "b")
    progress = Progress(tmp_path, RUNS, Clock())
    for _ in range(3):
        progress.news()
    assert read == ["a", "b"]


def test_a_record_without_a_value_does_not_stop_the_others(tmp_path):
    progress = Progress(tmp_path, RUNS, Clock())
    finish(tmp_path, "a")
    edit(tmp_path / "runs" / "a" / "run.json", lambda data: data["result"].update(value=None, metrics={}))
    (line,) = progress.news()
    assert line.startswith("1 of 3 runs: a, accuracy is not a number, ")


def test_the_watch_ends_with_the_last_run(tmp_path):
    said = []
    thread = watch(Progress(tmp_path, {"a": RUNS["a"]}), said.append, seconds=0.01)
    finish(tmp_path, "a")
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert said == ["1 of 1 runs: a, accuracy 0.812, 30 s"]


def test_the_watch_does_not_keep_its_process_alive(tmp_path):
    imports = f"import sys; sys.path = {sys.path}; from pathlib import Path; from test_progress import *"
    code = f"{imports}; watch(Progress(Path(), RUNS), print)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1.8e8, "50,000.0 h")]
)
def test_times_are_written_as_people_say_them(seconds, text):
    assert minutes(seconds) == text
