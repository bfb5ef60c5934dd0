"""Schemas of a run's record and timing, and reading of the small array files next to them.

A run is a folder, ``results/<study>/runs/<run>/``. Its ``run.json`` has three sections (settings, environment, result),
so that every number can be traced to its code, data and machine. This module does not import torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from neuroprune.config.canonical import json_hash
from neuroprune.config.fields import FOLDER_NAME
from neuroprune.config.settings import RunSettings, TimingSettings
from neuroprune.errors import UserError
from neuroprune.files.atomic import finite
from neuroprune.files.failures import sentence
from neuroprune.results.environment import Environment, Part

SCHEMA_VERSION: Literal[1] = 1
Time = Annotated[float, Field(ge=0)]
Number = Annotated[int, Field(ge=0)]
Rows = Annotated[int, Field(ge=1)]
ROUNDING = 1e-9
PREDICTIONS = "predictions.safetensors"  # next to the record: predicted and true classes of the evaluation rows
Share = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING)]
FileName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
HEADS = 2**16  # more than any layer has
_POSITIONS: TypeAdapter[list[list[int]]] = TypeAdapter(list[list[Annotated[int, Field(ge=0, lt=HEADS, strict=True)]]])


class SparsityRecord(Part):
    """Final sparsity: removed or zero weights and units as fractions of the dense model, and the remaining units."""

    weights: Share = Field(description="Fraction of the prunable weights (Q, K, V, O and MLP matrices).")
    heads: Share
    neurons: Share
    parameters: Number = Field(description="All remaining parameters, including embeddings.")
    dense_parameters: Number
    heads_per_layer: list[Number] = Field(description="Remaining heads of each attention.")
    neurons_per_layer: list[Number] = Field(description="Remaining neurons of each MLP.")

    @model_validator(mode="after")
    def _not_larger_than_dense(self) -> SparsityRecord:
        if self.parameters > self.dense_parameters:
            raise ValueError(f"parameters {self.parameters} exceed dense_parameters {self.dense_parameters}")
        return self


class Quartiles(Part):
    """Median and quartiles over the measured passes."""

    median: Time
    q1: Time
    q3: Time

    @model_validator(mode="after")
    def _ascending(self) -> Quartiles:
        if not self.q1 <= self.median <= self.q3:
            raise ValueError(f"q1 {self.q1}, median {self.median} and q3 {self.q3} must ascend")
        return self


class StepTimes(Part):
    """Time per training step between two changes of the model's size, in milliseconds."""

    parameters: Number = Field(description="Number of parameters during these steps.")
    steps: Number
    ms: Quartiles = Field(description="From the forward pass to the end of the method's work, on the device's clock.")


class Result(Part):
    """Results of a run. Non-finite values are stored as null."""

    metric: str = Field(description="Name of the metric that tables and figures show.")
    value: float | None
    metrics: dict[str, float | None]
    majority: float | None = Field(description="The metric of always predicting the most frequent class.")
    copied: float | None = Field(
        default=None,
        description="The metric of copying the source: all of it in translation, its first words in summarization, as "
        "many as the training rows' summaries have on average.",
    )
    labels: list[str]
    train_rows: Rows
    eval_rows: Rows
    steps: Number
    epochs: Time
    train_seconds: Time = Field(description="Wall-clock time of training including evaluations, over all jobs.")
    eval_seconds: Time = Field(description="Part of it spent on evaluation.")
    train_cpu_seconds: Time | None = Field(
        default=None,
        description="Processor time of the main process in training without evaluations; other work on the machine "
        "hardly changes it. Null on an accelerator and in older records.",
    )
    seconds_per_step: Time | None
    resumed_at: list[Number] = Field(
        default_factory=list, description="Steps from which a job resumed after a killed one."
    )
    step_times: list[StepTimes] = Field(
        default_factory=list,
        description="Step times before, between and after the cuts, over all jobs.",
    )
    sparsity: SparsityRecord
    degree_sd_percent: float | None = Field(description="Standard deviation of the MLP neurons' degrees in percent.")
    history: list[dict[str, float | None]] = Field(
        default_factory=list, description="Log entries: step, epoch, loss, metrics."
    )
    method: dict[str, Any] = Field(default_factory=dict, description="The method's own report.")
    files: dict[FileName, str] = Field(default_factory=dict, description="SHA-256 of the files next to the record.")

    @model_validator(mode="after")
    def _one_value(self) -> Result:
        value, measured = (_known(found) for found in (self.value, self.metrics.get(self.metric)))
        if value != measured:
            raise ValueError(f"value {value} and metrics.{self.metric} {measured} must be the same")
        for name, found in (("value", value), ("majority", self.majority), ("copied", self.copied)):
            if found is not None and abs(found) > 1 + ROUNDING:
                raise ValueError(f"{name} {found} of {self.metric} must be a fraction, not a percentage")
        return self

    @model_validator(mode="after")
    def _positions_of_each_layer(self) -> Result:
        removed, layers = self.method.get("removed_heads"), len(self.sparsity.heads_per_layer)
        if removed is None:
            return self
        try:
            fits = len(_POSITIONS.validate_python(removed)) == layers
        except ValidationError:
            fits = False
        if not fits:
            raise ValueError(f"method.removed_heads must be {layers} lists of positions, one for each attention layer")
        return self


