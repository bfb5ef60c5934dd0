"""Settings of a study: models, tasks and methods to compare, with validation.

Studies are YAML files, which ``catalogue`` reads and ``plan`` expands to runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from neuroprune.config.dimensions import (
    bad_sizes,
    bad_stored_values,
    bad_values,
    changed_sizes,
    find_dimensions,
    stored_config,
)
from neuroprune.config.fields import FolderName, Name, NotNegative, Positive, Settings, distinct
from neuroprune.config.messages import EXPLAINED, explain, explained, raise_explained, shown
from neuroprune.config.methods import METHOD_SETTINGS
from neuroprune.config.settings import ModelSettings, TaskSettings, TimingSettings
from neuroprune.config.training import TrainingSettings
from neuroprune.errors import UserError, did_you_mean
from neuroprune.pruning.architectures import find_architecture

MOST_POINTS = 100_000  # maximum number of points per method of an experiment
PUBLISHED = "published"  # `make publish` copies studies to `results/published/<study>`


class JobSettings(Settings):
    """Resources that a training or timing job requests from a cluster; changes do not cause reruns."""

    memory_mb: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        default=8000, description="Main memory in MiB; each retry adds the same amount."
    )
    minutes: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Time limit of one run; each retry adds the same amount and resumes from the last checkpoint. "
        "Default: twice the estimate of `neuroprune plan`, but at least 240.",
    )


class ModelRow(ModelSettings):
    """The source of a model, its training settings, and its size."""

    parameters: Positive | None = Field(
        default=None,
        description="Number of parameters for the estimates of `neuroprune plan` if the model is unknown.",
    )
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="For all runs of this model.")
    job: JobSettings = Field(default_factory=JobSettings, description="Resources that a job requests from a cluster.")

    @model_validator(mode="after")
    def _type_is_known(self) -> ModelRow:
        if (kind := model_type(self.source)) is not None:
            try:
                find_architecture(kind)
            except UserError as error:
                raise ValueError(f"source {self.source!r}: {error}") from error
        return self

    @model_validator(mode="after")
    def _sizes_are_sound(self) -> ModelRow:
        if stored := bad_stored_values(self.source):
            text = "; ".join(f"{key} {problem}" for key, problem in stored.items())
            raise ValueError(f"{self.source}/config.json: {text}")
        wrong = bad_values(self.config, model_type(self.source)) or changed_sizes(self.source, self.config)
        wrong = {key: f"{shown(self.config[key])} {text}" for key, text in wrong.items()}
        raise_explained("model", [explained(text, ("config", key), None) for key, text in wrong.items()])
        sizes = find_dimensions(self.source, self.config)
        if sizes and (problems := bad_sizes(sizes, self.layers)):
            raise ValueError("; ".join(problems))
        return self


def model_type(source: str) -> str | None:
    """Return a model's type if it is known without downloads.

    Args:
        source: As in `ModelSettings`.

    Returns:
        The type of `random:TYPE`, or the one in the `config.json` of a folder; None for all other sources.
    """
    if source.startswith("random:"):
        return source.removeprefix("random:")
    found = stored_config(source).get("model_type")
    return found if isinstance(found, str) else None


class TaskRow(TaskSettings):
    """A dataset and its training settings."""

    training: TrainingSettings = Field(default_factory=TrainingSettings, description="For all runs of this task.")


def method_points(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Expand a study's method to its points: all combinations of values given as lists."""
    axes = [value if isinstance(value, list | tuple) else [value] for value in entry.values()]
    if (size := math.prod(map(len, axes))) > MOST_POINTS:
        raise ValueError(f"its lists make {size:.3g} points, more than {MOST_POINTS:,}; give fewer values")
    return [dict(zip(entry, point, strict=True)) for point in product(*axes)]


