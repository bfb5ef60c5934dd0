"""Expansion of a study to its runs: every model, task, method, point and seed with all settings resolved.

All functions are pure functions of the study, except that the type of a local model is read from its folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import BaseModel, TypeAdapter

from neuroprune.config.availability import absent_folders, cannot_answer
from neuroprune.config.canonical import ELSEWHERE
from neuroprune.config.dimensions import OFFSET, Dimensions, find_dimensions
from neuroprune.config.messages import shown
from neuroprune.config.methods import MethodSettings
from neuroprune.config.settings import ModelSettings, RunSettings, TaskSettings
from neuroprune.config.study import ExperimentSettings, StudySettings, method_points
from neuroprune.config.training import TrainingSettings
from neuroprune.errors import ConfigError

_METHOD: TypeAdapter[MethodSettings] = TypeAdapter(MethodSettings)

# Method settings in the names of runs: field -> prefix of its value.
POINT = {
    "algorithm": "",
    "sparsity": "",
    "heads": "h",
    "speedup": "x",
    "alpha": "a",
    "beta": "b",
    "theta": "t",
    "strength": "l",
}
LONGEST_NAME = 200  # file systems allow 255 bytes, including suffixes of temporary folders
_ODD = re.compile(r"[^a-z0-9_.-]")  # characters not allowed in a run's name


@dataclass(frozen=True)
class Plan:
    """All runs of a study.

    Args:
        study: The study, with only the rows that it uses.
        runs: Settings by the run's name, in the study's order.
        experiments: Names of runs by experiment.
        timed: Names of runs whose inference is timed.
        skipped: One sentence per task that was left out because its data are missing.
    """

    study: StudySettings
    runs: dict[str, RunSettings]
    experiments: dict[str, tuple[str, ...]]
    timed: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-serializable data, the content of ``plan.json``.

        Study settings keep the order of the study file, which determines the order in tables. Settings without effect
        on results are left out.
        """
        return {
            "schema_version": 1,
            "study": self.study.study,
            "settings": self.study.model_dump(mode="json", exclude_unset=True, exclude=ELSEWHERE["study"]),
            "experiments": {name: list(runs) for name, runs in self.experiments.items()},
            "timed": list(self.timed),
            "runs": {name: run.model_dump(mode="json") for name, run in self.runs.items()},
        }


@dataclass(frozen=True)
class _Point:
    """An unnamed run and its experiment."""

    experiment: str
    model: str
    task: str
    method: Any
    training: TrainingSettings
    seed: int
    timed: bool

    @property
    def settings(self) -> tuple[Any, ...]:
        return self.model, self.task, self.method, self.training

    @property
    def key(self) -> tuple[Any, ...]:
        return *self.settings, self.seed

    @property
    def short_name(self) -> str:
        return short_name(self.model, self.task, self.method)

    @property
    def options(self) -> dict[str, Any]:
        return options(self.method, self.training)


def expand(study: StudySettings) -> Plan:
    """Expand a study into its plan.

    Training settings are resolved field by field: experiment over task over model over study over the defaults.

    Args:
        study: The study, with all rows that it names.

    Returns:
        The plan, with runs ordered by experiment, model, task, method, point and seed.

    Raises:
        ConfigError: If a run is listed twice, or a model or method cannot be used for a task.
    """
    points = list(_points(study))
    if problems := [
        *cannot_answer(study),
        *absent_folders(study),
        *_not_applicable(study, points),
        *_too_small(study, points),
        *_not_divisible(points),
        *_not_taught(study, points),
        *_listed_twice(points),
    ]:
        raise ConfigError(problems)
    names = _names(points)
    if problems := _long_names(names, points):
        raise ConfigError(problems)
    models = {name: _plain(ModelSettings, row, "model") for name, row in study.models.items()}
    tasks = {name: _plain(TaskSettings, row, "task") for name, row in study.tasks.items()}
    runs = {
        name: RunSettings(
            run=name,
            model=models[point.model],
            task=tasks[point.task],
            method=point.method,
            training=point.training,
            seed=point.seed,
        )
        for name, point in zip(names, points, strict=True)
    }
    return Plan(
        study=_only_used_rows(study),
        runs=runs,
        experiments=_by_experiment(names, points),
        timed=_timed(names, points),
    )


def training_of(study: StudySettings, experiment: ExperimentSettings, model: str, task: str) -> TrainingSettings:
    """Resolve training settings: each field takes the value of the most specific level that sets it."""
    layers = (study.training, study.models[model].training, study.tasks[task].training, experiment.training)
    given: dict[str, Any] = {}
    for layer in layers:
        given |= {name: getattr(layer, name) for name in layer.model_fields_set}
    return TrainingSettings(**given)


