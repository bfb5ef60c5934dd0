"""Forked tasks: failures do not affect other tasks, and no task outlives its parent process."""

import multiprocessing
import os
import signal
import tempfile
import time

import pytest

from helpers.processes import alive
from neuroprune import distributed
from neuroprune.errors import UserError
from neuroprune.files.temporary import remove_abandoned
from neuroprune.training.forked import ForkedTask, run_in_forks

FORKSERVER = multiprocessing.get_context("forkserver")


def fail():
    raise UserError("the disk is full.")


def crash():
    raise ZeroDivisionError


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def say():
    print("said")


def make_pieces(folder, *works):
    return [
        ForkedTask(f"piece{number}", folder / f"piece{number}" / "log", work, (folder / f"after{number}").touch)
        for number, work in enumerate(works)
    ]


def run_to_file(folder, *works):
    """In a separate process: write the output and the failed tasks to a file."""
    os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT), 1)
    print([piece.name for piece in run_in_forks(make_pieces(folder, *works))])


@pytest.mark.parametrize(
    ("work", "told"), [(fail, "the disk is full."), (crash, "ZeroDivisionError"), (be_killed, "exit code -9")]
)
def test_a_piece_that_fails_is_told_and_the_others_are_done(work, told, tmp_path):
    process = FORKSERVER.Process(target=run_to_file, args=(tmp_path, say, work, say))
    process.start()
    process.join()
    first, second, third, failed = (tmp_path / "said").read_text().splitlines()
    assert first.startswith("1 of 3: piece0 done in 0 s, about 0 s left")
    assert second.startswith(f"2 of 3: piece1 failed ({told})")
    assert third.startswith("3 of 3: piece2 done") and failed == "['piece1']"
    assert [(tmp_path / name / "log").read_text() for name in ("piece0", "piece2")] == ["said\n", "said\n"]
    assert sorted(path.name for path in tmp_path.glob("after*")) == ["after0", "after2"]


def write_number_and_sleep(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)


def work_for_long(folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a shell's background have it ignored
    run_in_forks(make_pieces(folder, lambda: write_number_and_sleep(folder / "number")))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_piece_ends_with_the_process_that_started_it(name, tmp_path):
    parent = FORKSERVER.Process(target=work_for_long, args=[tmp_path])
    parent.start()
    wait_until(lambda: (tmp_path / "number").exists() and (tmp_path / "number").read_text())
    os.kill(parent.pid, getattr(signal, name))
    parent.join(timeout=30)
    assert parent.exitcode not in (0, None)
    wait_until(lambda: not alive(int((tmp_path / "number").read_text())))


def write_number_and_spin(folder):
    """Behave like a process of a run with `processes: 2`: ignore SIGINT and compute."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with distributed.joined(2):
        (folder / f"worker{os.getpid()}").touch()
        while True:
            pass


def launch_workers(folder):
    tempfile.tempdir = str(folder / "temporary")
    (folder / f"fork{os.getpid()}").touch()
    distributed.launch(write_number_and_spin, 2, folder)


def work_with_workers(folder):
    run_in_forks(make_pieces(folder, lambda: launch_workers(folder)))


def numbers(folder, kind):
    return [int(path.name.removeprefix(kind)) for path in folder.glob(f"{kind}[0-9]*")]


@pytest.mark.parametrize("killed", ["job", "fork"])
def test_the_processes_of_a_run_end_with_their_launcher(killed, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    job = FORKSERVER.Process(target=work_with_workers, args=[tmp_path])
    job.start()
    wait_until(lambda: len(numbers(tmp_path, "worker")) == 2)
    (fork,), workers = numbers(tmp_path, "fork"), numbers(tmp_path, "worker")
    os.kill(job.pid if killed == "job" else fork, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, [fork, *workers])))
    job.join(timeout=30)
    assert job.exitcode == (-signal.SIGKILL if killed == "job" else 0)
    wait_until(lambda: not left_in(temporary))


def left_in(temporary):
    """Return what a later start does not delete; the kernel may take a moment to release the locks of the killed."""
    remove_abandoned("neuroprune-", temporary)
    return [path for path in temporary.iterdir() if path.name.startswith(("neuroprune", "torchelastic"))]


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
