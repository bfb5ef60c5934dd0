"""Runs that share a job: what of them is not there yet is trained, or timed, one run after another.

A run is whole or absent, as if it had a job for itself: its folder, record, log, lock and checkpoints are the same.
What is there already is recognised by what its record says, so a job that was killed, or whose runs were put together
anew, does only what is missing.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from neuroprune.config.jobs import JobRuns
from neuroprune.config.settings import RunSettings, TimingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash, write_json
from neuroprune.results.manifests import Prepared
from neuroprune.results.records import RunRecord, TimingRecord, read_record, read_timing
from neuroprune.training.forked import Piece, in_turn

AnyRecord = TypeVar("AnyRecord", RunRecord, TimingRecord)
# Imported before the first fork, so that the runs of a job need not load them.
LIBRARIES = ("datasets", "evaluate", "sklearn.metrics", "neuroprune.training.inference_time", "neuroprune.training.run")


@dataclass(frozen=True)
class Place:
    """Where a job works.

    Args:
        study: The study's folder, with `runs/<run>`.
        data_root: Where datasets are kept.
        keep_models: Whether the models of runs stay that need not be timed, or are.
    """

    study: Path
    data_root: Path
    keep_models: bool = False

    def folder(self, run: str) -> Path:
        """Return a run's folder."""
        return self.study / "runs" / run


def train(runs: JobRuns, made: Prepared, place: Place, output: Path, checkpoint_minutes: float) -> None:
    """Train those runs of a job that are not there, and write the list of all their records.

    A run is there if its record has these settings, data and model, and if its model lies beside it or is not needed:
    it is needed until it is timed, and for good with `keep_models`. Models that are not needed are deleted.

    Args:
        runs: The settings of all runs.
        made: What they are to be made of.
        place: Where they lie.
        output: The list, a JSON file.
        checkpoint_minutes: See `training.train`.

    Raises:
        UserError: After all runs, if some failed.
    """
    pieces = []
    for run in runs.runs:
        trained = is_trained(run, made, place)
        needed = place.keep_models or (run.run in runs.timed and not (trained and _is_timed(run.run, runs, place)))
        after = _nothing if needed else partial(_delete_model, place.folder(run.run))
        if trained and (not needed or _model(place.folder(run.run)).is_dir()):
            after()
        else:
            pieces.append(_training(run, made, place, checkpoint_minutes, after))
    _do(pieces, len(runs.points), "trained")
    _write_list(output, [place.folder(run.run) / "run.json" for run in runs.runs])


def measure(timing: TimingSettings, names: Sequence[str], place: Place, output: Path) -> None:
    """Time those runs of a job that are not timed so already, and write the list of all their times.

    Args:
        timing: How inference is timed.
        names: The runs; all are trained.
        place: Where they lie.
        output: The list, a JSON file.

    Raises:
        UserError: After all runs, if some failed.
    """
    pieces = []
    for name in names:
        after = _nothing if place.keep_models else partial(_delete_model, place.folder(name))
        if is_timed(name, timing, place):
            after()
        else:
            pieces.append(_timing(name, timing, place, after))
    _do(pieces, len(names), "timed")
    _write_list(output, [place.folder(name) / "timing.json" for name in names])


def is_trained(run: RunSettings, made: Prepared, place: Place) -> bool:
    """Tell whether a run's record is what training it would give; an older record may not say which model it had."""
    record = _read(read_record, place.folder(run.run) / "run.json")
    return (
        record is not None
        and record.settings == run
        and record.environment.data_sha256 == made.data_sha256
        and record.environment.model_sha256 in (None, made.model_sha256)
    )


def is_timed(name: str, timing: TimingSettings, place: Place) -> bool:
    """Tell whether a run has been timed so, on the data of its record; training deletes the times of earlier models."""
    record = _read(read_record, place.folder(name) / "run.json")
    found = _read(read_timing, place.folder(name) / "timing.json")
    if record is None or found is None:
        return False
    return found.settings == timing and found.environment.data_sha256 == record.environment.data_sha256


def _is_timed(name: str, runs: JobRuns, place: Place) -> bool:
    return runs.timing is not None and is_timed(name, runs.timing, place)


def _training(
    run: RunSettings, made: Prepared, place: Place, checkpoint_minutes: float, after: Callable[[], None]
) -> Piece:
    def work() -> None:
        """Train the run, as `neuroprune train` does."""
        from neuroprune.training import run as training

        output = place.folder(run.run) / "run.json"
        training.train(run, output, place.data_root, checkpoint_minutes, made)

    return Piece(run.run, place.folder(run.run) / "train.log", work, after)


def _timing(name: str, timing: TimingSettings, place: Place, after: Callable[[], None]) -> Piece:
    def work() -> None:
        """Time the run, as `neuroprune measure` does."""
        from neuroprune.training.inference_time import measure

        measure(timing, place.folder(name) / "run.json", place.folder(name) / "timing.json", place.data_root)

    return Piece(name, place.folder(name) / "measure.log", work, after)


def _do(pieces: Sequence[Piece], total: int, done: str) -> None:
    """Do what is missing, and say at the end what failed."""
    print(f"{total - len(pieces)} of {total} runs are {done} already", flush=True)
    if pieces:
        for library in LIBRARIES:
            importlib.import_module(library)
    if failed := in_turn(pieces):
        names = ", ".join(piece.name for piece in failed)
        raise UserError(f"{len(failed)} of {total} runs could not be {done}: {names}; {failed[0].log} says why.")


def _write_list(output: Path, files: Iterable[Path]) -> None:
    hashes = {f"{file.parent.name}/{file.name}": file_hash(file) for file in files}
    write_json(output, {"schema_version": 1, "files": hashes})


def _read(read: Callable[[Path], AnyRecord], path: Path) -> AnyRecord | None:
    """Read a record; one that is absent or damaged counts as none."""
    try:
        return read(path)
    except UserError:
        return None


def _model(folder: Path) -> Path:
    return folder / "model"


def _delete_model(folder: Path) -> None:
    shutil.rmtree(_model(folder), ignore_errors=True)


def _nothing() -> None:
    """Leave everything as it is."""
