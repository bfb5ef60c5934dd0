"""Estimated work of a run, without its data, for time estimates and progress.

The unit is one operation of the dense model's forward and backward pass. The speed of the machine is measured in
`training.machine_speed`.
"""

from __future__ import annotations

from collections.abc import Mapping

from neuroprune.config.gpu_hours import known_rows, known_tokens
from neuroprune.config.memory import shape_of
from neuroprune.config.methods.dense import DenseSettings
from neuroprune.config.settings import RunSettings

OPERATIONS = 6  # per weight and token: two in the forward pass, four in the backward pass
SAVED = 0.77  # of a step's time at full sparsity; the rest is embeddings, the optimizer and the evaluation
ROWS = 1000  # assumed if the number of rows is unknown, so that epochs still count in comparisons between runs


def operations(run: RunSettings) -> float | None:
    """Estimate the operations of a run's training.

    Args:
        run: Its settings.

    Returns:
        Operations in the layers, without embeddings; None if the model or dataset is unknown.
    """
    shape = shape_of(run.model.source, run.model.config, layers=run.model.layers)
    rows, tokens = known_rows(run), known_tokens(run)
    if rows is None or tokens is None or not shape.layers:
        return None
    return OPERATIONS * shape.layers * shape.layer_weights * tokens * rows * run.training.epochs * _share(run)


def shares(runs: Mapping[str, RunSettings]) -> dict[str, float]:
    """Return each run's fraction of a study's work.

    Args:
        runs: All runs by name.

    Returns:
        Fractions that add up to 1, based only on epochs and rows if any run's work is unknown.
    """
    known = {name: operations(run) for name, run in runs.items()}
    if any(work is None for work in known.values()):
        known = {name: run.training.epochs * (known_rows(run) or ROWS) * _share(run) for name, run in runs.items()}
    total = sum(work or 0 for work in known.values())
    return {name: (work or 0) / total for name, work in known.items()}


def _share(run: RunSettings) -> float:
    """Return the time of a run over that of a dense one with as many steps."""
    sparsity = getattr(run.method, "sparsity", None)
    if isinstance(run.method, DenseSettings) or sparsity is None or run.training.budget == "dense_flops":
        return 1
    return 1 - SAVED * sparsity * (1 - run.method.removal)