def _check_method(entry: dict[str, Any]) -> dict[str, Any]:
    """Check every point of a method and report all errors together."""
    name = entry.get("name")
    if not isinstance(name, str) or name not in METHOD_SETTINGS:
        hint = "the method's name is missing" if name is None else f"unknown method {shown(name)}"
        hint += f"{did_you_mean(str(name), METHOD_SETTINGS)}; known: {', '.join(METHOD_SETTINGS)}"
        raise_explained("method", [explained(hint, ("name",), name)])
    empty = [key for key, value in entry.items() if value in ([], ())]
    raise_explained("method", [explained("[] is not allowed; give at least one value", (key,), []) for key in empty])
    lines: dict[tuple[Any, ...], ErrorDetails] = {}
    for point in method_points(entry):
        try:
            METHOD_SETTINGS[str(name)].model_validate(point)
        except ValidationError as error:
            lines |= {(*_axis(entry, line), line["msg"]): line for line in error.errors()}
    texts = {key[:-1]: explain(line, METHOD_SETTINGS[str(name)]) for key, line in lines.items()}
    raise_explained("method", [explained(text, place, None) for place, text in texts.items()])
    return entry


def _axis(entry: Mapping[str, Any], line: ErrorDetails) -> tuple[int | str, ...]:
    """Return the location of a point's error in the method's entry, with the index of the value in a list."""
    place = line["loc"]
    values = entry.get(str(place[0])) if place else None
    if not isinstance(values, list) or len(place) != 1:
        return place
    return (*place, [*map(repr, values)].index(repr(line["input"])))  # by text, because 1 == True


def _known(kind: str) -> AfterValidator:
    """Return a validator that rejects names missing from the validation context."""

    def check(name: str, info: ValidationInfo) -> str:
        """Return a known name; reject an unknown one and suggest the nearest."""
        known = (info.context or {}).get(kind)
        if known is None or name in known:
            return name
        text = f"unknown {kind} {shown(name)}{did_you_mean(name, known)}; known: {', '.join(sorted(known)) or 'none'}"
        raise PydanticCustomError(EXPLAINED, "{text}", {"text": text})

    return AfterValidator(check)


def folder_name(path: str) -> str:
    """Reject paths that a shell or Snakemake would interpret, and names that are too long for a file system."""
    if odd := re.search(r"[{}<>*?~$\x00-\x1f]|^-", path):
        raise ValueError(f"{shown(path)} has {odd.group()!r}, which has a special meaning in commands; leave it out")
    if any(len(part.encode()) > 200 for part in Path(path).parts):
        raise ValueError(f"{shown(path)} has a part of more than 200 bytes; shorten it")
    if len(path.encode()) > 1000:
        raise ValueError(f"{shown(path)} has more than 1,000 bytes; shorten it")
    for part in (Path(path), *Path(path).parents):
        if part.exists() and not part.is_dir():
            raise ValueError(f"{shown(str(part))} is a file; give a folder")
    return path


def _not_reserved(name: str) -> str:
    """Reject the name of the folder with the committed results of all studies."""
    if name == PUBLISHED:
        raise ValueError(f"{name!r} is reserved for committed results; choose another name")
    return name


RunsPerJob = Annotated[int, Field(ge=1, le=50)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...],
    Field(min_length=1, max_length=1000),
    AfterValidator(distinct),
]
Method = Annotated[dict[str, Any], AfterValidator(_check_method)]
Artefacts = Annotated[tuple[Annotated[str, _known("artefact")], ...], Field(min_length=1), AfterValidator(distinct)]


