"""The mini study on a real SLURM: failed, cancelled and timed-out jobs, and outages of controller and Snakemake."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, signal_all, training_processes
from filelock import FileLock, Timeout
from test_mini_study import MINI, rows_of, write_weather

from neuroprune.files.atomic import file_hash
from neuroprune.results.records import read_record

SLURM = Path(__file__).with_name("slurm_localhost.sh")
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
FAILS, CANCELLED, TOO_LONG = (f"tiny-weather-neuroprune-50-s{seed}" for seed in range(3))


def own_address():
    """The address of this machine's name; SLURM on one machine listens there."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "nothing"


pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"slurm-wlm and munge are not installed: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="SLURM on one machine is started as root"),
    pytest.mark.skipif(
        not own_address().startswith("127."), reason=f"this machine's name means {own_address()}, not the loopback"
    ),
    pytest.mark.skipif(
        find_spec("snakemake_executor_plugin_slurm") is None, reason="the extra neuroprune[slurm] is not installed"
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A private SLURM: its environment, and a function that calls its script."""
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


@pytest.fixture(scope="module")
def prepared(snakemake, tmp_path_factory):
    """A folder with the mini study and the project's profile, with prepared data and model; read-only."""
    folder = tmp_path_factory.mktemp("prepared")
    write_weather(folder / "data")
    write_study(folder / "study.yaml")
    write_profile(folder / "slurm")
    targets = [f"results/mini/{name}.json" for name in ("plan", "data/weather", "models/tiny")]
    done = snakemake(folder, *targets, "--cores", "2", "--configfile", "study.yaml")
    assert done.code == 0, done.out + done.err
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """A copy of that folder, including modification times."""
    return Path(shutil.copytree(prepared, tmp_path / "mini"))


def write_study(path):
    """The mini study with one method and three seeds, one of them timed; jobs have twenty minutes, then forty."""
    text = yaml.safe_load(MINI.read_text())
    text["models"]["tiny"]["job"] = {"memory_mb": 1000, "minutes": 20}
    text["experiments"]["sweep"]["methods"] = [{"name": "neuroprune", "sparsity": 0.5, "calibration_rows": 16}]
    text |= {"artefacts": ["summary"], "seeds": [0, 1, 2]}
    text["timing"]["seeds"] = 1
    path.write_text(yaml.safe_dump(text))


def write_profile(folder):
    """The project's profile with this machine's names, as a reader would edit it."""
    text = yaml.safe_load((PROFILE / "config.yaml").read_text())
    text |= {"cores": 4, "slurm-init-seconds-before-status-checks": 1, "latency-wait": 20}
    text |= {"slurm-status-command": "squeue", "slurm-no-account": True}  # there is no accounting database
    text["default-resources"].pop("slurm_account")
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(text))


