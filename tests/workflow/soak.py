"""Random kills of the mini study: `make soak`.

A study is killed at random moments and started again until it is complete, over and over. The results must be those of
an undisturbed study, and no process may outlive the one that started it.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from conftest import ROOT
from test_mini_study import study_file, write_weather

from helpers.processes import alive, children
from neuroprune.results.records import read_record

MARK = "NEUROPRUNE_SOAK"  # environment of all processes of the study
VICTIMS = ("workflow", "job", "child", "machine")
GRACE = 20.0  # seconds in which a process has to follow its parent
STARTS = 30  # of one study, at most
SETTINGS = {"runs_per_job": 2, "checkpoint_minutes": 0.01, "artefacts": ["summary"]}


def marked(mark):
    """Return the processes of a study that have not ended, with their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(process.name)] = words
        except OSError:
            continue
    return {number: words for number, words in found.items() if alive(number)}


def jobs(processes):
    """Return the processes of training and timing jobs: those that Snakemake's shell has started."""
    known = {number for number, words in processes.items() if Path([*words, ""][1]).name == "neuroprune"}
    forks = {fork for number in known for fork in children(number)}
    return sorted(known - forks)


def start(folder, mark):
    """Start the study as `make run` does."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path, MARK: mark, "NEUROPRUNE_REPORT": "", "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.yaml"]
    pipes = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*words, "--unlock", "--quiet", "all"], **pipes, check=False)
    with (folder / "snakemake.log").open("a") as log:
        return subprocess.Popen([*words, "--cores", "2", "collect"], **pipes | {"stdout": log, "stderr": log})


def kill(snakemake, mark, victim):
    """Kill a victim; return the number of processes that do not follow it, or None if there was no such victim."""
    running = jobs(marked(mark))
    if victim == "workflow":
        snakemake.kill()
        return 0  # its jobs finish their runs, see docs/cluster.md
    if victim == "machine":
        for number in [snakemake.pid, *marked(mark)]:
            end(number)
        snakemake.wait()
        return left(mark, set(marked(mark)))
    found = running if victim == "job" else [fork for number in running for fork in children(number)]
    if not found:
        return None
    number = random.choice(found)
    below = set(children(number)) | {other for fork in children(number) for other in children(fork)}
    end(number)
    return left(mark, below)


def end(number):
    """Kill a process that may have ended."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return


def left(mark, processes):
    """Count the processes that are still there after the grace; end them."""
    deadline = time.monotonic() + GRACE
    while (orphans := processes & marked(mark).keys()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for number in orphans:
        end(number)
    return len(orphans)


def results(folder):
    """Return what the records of a study say that does not depend on time."""
    found = {path.parent.name: read_record(path).result for path in folder.glob("results/mini/runs/*/run.json")}
    return {run: (result.files, result.metrics, result.steps) for run, result in found.items()}


def complete(folder, mark):
    """Start the study until it is complete."""
    for _ in range(STARTS):
        if start(folder, mark).wait() == 0:
            return
        while jobs(marked(mark)):  # of a start that was killed
            time.sleep(0.2)
    sys.exit(f"The study is not complete after {STARTS} starts: {folder / 'snakemake.log'}")


def main():
    """Kill, restart, compare; print a line for each kill, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="where to work; its content is deleted")
    asked = parser.parse_args()
    random.seed(asked.seed)
    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    write_weather(asked.folder / "data")
    study_file(asked.folder, lambda study: study.update(SETTINGS))
    mark, begun = f"{os.getpid()}", time.monotonic()
    complete(asked.folder, mark)
    seconds, expected = time.monotonic() - begun, results(asked.folder)
    print(f"Undisturbed: {len(expected)} runs in {seconds:.0f} s", flush=True)
    counts, orphans, equal, studies = Counter(), 0, 0, 0
    while counts.total() < asked.kills:
        shutil.rmtree(asked.folder / "results")
        kills_of_study = random.randint(1, 5)
        for _ in range(min(kills_of_study, asked.kills - counts.total())):
            snakemake, victim = start(asked.folder, mark), random.choice(VICTIMS)
            try:
                snakemake.wait(timeout=random.uniform(1, seconds))
            except subprocess.TimeoutExpired:
                found = kill(snakemake, mark, victim)
                snakemake.wait()
                if found is not None:
                    counts[victim] += 1
                    orphans += found
                    print(f"{counts.total()} of {asked.kills}: {victim} killed, {found} orphans", flush=True)
        complete(asked.folder, mark)
        studies, same = studies + 1, results(asked.folder) == expected
        equal += same
        print(f"study {studies}: {'equal' if same else 'DIFFERENT'}", flush=True)
    orphans += left(mark, set(marked(mark)))
    print(f"{counts.total()} kills ({dict(counts)}): {equal} of {studies} studies equal, {orphans} orphans")
    sys.exit(equal < studies or orphans > 0)


if __name__ == "__main__":
    main()