def _points(study: StudySettings) -> Iterator[_Point]:
    for name, experiment in study.experiments.items():
        seeds = study.seeds if experiment.seeds is None else experiment.seeds
        timed = seeds[: study.timing.seeds]
        methods = [_METHOD.validate_python(point) for entry in experiment.methods for point in method_points(entry)]
        for model in experiment.models:
            for task in experiment.tasks:
                training = training_of(study, experiment, model, task)
                for method, seed in product(methods, seeds):
                    yield _Point(name, model, task, method, training, seed, seed in timed)


def _long_names(names: list[str], points: list[_Point]) -> list[str]:
    """Report experiments in which a run's name is too long for a folder."""
    found = {point.experiment: name for name, point in zip(names, points, strict=True) if len(name) > LONGEST_NAME}
    return [
        f"experiments.{experiment}: the name of the run {shown(name)} has {len(name)} characters, more than "
        f"{LONGEST_NAME}; shorten the names of models and tasks"
        for experiment, name in found.items()
    ]


def _not_applicable(study: StudySettings, points: list[_Point]) -> list[str]:
    """Report methods that cannot be used for a task."""
    found: dict[str, None] = {}
    for point in points:
        kinds, kind = point.method.task_kinds, study.tasks[point.task].kind
        if kind not in kinds:
            text = f"{point.method.name} cannot be used for the task {point.task!r} ({kind})"
            found[f"experiments.{point.experiment}: {text}; it can for {', '.join(kinds)}"] = None
        if kind == "language_modeling" and point.training.linear_probe:
            text = f"linear_probe is for classes and numbers, not for the task {point.task!r} ({kind})"
            found[f"experiments.{point.experiment}: {text}; leave it out"] = None
    return list(found)


def _too_small(study: StudySettings, points: list[_Point]) -> list[str]:
    """Report models with too few positions for a task or an unsuitable number of heads for a target."""
    found: dict[str, None] = {}
    sizes = {name: find_dimensions(row.source, row.config, row.layers) for name, row in study.models.items()}
    for point in points:
        if (size := sizes[point.model]) is not None:
            source, task = study.models[point.model].source, study.tasks[point.task]
            for text in (_positions_problem(source, size, task), _heads_problem(size, point.method)):
                if text:
                    found[f"experiments.{point.experiment}: the model {point.model!r} {text}"] = None
    return list(found)


def _positions_problem(source: str, size: Dimensions, task: TaskSettings) -> str | None:
    """Report a random model with too few positions; inputs of pretrained models are truncated by the tokenizer."""
    kind = source.removeprefix("random:")
    longest = max(task.max_length, task.answer_length + 1 if task.written else 0)
    if kind == source or size.positions is None or longest <= (most := size.positions - OFFSET.get(kind, 0)):
        return None
    what = "max_length" if task.max_length == longest else "answer_length"
    return (
        f"has positions for {most} tokens, but the task {task.name!r} needs {longest} ({what}); change {what}, or "
        "the model's config"
    )


def _heads_problem(size: Dimensions, method: Any) -> str | None:
    """Report a target number of heads that is impossible for a model."""
    heads = getattr(method, "heads", None)
    least = size.group * (size.attentions if method.name == "neuroprune" else 1)
    if heads is None or (least <= heads <= size.all_heads and heads % size.group == 0):
        return None
    steps = f" in steps of {size.group}" if size.group > 1 else ""
    return (
        f"has {size.all_heads} heads in {size.attentions} attentions, but {method.name} has heads: {heads}; give "
        f"{least} to {size.all_heads}{steps}"
    )


def _not_taught(study: StudySettings, points: list[_Point]) -> list[str]:
    """Report settings that are incompatible with a teacher."""
    found: dict[str, None] = {}
    for point in points:
        task, where = study.tasks[point.task], f"experiments.{point.experiment}: {point.method.name} has a teacher"
        if getattr(point.method, "teacher", None) is None:
            continue
        if task.written and task.label_smoothing:
            text = f"takes the place of the labels of {point.task}; set tasks.{point.task}.label_smoothing to 0"
            found[f"{where}, which {text}"] = None
        if point.training.budget == "dense_flops":
            text = "forward passes training.budget: dense_flops does not count; set it to epochs, or leave teacher out"
            found[f"{where}, whose {text}"] = None
    return list(found)


