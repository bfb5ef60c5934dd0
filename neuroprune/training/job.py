"""Jobs that train or time several runs, one after another.

Every run is either complete or missing, and has the same folder, record, log, lock and checkpoints as in a separate
job. Complete runs are recognised by their records. A job that was killed or regrouped therefore repeats only the
missing runs.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neuroprune.config.jobs import CHECKPOINTS, JobRuns
from neuroprune.config.settings import RunSettings, TimingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash, write_json
from neuroprune.results.manifests import Prepared
from neuroprune.results.outdated import timed_with
from neuroprune.results.records import read_record, read_timing, read_valid
from neuroprune.training.forked import ForkedTask, run_in_forks

# Imported before the first fork, so that the forked runs need not load them.
TIMING_LIBRARIES = ("datasets", "neuroprune.training.inference_time")
LIBRARIES = (*TIMING_LIBRARIES, "sklearn.metrics", "neuroprune.training.run")


@dataclass(frozen=True)
class Place:
    """Folders of a job.

    Args:
        study: The study's folder, which contains `runs/<run>`.
        data_root: Folder of the datasets.
        keep_models: Whether to keep models that are already timed or need no timing.
    """

    study: Path
    data_root: Path
    keep_models: bool = False

    def folder(self, run: str) -> Path:
        """Return a run's folder."""
        return self.study / "runs" / run


def train(runs: JobRuns, made: Prepared, place: Place, output: Path, checkpoint_minutes: float) -> None:
    """Train the missing runs of a job and write the list of all records.

    A run is complete if its record has these settings, data and model, and if its model exists or is not needed. A
    model is needed until it is timed, and permanently with `keep_models`. Models that are not needed are deleted.

    Args:
        runs: Settings of all runs.
        made: Manifests of the data and the model.
        place: The job's folders.
        output: JSON file for the list.
        checkpoint_minutes: See `training.run.train`.

    Raises:
        UserError: If runs failed; all others are then complete.
    """
    forked_tasks = []
    for run in runs.runs:
        trained = is_trained(run, made, place)
        needed = place.keep_models or (run.run in runs.timed and not (trained and _is_timed(run.run, runs, place)))
        after = _nothing if needed else partial(_delete_model, place.folder(run.run))
        if trained and (not needed or _model(place.folder(run.run)).is_dir()):
            after()
            shutil.rmtree(place.folder(run.run) / CHECKPOINTS, ignore_errors=True)  # of a job killed at its end
        else:
            forked_tasks.append(_training(run, made, place, checkpoint_minutes, after))
    _do(forked_tasks, len(runs.points), "trained", LIBRARIES)
    _write_list(output, [place.folder(run.run) / "run.json" for run in runs.runs])


def measure(timing: TimingSettings, names: Sequence[str], place: Place, output: Path) -> None:
    """Time the runs of a job that have no times with these settings, and write the list of all times.

    Args:
        timing: Settings of the timing.
        names: Names of trained runs.
        place: The job's folders.
        output: JSON file for the list.

    Raises:
        UserError: If runs failed; all others are then timed.
    """
    forked_tasks = []
    for name in names:
        after = _nothing if place.keep_models else partial(_delete_model, place.folder(name))
        if is_timed(name, timing, place):
            after()
        else:
            forked_tasks.append(_timing(name, timing, place, after))
    _do(forked_tasks, len(names), "timed", TIMING_LIBRARIES)
    _write_list(output, [place.folder(name) / "timing.json" for name in names])


def is_trained(run: RunSettings, made: Prepared, place: Place) -> bool:
    """Return whether a run's record matches these settings, data and model; older records have no model hash."""
    record = read_valid(read_record, place.folder(run.run) / "run.json")
    return record is not None and made.gave(record, run)


def is_timed(name: str, timing: TimingSettings, place: Place) -> bool:
    """Return whether a run is timed with these settings on its record's data; training deletes earlier times."""
    record = read_valid(read_record, place.folder(name) / "run.json")
    found = read_valid(read_timing, place.folder(name) / "timing.json")
    if record is None or found is None:
        return False
    return timed_with(found, timing) and found.environment.data_sha256 == record.environment.data_sha256


def _is_timed(name: str, runs: JobRuns, place: Place) -> bool:
    return runs.timing is not None and is_timed(name, runs.timing, place)


def _training(
    run: RunSettings, made: Prepared, place: Place, checkpoint_minutes: float, after: Callable[[], None]
) -> ForkedTask:
    def work() -> None:
        """Train the run like `neuroprune train`."""
        from neuroprune.training import run as training

        output = place.folder(run.run) / "run.json"
        training.train(run, output, place.data_root, checkpoint_minutes, made)

    return ForkedTask(run.run, place.folder(run.run) / "train.log", work, after)


def _timing(name: str, timing: TimingSettings, place: Place, after: Callable[[], None]) -> ForkedTask:
    def work() -> None:
        """Time the run like `neuroprune measure`."""
        from neuroprune.training.inference_time import measure

        measure(timing, place.folder(name) / "run.json", place.folder(name) / "timing.json", place.data_root)

    return ForkedTask(name, place.folder(name) / "measure.log", work, after)


def _do(forked_tasks: Sequence[ForkedTask], total: int, done: str, libraries: Sequence[str]) -> None:
    """Import libraries and run the missing tasks; afterwards raise an error that lists failed ones."""
    print(f"{total - len(forked_tasks)} of {total} runs are already {done}", flush=True)
    if forked_tasks:
        for library in libraries:
            importlib.import_module(library)
    if failed := run_in_forks(forked_tasks):
        names = ", ".join(task.name for task in failed)
        raise UserError(f"{len(failed)} of {total} runs could not be {done}: {names}; see {failed[0].log}.")


def _write_list(output: Path, files: Iterable[Path]) -> None:
    hashes = {f"{file.parent.name}/{file.name}": file_hash(file) for file in files}
    write_json(output, {"schema_version": 1, "files": hashes})


def _model(folder: Path) -> Path:
    return folder / "model"


def _delete_model(folder: Path) -> None:
    shutil.rmtree(_model(folder), ignore_errors=True)


def _nothing() -> None:
    """Do nothing."""
