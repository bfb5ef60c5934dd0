"""Early checks of dataset availability and model compatibility, based only on folders.

Tasks whose dataset is missing can be left out of a study, and a model that does not support a task is rejected before
the first job. Heavy imports are avoided to keep planning fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from neuroprune.config.settings import TaskSettings
from neuroprune.config.study import ExperimentSettings, StudySettings, folder_name, model_type
from neuroprune.errors import ConfigError
from neuroprune.files.atomic import text_hash
from neuroprune.pruning.architectures import find_architecture

HEADED = ("question_answering", "regression", "token_classification")  # kinds of task that need a head


def dataset_folder(task: TaskSettings, data_root: Path) -> Path | None:
    """Return the folder of a task's dataset: the source below `data_root`, or the source itself.

    Args:
        task: A task whose source is not `demo`.
        data_root: A mirror of the hub.

    Returns:
        The folder; None if it does not exist and the hub would be needed.
    """
    places = [data_root / task.source, Path(task.source)]
    return next((place for place in places if place.is_dir()), None)


def folder_state(folder: Path | None) -> str:
    """Return a hash of the names, sizes and modification times of a folder's files; empty without a folder."""
    if folder is None or not folder.is_dir():
        return ""
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats.items()]
    return text_hash("".join(lines))


def teacher_files(method: Any) -> list[Path]:
    """Return the configuration and weights of a method's teacher; empty without a teacher in a folder."""
    teacher = getattr(method, "teacher", None)
    if teacher in (None, "run"):
        return []
    return sorted([Path(teacher, "config.json"), *Path(teacher).glob("*.safetensors")])


def has_data(task: TaskSettings, data_root: Path) -> bool:
    """Return whether a task's dataset is on disk; demo data are built from packages and always count as available.

    Args:
        task: The task.
        data_root: A mirror of the hub.

    Returns:
        Whether the dataset has a folder and, if the task has a configuration, files for it. Readability is not checked.
    """
    if task.source == "demo":
        return True
    folder = dataset_folder(task, data_root)
    if folder is None or task.config is None:
        return folder is not None
    patterns = [f"{task.config}/*", *_patterns_on_card(folder / "README.md", task.config)]
    return any(any(folder.glob(pattern)) for pattern in patterns)


def without_absent_data(study: StudySettings) -> tuple[StudySettings, tuple[str, ...]]:
    """Leave out tasks whose dataset is not on disk, and experiments without other tasks.

    Args:
        study: A study, with all rows that it names.

    Returns:
        The remaining study, and one sentence per omitted task.

    Raises:
        ConfigError: If no task remains.
    """
    root = Path(study.data_root)
    used = dict.fromkeys(task for experiment in study.experiments.values() for task in experiment.tasks)
    absent = {task: _what_is_absent(study.tasks[task], root) for task in used if not has_data(study.tasks[task], root)}
    experiments = {name: left for name, whole in study.experiments.items() if (left := _without(whole, absent)).tasks}
    if not experiments:
        tasks_of: dict[str, list[str]] = {}
        for task in absent:
            tasks_of.setdefault(study.tasks[task].source, []).append(task)
        missing = "; ".join(f"{source} for {', '.join(names)}" for source, names in tasks_of.items())
        raise ConfigError(
            [
                f"skip_absent_data: no task has data below {root} ({missing}); put them there, correct data_root, or "
                "download them with skip_absent_data: false"
            ]
        )
    return study.model_copy(update={"experiments": experiments}), tuple(f"Skipped {text}." for text in absent.values())


def cannot_answer(study: StudySettings) -> list[str]:
    """Report models that don't support a task, as far as their type is known.

    Args:
        study: A study, with all rows that it names.

    Returns:
        One sentence per experiment, model and task.
    """
    return [
        f"experiments.{name}: the model {model!r} ({kind}) can't {text}"
        for name, experiment in study.experiments.items()
        for model in experiment.models
        if (kind := model_type(study.models[model].source))
        for task in experiment.tasks
        if (text := obstacle(kind, study.tasks[task]))
    ]


def obstacle(kind: str, task: TaskSettings) -> str | None:
    """Return the reason why models of a type can't be used for a task, with suitable types.

    Args:
        kind: The model type.
        task: The task.

    Returns:
        The end of a sentence that begins with "the model can't"; None if such models can be used.
    """
    row, what = find_architecture(kind), f"the answers of the task {task.name!r} ({task.kind})"
    if task.written and not row.encoder_decoder:
        return f"generate {what}; use an encoder-decoder such as t5, bart or marian"
    if task.kind == "language_modeling" and not row.causal:
        return f"predict the next token for the task {task.name!r} ({task.kind}); use a decoder such as llama or gpt2"
    if task.kind in HEADED and row.text_to_text:
        return f"give {what}, because it generates text; use a model with a head such as bert, roberta or opt"
    return None


def absent_folders(study: StudySettings) -> list[str]:
    """Report folders of a study's teachers and models that are missing or contain no model.

    Args:
        study: A study, with all rows that it names. From results alone nothing is trained, so no folder is needed.

    Returns:
        One sentence per folder.
    """
    if study.from_results:
        return []
    used = dict.fromkeys(model for experiment in study.experiments.values() for model in experiment.models)
    sources = {name: study.models[name].source for name in used}
    return [
        f"models.{name}: there is no {absent}; change the source"
        for name, source in sources.items()
        if ":" not in source and (absent := _absent_model(source, _is_path(source)))
    ] + [
        f"experiments.{name}.methods[{number}].teacher: {problem}"
        for name, experiment in study.experiments.items()
        for number, method in enumerate(experiment.methods)
        for teacher in _teachers(method)
        if teacher != "run" and (problem := _teacher_problem(teacher))
    ]


def _teacher_problem(teacher: str) -> str:
    """Describe why a teacher's folder cannot be an input of a job; return an empty string if it can."""
    if absent := _absent_model(teacher):
        return f"there is no {absent}; train the teacher first, or change the path"
    try:
        folder_name(teacher)
    except ValueError as error:
        return str(error)
    return ""


def _is_path(source: str) -> bool:
    """Return whether a model's source must be a folder and cannot be a hub id."""
    return source.count("/") > 1 or source.startswith(("/", "."))


def _absent_model(source: str, must_exist: bool = True) -> str:
    """Describe what is missing, a folder or the configuration in it; return an empty string if neither is."""
    if not Path(source).is_dir():
        return f"folder {source!r}" if must_exist else ""
    return "" if Path(source, "config.json").is_file() else f"config.json in the folder {source!r}"


def _teachers(method: Mapping[str, Any]) -> list[str]:
    """Return the teachers of a study's method: none, one, or a list."""
    found = method.get("teacher")
    return [teacher for teacher in (found if isinstance(found, list | tuple) else [found]) if teacher is not None]


def _without(experiment: ExperimentSettings, absent: dict[str, str]) -> ExperimentSettings:
    return experiment.model_copy(update={"tasks": tuple(task for task in experiment.tasks if task not in absent)})


def _what_is_absent(task: TaskSettings, data_root: Path) -> str:
    part = f", configuration {task.config}," if task.config else ""
    return f"task {task.name}: there is no dataset {task.source}{part} below {data_root}"


def _patterns_on_card(card: Path, config: str) -> list[str]:
    """Return the file patterns of a configuration in a dataset's card."""
    try:
        _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        entries: Any = yaml.safe_load(front)["configs"]
        files = next(entry["data_files"] for entry in entries if entry["config_name"] == config)
        return [files] if isinstance(files, str) else [entry["path"] for entry in files]
    except (OSError, ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError):
        return []  # no card, or no entry for the configuration
