"""Training of several sparsities with shared initial steps, from which each sparsity continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from neuroprune.config.canonical import settings_hash
from neuroprune.config.jobs import CHECKPOINTS
from neuroprune.config.methods import NeuroPruneSettings, TaylorSettings
from neuroprune.config.settings import RunSettings
from neuroprune.errors import UserError
from neuroprune.files.temporary import temporary_folder
from neuroprune.methods.components.state_files import load_state, save_state
from neuroprune.pruning.sparsity import cubic_schedule
from neuroprune.results.records import RunRecord, read_record
from neuroprune.training import checkpoints, run


def train(family: Sequence[RunSettings], study: Path, data_root: Path) -> list[RunRecord]:
    """Train runs that differ only in their target sparsity, with the same weights as if trained separately.

    Args:
        family: Settings of the runs, of NeuroPrune-FC or Taylor.
        study: Folder of the study; a run is written to `runs/<name>`.
        data_root: Folder of the datasets.

    Returns:
        The records. The training time of each includes the shared steps.

    Raises:
        UserError: If the data or the model are unavailable, or a run diverged.
    """
    first: Any = family[0].method
    paths = [study / "runs" / settings.run / "run.json" for settings in family]
    with temporary_folder(".shared-", study) as shared:
        branch = checkpoints.Branch(shared / "checkpoint", first.start, first.end, first.events)
        for settings, path in zip(family, paths, strict=True):
            if branch.folder.is_dir():
                continue_from(branch.folder, settings, path.parent)
            run.train(settings, path, data_root, branch=None if branch.folder.is_dir() else branch)
    records = [read_record(path) for path in paths]
    for record in records:
        if record.status != "done":
            raise UserError(f"{record.run}: the loss is no longer finite; try a smaller --learning-rate.")
    return records


def continue_from(shared: Path, settings: RunSettings, folder: Path) -> None:
    """Start a run from another run's checkpoint before the first removal.

    Args:
        shared: The checkpoint of a run that differs only in its sparsity.
        settings: Settings of the run.
        folder: Folder of the run.
    """
    progress, method = checkpoints.read_progress(shared), cast(NeuroPruneSettings | TaylorSettings, settings.method)
    step = json.loads((shared / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    own = folder / CHECKPOINTS / f"checkpoint-{step}"
    shutil.copytree(shared, own)
    state = load_state(own)
    assert state is not None, "no method state next to the checkpoint"
    steps = [step for step, _ in state["plan"]]
    state["plan"] = list(zip(steps, cubic_schedule(method.sparsity or 0.0, len(steps)), strict=True))
    state["report"]["sparsity"] = method.sparsity
    state["method"] = [method.name, settings_hash(method)]
    save_state(own, state)
    progress.identity = {**progress.identity, "settings_sha256": settings_hash(settings)}
    checkpoints.write_mark(own, progress)
