"""Fixtures that run the project's workflow in a separate folder, like a user."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from neuroprune.results.report import ASKED

ROOT = Path(__file__).parents[2]
LONGEST = ("workflow", "training", "models")  # folders of tests/


def pytest_collection_modifyitems(items):
    """Start the longest files first, so that the processes that share the suite end at about the same time."""
    folders = [ROOT / "tests" / name for name in LONGEST]
    items.sort(
        key=lambda item: next((i for i, folder in enumerate(folders) if folder in item.path.parents), len(LONGEST))
    )


@dataclass
class Finished:
    """Result of a call of Snakemake."""

    code: int
    out: str
    err: str

    @property
    def jobs(self):
        """Number of jobs by rule, from the table that Snakemake prints first."""
        table = re.search(r"^job +count\n-+ +-+\n(.*?)\ntotal", self.out + self.err, flags=re.DOTALL | re.MULTILINE)
        return {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()} if table else {}

    @property
    def complaints(self):
        """Return standard error without the line about the profile."""
        return [line for line in self.err.splitlines() if not line.startswith("Using workflow specific profile")]


def call_snakemake(folder, *words, **environment):
    """Run the workflow in a folder, with the programs of this Python's environment and without a network."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def training_processes(folder, job=""):
    """Return the ids of the processes that train in a folder, those of all jobs or of one, with their forks."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (process / "cwd").samefile(folder)
        except OSError:
            continue
        if here and "train-job" in words and any(f"/jobs/{job}" in word for word in words):
            found.append(int(process.name))
    return found


def signal_all(processes, number):
    """Send a signal to processes; some of those found may have run for a moment only."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@pytest.fixture(scope="session")
def snakemake():
    """The function that runs the workflow, without its report: ``snakemake(folder, *words)``."""
    return partial(call_snakemake, **{ASKED: ""})
