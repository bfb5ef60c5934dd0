"""The mini study through a real SLURM: jobs fail, are cancelled and run out of time, and the controller is away."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_mini_study import DENSE, L1, MINI, NEUROPRUNE, rows_of, write_weather

from neuroprune.records import read_record

SLURM = Path(__file__).with_name("slurm_localhost.sh")
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"slurm-wlm and munge are not installed: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="SLURM on one machine is started as root"),
    pytest.mark.skipif(
        find_spec("snakemake_executor_plugin_slurm") is None, reason="the extra neuroprune[slurm] is not installed"
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM of its own: the environment to use it with, and a function that calls its script."""
    base = tmp_path_factory.mktemp("slurm")
    base.chmod(0o755)
    path = os.pathsep.join([str(base / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    paths = {"SLURM_LOCALHOST_DIR": str(base), "SLURM_CONF": str(base / "slurm.conf"), "PATH": path}
    environment = os.environ | paths | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CPUS": "4", "GPUS": "3"}

    def call(*words):
        done = subprocess.run(["bash", SLURM, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    call("start")
    yield environment, call
    call("stop")


def profile(folder):
    """The project's profile with this machine's names, as a reader would edit it."""
    text = yaml.safe_load((PROFILE / "config.yaml").read_text())
    text |= {"cores": 4, "slurm-init-seconds-before-status-checks": 2, "latency-wait": 20}
    text |= {"slurm-status-command": "squeue", "slurm-no-account": True}  # there is no accounting database
    text["default-resources"].pop("slurm_account")
    (folder / "slurm").mkdir()
    (folder / "slurm" / "config.yaml").write_text(yaml.safe_dump(text))
    return folder / "slurm"


def study(folder):
    """The mini study; its jobs have twenty minutes, then forty."""
    text = yaml.safe_load(MINI.read_text())
    text["models"]["tiny"]["job"] = {"memory_mb": 1000, "minutes": 20}
    text["artefacts"] = ["summary"]
    (folder / "study.yaml").write_text(yaml.safe_dump(text))
    return folder / "study.yaml"


class Queue:
    """What SLURM knows of the jobs: all, because it forgets none in this set-up."""

    def __init__(self, environment):
        self.environment = environment

    def jobs(self):
        """Number, state, comment, time limit and memory of each job, in the order of their numbers."""
        words = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%k|%l|%m"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return sorted((line.split("|") for line in done.stdout.splitlines()), key=lambda job: int(job[0]))

    def asked(self, job):
        """Everything that SLURM says of a job."""
        words = ["scontrol", "show", "job", job[0]]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout

    def of(self, rule, run):
        return [job for job in self.jobs() if job[2] == f"rule_{rule}_wildcards_{run}"]


def training_process(folder, run):
    """Number of the process that trains a run in this folder, None if there is none yet."""
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (proc / "cwd").samefile(folder)
        except OSError:
            continue
        if here and words[2:3] == ["train"] and any(f"/{run}/" in word for word in words):
            return int(proc.name)
    return None


def disturb(queue, process, folder):
    """Let one training run out of time, one fail, and have one cancelled, in the order in which they start."""

    def out_of_time(pid):
        os.kill(pid, signal.SIGSTOP)
        number = queue.of("train", L1)[0][0]
        words = ["scontrol", "update", f"JobId={number}", "TimeLimit=1"]
        subprocess.run(words, env=queue.environment, check=True)

    def cancel(pid):
        subprocess.run(["scancel", queue.of("train", NEUROPRUNE)[0][0]], env=queue.environment, check=True)

    acts = {L1: out_of_time, DENSE: lambda pid: os.kill(pid, signal.SIGKILL), NEUROPRUNE: cancel}
    deadline = time.monotonic() + 600
    while acts:
        assert process.poll() is None and time.monotonic() < deadline, f"{list(acts)} did not start"
        for run in list(acts):
            if pid := training_process(folder, run):
                acts.pop(run)(pid)
        time.sleep(0.1)


def test_the_mini_study_comes_through(slurm, tmp_path):
    environment, call = slurm
    write_weather(tmp_path / "data")
    words = ["snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", study(tmp_path)]
    words += ["--workflow-profile", profile(tmp_path)]
    queue, log = Queue(environment), tmp_path / "snakemake.log"
    with log.open("w") as file:
        snakemake = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        disturb(queue, snakemake, tmp_path)
        call("stop-ctld")
        time.sleep(12)
        call("start-ctld")
        assert snakemake.wait(timeout=1200) == 0, log.read_text()
    finally:
        snakemake.kill()

    results = tmp_path / "results" / "mini"
    assert [row["run"] for row in rows_of(results / "runs.csv")] == [DENSE, NEUROPRUNE, L1]
    for run in (DENSE, NEUROPRUNE, L1):
        assert read_record(results / "runs" / run / "run.json").status == "done"
        (timed,) = queue.of("measure", run)
        assert timed[1] == "COMPLETED"
        assert "OverSubscribe=NO" in queue.asked(timed)  # the node for itself
    for run, state in ((DENSE, "FAILED"), (NEUROPRUNE, "CANCELLED"), (L1, "TIMEOUT")):
        first, second, *_ = queue.of("train", run)
        assert first[1] == state
        assert first[3:5] == ["1:00" if run == L1 else "20:00", "1000M"]
        assert second[3:5] == ["40:00", "2000M"]  # more time and memory
        assert "TresPerJob=gres:gpu:1" in queue.asked(first)
        assert queue.of("train", run)[-1][1] == "COMPLETED"


def test_adding_the_profile_to_the_default_one_is_refused(slurm, tmp_path):
    environment, _ = slurm
    words = ["snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", MINI, "--dry-run", "--profile", PROFILE]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "type --workflow-profile instead of --profile" in done.stderr
