"""Progress of a running study: one line per finished run with its result and the remaining time."""

import json
import subprocess
import sys
import threading

import pytest

from neuroprune.results.progress import Progress, minutes, watch

SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def finish(folder, name, value=0.8125, status="done", seconds=30.0):
    run = folder / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    (run / "train.log").write_text("log")
    result = {"metric": "accuracy", "value": value, "train_seconds": seconds} if status == "done" else None
    (run / "run.json").write_text(json.dumps({"status": status, "result": result}))


def begin(folder, name):
    (folder / "runs" / name).mkdir(parents=True)
    (folder / "runs" / name / "train.log").write_text("log")


def test_each_finished_run_is_told_once_with_the_time_left(tmp_path):
    clock = Clock()
    progress = Progress(tmp_path, SHARES, clock)
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


def test_what_was_there_before_is_not_told_and_not_counted_as_speed(tmp_path):
    finish(tmp_path, "a")
    clock = Clock()
    progress = Progress(tmp_path, SHARES, clock)
    clock.now += 30
    finish(tmp_path, "b")
    assert progress.news() == ["2 of 3 runs: b, accuracy 0.812, 30 s; training takes about 20 s more"]


def test_a_record_that_cannot_be_read_is_told(tmp_path):
    progress = Progress(tmp_path, SHARES, Clock())
    finish(tmp_path, "a")
    (tmp_path / "runs" / "a" / "run.json").write_text("{")
    (line,) = progress.news()
    assert line.startswith("1 of 3 runs: a, its record cannot be read; ")


def test_the_watch_ends_with_the_last_run(tmp_path):
    said = []
    thread = watch(Progress(tmp_path, {"a": 1.0}), said.append, seconds=0.01)
    finish(tmp_path, "a")
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert said == ["1 of 1 runs: a, accuracy 0.812, 30 s"]


def test_the_watch_does_not_keep_its_process_alive(tmp_path):
    code = "from neuroprune.results.progress import *; watch(Progress(Path(), {'a': 1.0}), print)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1.8e8, "50,000.0 h")]
)
def test_times_are_written_as_people_say_them(seconds, text):
    assert minutes(seconds) == text