def _known(value: float | None) -> float | None:
    """Return a value, or None if it is not finite."""
    return value if value is not None and math.isfinite(value) else None


class RunRecord(Part):
    """Content of ``run.json``: everything needed to check and repeat one run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    status: Literal["done", "diverged", "stopped"]
    settings: RunSettings
    environment: Environment
    result: Result

    @model_validator(mode="after")
    def _one_name(self) -> RunRecord:
        if self.run != self.settings.run:
            raise ValueError(f"run {self.run!r} and settings.run {self.settings.run!r} must be the same")
        return self

    @model_validator(mode="after")
    def _metric_of_the_settings(self) -> RunRecord:
        found, wanted = self.result.metric, self.settings.task.metric
        if found != wanted:
            raise ValueError(f"result.metric {found!r} and settings.task.metric {wanted!r} must be the same")
        if self.status == "diverged" and self.result.value is not None:
            raise ValueError(f"a diverged run has no metric, but result.value is {self.result.value}")
        return self


class BatchTiming(Part):
    """Inference times of the pruned and the dense model at one batch size, in milliseconds per example."""

    batch_size: Rows
    examples: Rows
    ms_per_example: Quartiles
    dense_ms_per_example: Quartiles
    speedup: Quartiles = Field(description="Dense time over pruned time, pass by pass.")


class TimingRecord(Part):
    """Content of ``timing.json``: inference times of one run; no batches if the run has no model to time."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run: str
    settings: TimingSettings
    environment: Environment
    dense_parameters: Number | None
    parameters: Number | None
    batches: list[BatchTiming]


AnyRecord = TypeVar("AnyRecord", RunRecord, TimingRecord)


# ---- files


def _read(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        odd = finite(data) != data
    except OSError as error:
        raise UserError(
            sentence(error) or f"{path}: cannot be read ({error.strerror}); run the study first."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); delete it and run again.") from error
    if odd:
        raise UserError(
            f"{path}: contains a number that is infinite or not a number, which no run writes; restore the file, or "
            "delete it and run again."
        )
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise UserError(
            f"{path}: records of version {found!r} cannot be read, this program writes version {SCHEMA_VERSION}; "
            "delete the file and run again."
        )
    try:
        record = kind.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}; delete the file and run again.") from error
    if json_hash(data["settings"]) != record.environment.settings_sha256:
        raise UserError(
            f"{path}: its settings do not match environment.settings_sha256, so they were edited after the run; "
            "restore the file, or delete it and run again."
        )
    return record


def _first_problem(error: ValidationError) -> str:
    """Describe the first error of a record and count the others, or report a different method version."""
    problem = error.errors()[0]
    if problem["loc"][:2] == ("settings", "method") and problem["loc"][-1] == "version":
        return f"made by version {problem['input']} of {problem['loc'][-2]}, whose results differ from this version's"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    place = ".".join(str(part) for part in problem["loc"]) or "record"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}{more}"


def read_record(path: Path) -> RunRecord:
    """Read a ``run.json``.

    Args:
        path: The file.

    Returns:
        The record.

    Raises:
        UserError: If the file is missing, damaged, or of another version.
    """
    return _read(path, RunRecord)


def read_timing(path: Path) -> TimingRecord:
    """Read a ``timing.json``; raise UserError if it is missing, damaged or of another version."""
    return _read(path, TimingRecord)


def read_valid(read: Callable[[Path], AnyRecord], path: Path) -> AnyRecord | None:
    """Read a record; return None if it is missing or damaged."""
    try:
        return read(path)
    except UserError:
        return None


