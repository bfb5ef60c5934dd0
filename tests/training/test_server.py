"""The process that keeps libraries loaded: a command done in it is the command done alone, killed or not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuroprune.training import server as warm

NEUROPRUNE = [sys.executable, "-m", "neuroprune.cli"]


def start_server(folder):
    command = [*NEUROPRUNE, "warm", str(folder / "warm")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1", warm.ADDRESS: ""})


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The socket of a real server."""
    folder = tmp_path_factory.mktemp("warm")
    server = start_server(folder)
    wait_for((folder / "warm").exists)
    yield str(folder / "warm")
    server.communicate()
    assert server.returncode == 0


def wait_for(condition, seconds=60):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def call(folder, address, *words, **options):
    environment = os.environ | {warm.ADDRESS: address, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [*NEUROPRUNE, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, **options
    )


def parts(done):
    return done.returncode, done.stdout, done.stderr


STUDY = """
study: small
tasks: {sst2: {}}
experiments: {all: {models: [bert_base], tasks: [sst2], methods: [{name: dense}]}}
"""


def test_a_command_gives_the_same_with_a_server_as_without(tmp_path, address):
    (tmp_path / "study.yaml").write_text(STUDY)
    words = ("plan", "--config", "study.yaml", "--catalogue", str(Path("config").resolve()))
    cold, served = (call(tmp_path, where, *words, check=True) for where in ("", address))
    assert "bert_base-sst2-dense-s0" in served.stdout
    assert parts(cold) == parts(served)


def test_a_mistake_is_told_in_the_same_words_and_the_server_lives_on(tmp_path, address):
    for _ in range(2):
        cold, served = (call(tmp_path, where, "plan", "--config", "absent.yaml") for where in ("", address))
        assert parts(cold) == parts(served)
        assert served.returncode == 1 and "absent.yaml" in served.stderr


def jobs(address):
    """Processes that are forks of the server: those that hold its address as their argument, but for the first."""
    listed = subprocess.run(["pgrep", "-f", f"neuroprune.cli warm {address}"], capture_output=True, text=True).stdout
    return [int(number) for number in listed.split()][1:]


@pytest.fixture
def waiting(tmp_path, address):
    """A command at work in the server: it reads a pipe that nobody writes."""
    os.mkfifo(tmp_path / "study.yaml")
    environment = os.environ | {warm.ADDRESS: address, "PYTHONPATH": str(Path.cwd())}
    command = [*NEUROPRUNE, "plan", "--config", "study.yaml"]
    caller = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: jobs(address))
    with caller:
        yield caller
        caller.kill()


def test_a_killed_command_takes_its_job_with_it(waiting, address):
    waiting.send_signal(signal.SIGKILL)
    wait_for(lambda: not jobs(address))


def test_a_killed_job_ends_its_command_with_a_sentence(waiting, address):
    os.kill(jobs(address)[0], signal.SIGKILL)
    told = waiting.stderr.read()
    assert waiting.wait() == 128 + signal.SIGKILL
    assert told == "neuroprune plan was killed.\n"


def test_loading_the_libraries_asks_for_no_accelerator():
    """Else no fork could use one."""
    code = """
import importlib, torch
from neuroprune.training.server import LIBRARIES
def refuse(*words):
    raise AssertionError("asked for an accelerator")
for name in ("is_available", "device_count", "init", "current_device", "_lazy_init"):
    setattr(torch.cuda, name, refuse)
for library in LIBRARIES:
    importlib.import_module(library)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})


def test_a_command_whose_server_is_gone_works_alone(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    words = ("plan", "--folder", "--config", "study.yaml", "--catalogue", str(Path("config").resolve()))
    server = start_server(tmp_path)
    wait_for((tmp_path / "warm").exists)
    server.kill()  # while it loads
    server.communicate()
    assert call(tmp_path, str(tmp_path / "warm"), *words, check=True).stdout == "results/small\n"
