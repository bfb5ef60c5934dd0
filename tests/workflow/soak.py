"""Random kills of the mini study: `make soak`.

A study is killed at random moments and started again until it is complete, over and over. The results must be those of
an undisturbed study, and no process may outlive the one that started it. A soak that was stopped is continued.
"""

import argparse
import json
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
from neuroprune.files.atomic import file_hash, finite, text_hash, write_json
from neuroprune.results.records import read_record

MARK = "NEUROPRUNE_SOAK"  # environment of all processes of the study
VICTIMS = ("workflow", "job", "child", "machine")
PATIENCE = 60.0  # seconds until a victim of a kind has to be there
GRACE = 20.0  # seconds in which a process has to follow its parent
EXPECTED, LOG = "expected.json", "soak.jsonl"  # of the undisturbed study; a line for each study with kills
TEMPORARY = "tmp"
STARTS = 30  # of one study, at most
WAIT = 0.2  # longest time between two kills, as a share of the undisturbed study's
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
        "HF_HUB_OFFLINE": "1", "TMPDIR": str((folder / TEMPORARY).resolve()),
    }  # fmt: skip
    (folder / TEMPORARY).mkdir(exist_ok=True)
    shutil.rmtree(folder / ".snakemake/locks", ignore_errors=True)  # all that `snakemake --unlock` does, in no time
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.yaml"]
    with (folder / "snakemake.log").open("a") as log:
        words += ["--cores", "2", "collect"]
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)


def kill(snakemake, mark, victim):
    """Kill a victim; return the number of processes that do not follow it, or None if there was no such victim."""
    running = jobs(marked(mark))
    if victim == "workflow":
        snakemake.kill()
        snakemake.wait()
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


def kill_one(snakemake, mark):
    """Kill a victim of a random kind, as soon as there is one; return its kind and what `kill` found.

    Jobs spend most of their time on their start, so that random moments alone hardly ever meet the fork that trains.
    """
    victim, deadline = random.choice(VICTIMS), time.monotonic() + PATIENCE
    while (orphans := kill(snakemake, mark, victim)) is None:
        if snakemake.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(random.uniform(0.2, 2))
    return victim, orphans


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


def prepare(folder):
    """Write the study's files into a new folder, run the study undisturbed, and keep its results and duration."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_weather(folder / "data")
    study_file(folder, lambda study: study.update(SETTINGS))
    begun = time.monotonic()
    complete(folder, str(os.getpid()))
    seconds = time.monotonic() - begun
    write_json(folder / EXPECTED, {"code": code_hash(), "seconds": seconds, "results": results(folder)})


def code_hash():
    """Return the hash of the package and the workflow: a soak of other code is not continued."""
    files = [*ROOT.glob("neuroprune/**/*.py"), *ROOT.glob("workflow/rules/*.smk"), ROOT / "Snakefile"]
    return text_hash("".join(file_hash(path) for path in sorted(files)))


def can_continue(folder, kills):
    """Tell whether a folder holds an unfinished soak of this code."""
    if not (folder / EXPECTED).exists() or json.loads((folder / EXPECTED).read_text()).get("code") != code_hash():
        return False
    return sum(study["kills"] for study in studies_of(folder)) < kills


def studies_of(folder):
    """Return what the log says of the studies so far."""
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()] if (folder / LOG).exists() else []


def killed_study(folder, number, kills, seconds):
    """Run the study once with this many kills; return the kills by victim and the orphans."""
    mark, counts, orphans = f"{os.getpid()}-{number}", Counter(), 0
    shutil.rmtree(folder / "results", ignore_errors=True)
    while counts.total() < kills:
        snakemake = start(folder, mark)
        while counts.total() < kills and runs_for(snakemake, random.uniform(1, WAIT * seconds)):
            victim, found = kill_one(snakemake, mark)
            if found is not None:
                counts[victim] += 1
                orphans += found
        if snakemake.wait() == 0:
            break
    complete(folder, mark)
    return counts, orphans + left(mark, set(marked(mark)))


def runs_for(snakemake, seconds):
    """Return whether Snakemake is still running after some seconds; it goes on after the kill of a job."""
    try:
        snakemake.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def leftovers(folder):
    """Return what a complete study should not have: temporary files and folders, checkpoints and models."""
    temporary = list((folder / TEMPORARY).glob("neuroprune*"))
    hidden = [path for path in folder.glob("results/**/.*") if path.name != ".lock"]
    large = [path for name in ("checkpoints", "model") for path in folder.glob(f"results/mini/runs/*/{name}")]
    return [str(path.relative_to(folder)) for path in temporary + hidden + large]


def soak(folder, kills, seed):
    """Kill and compare study by study; each is a line of the log, and those of an earlier start count."""
    expected = json.loads((folder / EXPECTED).read_text())
    studies = studies_of(folder)
    while (done := sum(study["kills"] for study in studies)) < kills:
        random.seed(f"{seed} {len(studies)}")
        count = min(random.randint(10, 25), kills - done)
        counts, orphans = killed_study(folder, len(studies), count, expected["seconds"])
        equal = finite(results(folder)) == expected["results"]
        study = {"kills": counts.total(), "equal": equal, "orphans": orphans, "left": leftovers(folder), **counts}
        studies.append(study)
        with (folder / LOG).open("a") as log:
            log.write(json.dumps(study) + "\n")
        print(f"{done + counts.total()} of {kills} kills: {study}", flush=True)
    return studies


def main():
    """Kill, restart, compare; print a line for each study, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="where to work; an unfinished soak is continued")
    asked = parser.parse_args()
    if not can_continue(asked.folder, asked.kills):
        prepare(asked.folder)
    studies = soak(asked.folder, asked.kills, asked.seed)
    kills = sum(study["kills"] for study in studies)
    equal = sum(study["kills"] for study in studies if study["equal"])
    orphans, remains = sum(study["orphans"] for study in studies), sum(len(study["left"]) for study in studies)
    print(f"{equal} of {kills} kills ended in equal results; {orphans} orphans, {remains} temporary files left")
    sys.exit(equal < kills or orphans + remains > 0)


if __name__ == "__main__":
    main()