def read_plan(study_dir: Path) -> dict[str, Any]:
    """Read a study's plan, ``plan.json``.

    Args:
        study_dir: The study's folder.

    Returns:
        At least ``runs`` (settings by name), ``timed`` (names) and ``settings`` (of the study); all are empty if there
        is no plan.

    Raises:
        UserError: If the file is damaged or not a plan.
    """
    path = Path(study_dir) / "plan.json"
    if not path.exists():
        return {"runs": {}, "timed": [], "settings": {}}
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise UserError(str(sentence(error))) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a plan ({error}); plan the study again or delete it.") from error
    plan = {"timed": [], "settings": {}, **plan} if isinstance(plan, dict) else {}
    sections = {"runs": dict, "timed": list, "settings": dict}
    if not all(isinstance(plan.get(name), kind) for name, kind in sections.items()):
        raise UserError(f"{path}: this is not the plan of a study; plan the study again or delete it.")
    for name in (*plan["runs"], *plan["timed"]):
        if not (isinstance(name, str) and re.fullmatch(FOLDER_NAME, name)):
            raise UserError(f"{path}: {name!r} is not a valid run name; plan the study again or delete the file.")
    return plan


# ---- bit masks of non-zero weights


def _pack(present: np.ndarray, every: int) -> np.ndarray:
    """Pack a boolean mask into bits.

    Args:
        present: Entries with absolute value of at least eps, bool ``[rows, columns]``.
        every: Keep only every n-th row and column.

    Returns:
        Bits along the last axis, uint8 ``[ceil(rows / every), ceil(ceil(columns / every) / 8)]``.
    """
    return np.packbits(np.asarray(present, dtype=bool)[::every, ::every], axis=-1)


def _unpack(packed: np.ndarray, shape: Iterable[int], every: int) -> np.ndarray:
    """Invert ``_pack``: return bool ``[rows, columns]`` of this shape; stored entries also fill skipped ones."""
    rows, columns = (np.arange(int(size)) // every for size in shape)
    present = np.unpackbits(np.asarray(packed, dtype=np.uint8), axis=-1, count=columns[-1] + 1).astype(bool)
    return present[rows[:, None], columns]


def pack_patterns(patterns: Mapping[str, np.ndarray], room: float = np.inf) -> dict[str, np.ndarray]:
    """Return the tensors of ``patterns.safetensors``: each mask as bits, and its shape as ``<name>.shape``, int64 [2].

    Args:
        patterns: Masks by name, bool ``[rows, columns]``.
        room: Limit in bytes. If the masks exceed it, only every second, third, … row and column is stored.

    Returns:
        The tensors, with the stride of the stored rows and columns as ``every``, int64 [1].
    """
    every = 1
    while sum(-(-mask.shape[0] // every) * -(-mask.shape[1] // (8 * every)) for mask in patterns.values()) > room:
        every += 1
    packed = {name: _pack(present, every) for name, present in patterns.items()}
    shapes = {f"{name}.shape": np.array(present.shape, dtype=np.int64) for name, present in patterns.items()}
    return packed | shapes | {"every": np.array([every], dtype=np.int64)}


def read_patterns(path: Path) -> dict[str, np.ndarray]:
    """Read a run's ``patterns.safetensors``: bool ``[rows, columns]`` in dense coordinates by name (``q.3``)."""
    tensors = read_arrays(path)
    every = int(tensors.pop("every", [1])[0])
    names = [name for name in tensors if not name.endswith(".shape")]
    return {name: _unpack(tensors[name], tensors[f"{name}.shape"], every) for name in names}


def shrink(mask: np.ndarray, cells: int) -> np.ndarray:
    """Reduce a mask to the averages of its blocks, for storing and printing.

    Args:
        mask: bool ``[rows, columns]``.
        cells: Largest number of rows and columns of the result.

    Returns:
        float ``[min(rows, cells), min(columns, cells)]``: the fraction of true entries in each block. Block sizes
        differ by at most one row and column, and every entry belongs to exactly one block.
    """
    starts = [np.linspace(0, size, min(size, cells), endpoint=False).astype(int) for size in mask.shape]
    sums = np.add.reduceat(np.add.reduceat(mask.astype(float), starts[0], axis=0), starts[1], axis=1)
    sizes = [np.diff([*start, size]) for start, size in zip(starts, mask.shape, strict=True)]
    return sums / np.outer(*sizes)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file as NumPy arrays; raise UserError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(sentence(error) or f"{path}: cannot be read ({error}); repeat this run.") from error