def _not_divisible(points: list[_Point]) -> list[str]:
    """Report batches that can't be split over processes and passes."""
    found: dict[str, None] = {}
    for point in points:
        rows, parts = point.training.batch_size, point.training.parts
        if rows % parts:
            split = f"processes: {point.training.processes} and accumulation: {point.training.accumulation}"
            text = f"batch_size: {rows} can't be split evenly for {point.model} on {point.task} by {split}"
            found[f"experiments.{point.experiment}: {text}; use a multiple of {parts}"] = None
    return list(found)


def _listed_twice(points: list[_Point]) -> list[str]:
    """Report runs listed more than once, with one sentence per pair of experiments."""
    first: dict[tuple[Any, ...], _Point] = {}
    again: dict[tuple[str, str], list[str]] = defaultdict(list)
    for point in points:
        earlier = first.setdefault(point.key, point)
        if earlier is not point:
            again[point.experiment, earlier.experiment].append(f"{point.short_name}-s{point.seed}")
    sentences = []
    for (experiment, other), names in again.items():
        runs = f"{names[0]} and {len(names) - 1} more runs are" if names[1:] else f"the run {names[0]} is"
        where = "twice here" if experiment == other else f"in experiments.{other} too"
        sentences.append(f"experiments.{experiment}: {runs} listed {where}; a run may be listed once")
    return sentences


def _by_experiment(names: list[str], points: list[_Point]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, point in zip(names, points, strict=True):
        found[point.experiment].append(name)
    return {experiment: tuple(runs) for experiment, runs in found.items()}


def _timed(names: list[str], points: list[_Point]) -> tuple[str, ...]:
    """Return the names of runs to be timed; without dense runs, because every timing includes the dense model."""
    pairs = {(point.model, point.task) for point in points if point.timed and point.method.name != "dense"}
    return tuple(
        name
        for name, point in zip(names, points, strict=True)
        if point.timed and not (point.method.name == "dense" and (point.model, point.task) in pairs)
    )


def _only_used_rows(study: StudySettings) -> StudySettings:
    """Leave out catalogue rows that no experiment uses."""
    models = {name for experiment in study.experiments.values() for name in experiment.models}
    tasks = {name for experiment in study.experiments.values() for name in experiment.tasks}
    return study.model_copy(
        update={
            "models": {name: row for name, row in study.models.items() if name in models},
            "tasks": {name: row for name, row in study.tasks.items() if name in tasks},
        }
    )


def _plain(kind: type[Any], row: BaseModel, part: str) -> Any:
    """Return a study's row without keys that are not part of a run's settings."""
    return kind(**row.model_dump(exclude=ELSEWHERE[part]))


# ---- names of runs


def _names(points: list[_Point]) -> list[str]:
    """Return the names of all runs: short names, with differing options added where these are ambiguous.

    The first settings with a short name keep it for all seeds. Seeds of the same settings therefore share their name,
    and appending experiments to a study renames no run.
    """
    first: dict[str, _Point] = {}
    taken: dict[str, tuple[Any, ...]] = {}
    names = []
    for point in points:
        usual = first.setdefault(point.short_name, point)
        name = "-".join([point.short_name, *differences(point.options, usual.options)])
        while taken.setdefault(name, point.settings) != point.settings:  # different values with the same format
            name += "_"
        names.append(f"{name}-s{point.seed}")
    return names


def short_name(model: str, task: str, method: BaseModel) -> str:
    """Return ``<model>-<task>-<method>[-<point>]``."""
    settings = method.model_dump()
    parts = [f"{POINT[name]}{_value(name, settings[name])}" for name in POINT if settings.get(name) is not None]
    return "-".join([model, task, settings["name"], *parts])


def options(method: BaseModel, training: TrainingSettings) -> dict[str, Any]:
    """Return a run's settings by name; duplicate training settings become ``training.<name>``."""
    settings = method.model_dump()
    return settings | {f"training.{name}" if name in settings else name: value for name, value in training}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return ``<option>_<value>`` for each of the first options that differs from the second ones."""
    return [f"{name}_{_value(name, value)}" for name, value in ours.items() if theirs.get(name) != value]


def _value(name: str, value: Any) -> str:
    """Format a value for a name: sparsities in percent, shortest exact numbers, ``_`` for special characters."""
    if isinstance(value, list | tuple):
        return ".".join(_value(name, item) for item in value)
    if isinstance(value, float):
        value = f"{value * (100 if name == 'sparsity' else 1):.10g}".replace("e-0", "e-")
    return _ODD.sub("_", str(value).lower())