class ExperimentSettings(Settings):
    """A grid of every model, task, method point and seed."""

    models: Annotated[tuple[Annotated[str, _known("model")], ...], AfterValidator(distinct)] = Field(
        min_length=1, description="Rows of `config/models.yaml` or of this study's `models`."
    )
    tasks: Annotated[tuple[Annotated[str, _known("task")], ...], AfterValidator(distinct)] = Field(
        min_length=1, description="Files of `config/tasks` or rows of this study's `tasks`."
    )
    methods: tuple[Method, ...] = Field(
        min_length=1,
        description="Methods with their settings; a list instead of a value is an axis of the grid: "
        "`{name: neuroprune, sparsity: [0.5, 0.8]}`.",
    )
    seeds: Seeds | None = Field(default=None, description="Seeds of this experiment; default: those of the study.")
    training: TrainingSettings = Field(
        default_factory=TrainingSettings, description="Training settings of this experiment; they override all others."
    )
    runs_per_job: RunsPerJob | None = Field(
        default=None, description="Runs that share a job in this experiment; default: those of the study."
    )


class StudySettings(Settings):
    """A study file. Training settings are resolved in this order: experiment, task, model, study, defaults."""

    study: Annotated[FolderName, AfterValidator(_not_reserved)] = Field(
        description="The study's name; its results are written to `<results>/<study>`."
    )
    experiments: dict[Name, ExperimentSettings] = Field(min_length=1, description="What is compared.")
    seeds: Seeds = Field(default=(0,), description="Seeds of experiments that do not set their own.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="For all runs.")
    timing: TimingSettings = Field(default_factory=TimingSettings, description="Timing of inference.")
    models: dict[Name, ModelRow] = Field(
        default_factory=dict, description="Keys that change a row of `config/models.yaml`, or new rows."
    )
    tasks: dict[Name, TaskRow] = Field(
        default_factory=dict, description="Keys that change a file of `config/tasks`, or new rows."
    )
    artefacts: Artefacts | None = Field(default=None, description="Figures and tables to make; default: all.")
    runs_per_job: RunsPerJob = Field(
        default=1,
        description="Number of runs of one experiment, model and task that share a training or timing job, one after "
        "another. Changing it does not cause reruns.",
    )
    job_hours: Positive | None = Field(
        default=None,
        description="Maximum hours of a shared job according to the GPU estimate of `neuroprune plan`, so that fewer "
        "long runs share a job. Models and datasets without an estimate are not limited.",
    )
    keep_models: bool = Field(
        default=False,
        description="Keep every run's model. Otherwise it is deleted after timing, and re-timing requires retraining.",
    )
    checkpoint_minutes: NotNegative = Field(
        default=10.0,
        description="Minutes between checkpoints of a training run; 0 for every step. An interrupted run resumes from "
        "the last one. Changing it does not cause reruns.",
    )
    data_root: Annotated[str, AfterValidator(folder_name)] = Field(
        default="resources/data", min_length=1, description="Folder of datasets."
    )
    results: Annotated[str, AfterValidator(folder_name)] = Field(
        default="results", min_length=1, description="Folder of the results of all studies."
    )
    skip_absent_data: bool = Field(
        default=False,
        description="Leave out tasks whose dataset is neither below `data_root` nor a folder, and report them, "
        "instead of downloading from the hub.",
    )
    from_results: bool = Field(default=False, description="Only redraw figures and tables from existing records.")

    @model_validator(mode="after")
    def _rows_keep_their_names(self) -> StudySettings:
        for kind, rows in (("models", self.models), ("tasks", self.tasks)):
            wrong = [name for name, row in rows.items() if row.name != name]
            if wrong:
                raise ValueError(f"{kind}.{wrong[0]}.name must be {wrong[0]!r}, the same as its key; leave it out")
        return self

    @model_validator(mode="after")
    def _evaluated_on_other_rows(self) -> StudySettings:
        same = [name for name, row in self.tasks.items() if row.train_split == row.eval_split]
        if same:
            raise ValueError(
                f"tasks.{same[0]}: train_split and eval_split are both {self.tasks[same[0]].eval_split!r}; evaluate on "
                "rows that are not trained on"
            )
        return self

    @property
    def folder(self) -> str:
        """The study's folder in its usual spelling, because Snakemake compares paths as text."""
        return str(Path(self.results, self.study))