@contextmanager
def study_at_work(folder, environment, *words):
    """A Snakemake process working on a folder's study with the profile; ended afterwards."""
    command = ["snakemake", *words, "--snakefile", ROOT / "Snakefile", "--configfile", "study.yaml"]
    command += ["--workflow-profile", "slurm"]
    with (folder / "snakemake.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Queue:
    """SLURM's information about the jobs of a folder, which is never purged in this set-up."""

    def __init__(self, environment, folder):
        self.environment, self.folder = environment, folder

    def jobs(self):
        """Number, state, comment, time limit and memory of each job, in the order of their numbers."""
        words = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%k|%l|%m|%Z"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        jobs = [line.split("|") for line in done.stdout.splitlines()]
        return sorted((job[:5] for job in jobs if job[5] == str(self.folder)), key=lambda job: int(job[0]))

    def asked(self, job):
        """Return all of SLURM's information about a job."""
        words = ["scontrol", "show", "job", job[0]]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout

    def of(self, rule, run):
        return [job for job in self.jobs() if job[2] == f"rule_{rule}_wildcards_{run}"]


def wait_until(condition, snakemake, what):
    """Wait until a condition returns a value, and return it; Snakemake, if given, must keep running."""
    deadline = time.monotonic() + 400
    while not (found := condition()):
        assert snakemake is None or snakemake.poll() is None, what
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def disturb(queue, snakemake):
    """Make one training time out, one fail, and cancel one, in the order of their starts."""

    def out_of_time(processes):
        signal_all(processes, signal.SIGSTOP)
        words = ["scontrol", "update", f"JobId={queue.of('train', TOO_LONG)[0][0]}", "EndTime=now+1"]
        subprocess.run(words, env=queue.environment, check=True)

    def cancel(_):
        subprocess.run(["scancel", queue.of("train", CANCELLED)[0][0]], env=queue.environment, check=True)

    acts = {TOO_LONG: out_of_time, FAILS: partial(signal_all, number=signal.SIGKILL), CANCELLED: cancel}
    while acts:
        started = wait_until(
            lambda: [(run, found) for run in acts if (found := training_processes(queue.folder, run))],
            snakemake,
            f"{list(acts)} did not start",
        )
        for run, processes in started:
            acts.pop(run)(processes)


def test_the_mini_study_comes_through(slurm, folder):
    environment, call = slurm
    queue = Queue(environment, folder)
    with study_at_work(folder, environment) as snakemake:
        disturb(queue, snakemake)
        again = lambda: len(queue.of("train", FAILS)) > 1 and training_processes(folder, FAILS)  # noqa: E731
        wait_until(again, snakemake, f"{FAILS} was not tried again")
        call("stop-ctld")  # while that job is at work
        time.sleep(12)
        call("start-ctld")
        assert snakemake.wait(timeout=600) == 0, (folder / "snakemake.log").read_text()

    results = folder / "results" / "mini"
    assert [row["run"] for row in rows_of(results / "runs.csv")] == [FAILS, CANCELLED, TOO_LONG]
    (timed,) = [job for job in queue.jobs() if job[2].startswith("rule_measure")]
    assert timed[1] == "COMPLETED"
    assert "OverSubscribe=NO" in queue.asked(timed)  # the node for itself
    for run, state in ((FAILS, "FAILED"), (CANCELLED, "CANCELLED"), (TOO_LONG, "TIMEOUT")):
        assert read_record(results / "runs" / run / "run.json").status == "done"
        first, second, *_ = queue.of("train", run)
        assert first[1] == state
        assert first[3:5] == ["1:00" if run == TOO_LONG else "20:00", "1000M"]
        assert second[3:5] == ["40:00", "2000M"]  # more time and memory
        assert "TresPerJob=gres:gpu:1" in queue.asked(first)
        assert queue.of("train", run)[-1][1] == "COMPLETED"


def test_runs_share_a_job(slurm, folder):
    environment, _ = slurm
    queue, job = Queue(environment, folder), "sweep-tiny-weather-1"
    study = yaml.safe_load((folder / "study.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump(study | {"runs_per_job": 3}))
    with study_at_work(folder, environment) as snakemake:
        assert snakemake.wait(timeout=600) == 0, (folder / "snakemake.log").read_text()
    (trained,), (timed,) = (queue.of(rule, job) for rule in ("train", "measure"))
    assert trained[1] == timed[1] == "COMPLETED"
    assert trained[3:5] == ["1:00:00", "1000M"]  # twenty minutes a run
    assert "TresPerJob=gres:gpu:1" in queue.asked(trained)
    assert "OverSubscribe=NO" in queue.asked(timed)
    records = (folder / "results" / "mini" / "runs" / run / "run.json" for run in (FAILS, CANCELLED, TOO_LONG))
    assert {read_record(record).status for record in records} == {"done"}


def test_after_a_kill_of_snakemake_no_run_is_written_by_two_jobs(slurm, folder):
    environment, _ = slurm
    queue, run = Queue(environment, folder), folder / "results" / "mini" / "runs" / FAILS
    target, log = f"results/mini/jobs/{FAILS}/runs.json", folder / "snakemake.log"
    with study_at_work(folder, environment, target) as snakemake:
        started = lambda: (run / "train.log").exists() and "Job started" in (run / "train.log").read_text()  # noqa: E731
        wait_until(started, snakemake, f"{FAILS} did not train")
        first = training_processes(folder, FAILS)
        signal_all(first, signal.SIGSTOP)  # it still has long to train
        snakemake.kill()
    with pytest.raises(Timeout):
        FileLock(run / ".lock").acquire(timeout=0)
    before = what_lies_in(run)

    words = ["snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", "study.yaml", "--unlock", "--cores", "1"]
    subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=True)
    with study_at_work(folder, environment, target, "--retries", "0") as snakemake:
        assert snakemake.wait(timeout=400) == 1
    assert f"{run.relative_to(folder)}: another process is writing this run" in log.read_text()
    assert [job[1] for job in queue.of("train", FAILS)] == ["RUNNING", "FAILED"]
    assert what_lies_in(run) == before

    signal_all(first, signal.SIGCONT)
    wait_until(lambda: queue.of("train", FAILS)[0][1] == "COMPLETED", None, "the first job did not end")
    with study_at_work(folder, environment, target) as snakemake:
        assert snakemake.wait(timeout=400) == 0, log.read_text()
    assert len(queue.of("train", FAILS)) == 2  # what the first job found counts
    record = read_record(run / "run.json")
    assert record.status == "done"
    assert all(file_hash(run / name) == digest for name, digest in record.result.files.items())


def what_lies_in(run):
    """Names and times of a run's files, except the log and the lock that a second job opens before it fails."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name not in ("train.log", ".lock")}


def test_adding_the_profile_to_the_default_one_is_refused(slurm, tmp_path):
    environment, _ = slurm
    words = ["snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", MINI, "--dry-run", "--profile", PROFILE]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "type --workflow-profile instead of --profile" in done.stderr
