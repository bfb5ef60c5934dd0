"""Implementation of `neuroprune prune`: a single run whose model is written to a folder."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from neuroprune.config.canonical import CHECKS
from neuroprune.config.catalogue import Catalogue, make_plan, read_catalogue
from neuroprune.config.settings import RunSettings, TimingSettings
from neuroprune.config.yaml_files import read_yaml
from neuroprune.errors import ConfigError, UserError, did_you_mean
from neuroprune.files.temporary import keep, temporary_folder
from neuroprune.results.records import RunRecord, read_record


@dataclass(frozen=True)
class Request:
    """Arguments of the command line.

    Args:
        model: A row of the catalogue, a folder or a hub id.
        task: A row of the catalogue, or a YAML file like those in `config/tasks`.
        sparsity: Fraction of the weights in attentions and MLPs to remove.
        seed: Seed of the head's initialisation, data order and dropout.
        catalogue: Folder with `models.yaml` and `tasks/`.
        training: Training settings that override those of the catalogue rows.
        trim_vocabulary: Whether to keep only the embeddings of the task's tokens.
        method: A method that removes whole units to a target sparsity: `neuroprune` or `taylor`.
    """

    model: str
    task: str
    sparsity: float
    seed: int
    catalogue: Path
    training: Mapping[str, Any] = field(default_factory=dict)
    trim_vocabulary: bool = False
    method: str = "neuroprune"


def prune(request: Request, out: Path, data_root: Path) -> list[str]:
    """Fine-tune and prune a model; save it with tokenizer, model card and record (`run.json`).

    Args:
        request: The request.
        out: Folder to write to, new or empty. A new folder is created only when complete; in an empty one,
            `config.json` is written last.
        data_root: Folder of the datasets.

    Returns:
        Sentences about what was written.

    Raises:
        UserError: If the request is invalid, `out` cannot be written, model or data are unavailable, or the run
            diverged.
    """
    settings = run_settings(request)
    with ExitStack() as stack:
        folder = _work_folder(out, stack)
        with _kept_if_made(folder, folder / "model", out):
            result = _train(settings, folder, data_root)
            _hand_over(folder / "model", out.resolve())
    return _summary(result, out)


def prune_family(request: Request, sparsities: Sequence[float], out: Path, data_root: Path) -> list[str]:
    """Prune a model to several sparsities, sharing the steps before the first removal.

    Args:
        request: The request; its sparsity is ignored.
        sparsities: Fractions of the weights in attentions and MLPs to remove.
        out: Folder to write to, new or empty. It becomes a study's folder with `runs/<name>` (record, model and
            inference time), `runs.csv`, the table `summary` and the figure `frontier`.
        data_root: Folder of the datasets.

    Returns:
        Sentences about what was written.

    Raises:
        UserError: As in `prune`, and if a sparsity is given twice.
    """
    if twice := [share for share in sparsities if sparsities.count(share) > 1]:
        raise UserError(f"--sparsity: {twice[0]:g} is given twice; give each sparsity once.")
    family = family_settings(request, sparsities)
    with ExitStack() as stack:
        folder = _work_folder(out, stack)
        study = folder / out.resolve().name
        with _kept_if_made(folder, study / "runs.csv", out):
            records = _train_family(family, study, data_root)
            _hand_over(study, out.resolve())
    lines = [sentence for record in records for sentence in _summary(record, out / "runs" / record.run / "model")[:1]]
    return [*lines, f"Overview: {out / 'tables' / 'summary.md'} and {out / 'figures' / 'frontier.png'}."]


def _train_family(family: Sequence[RunSettings], study: Path, data_root: Path) -> list[RunRecord]:
    """Train and time runs; collect their records and draw the table and figure."""
    from neuroprune.results import figures, tables
    from neuroprune.results.collect import collect
    from neuroprune.training import family as training
    from neuroprune.training import inference_time

    study.mkdir()
    records = training.train(family, study, data_root)
    for record in records:
        folder = study / "runs" / record.run
        inference_time.measure(TimingSettings(), folder / "run.json", folder / "timing.json", data_root)
    collect(study)
    tables.write("summary", study)
    figures.draw("frontier", study)
    return records


@contextmanager
def _kept_if_made(folder: Path, made: Path, out: Path) -> Iterator[None]:
    """Keep the working folder if the result is complete but can't be moved to its destination.

    Args:
        folder: The working folder.
        made: A path that exists once the work is complete.
        out: Its destination.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not made.exists():
            raise
        keep(folder)
        place = made if made.is_dir() else made.parent
        raise UserError(
            f"--out: the model is made, but {out} can't be written ({_reason(error)}); what is missing there is kept "
            f"in {place}."
        ) from error


def _work_folder(out: Path, stack: ExitStack) -> Path:
    """Create the working folder on the disk of `out`: inside it if it exists (it may be a mount), else next to it.

    This happens before training, so that an unwritable destination is detected early.

    Args:
        out: The folder for the model.
        stack: Exit stack that deletes the folder at the end.

    Returns:
        The folder.

    Raises:
        UserError: If `out` is not empty or cannot be written.
    """
    try:
        place = out.resolve()
        if place.is_symlink():  # Python 3.13 returns circular links unresolved; before, they raised a RuntimeError
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        prefix = f".{place.name}-"  # also deletes leftovers of a killed process in an existing folder
        if place.exists() and not (place.is_dir() and all(file.name.startswith(prefix) for file in place.iterdir())):
            raise UserError(f"--out: {out} is not empty; give a new folder.")
        parent = place if place.exists() else place.parent
        parent.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(temporary_folder(prefix, parent))
    except (OSError, RuntimeError) as error:
        raise UserError(f"--out: {out} can't be written ({_reason(error)}); give another folder.") from error


def _train(settings: RunSettings, folder: Path, data_root: Path) -> RunRecord:
    """Train a run; write the model and its record to `folder/model`."""
    from neuroprune.training import run

    record = folder / "run.json"
    run.train(settings, record, data_root)
    result = read_record(record)
    if result.status != "done":
        raise UserError(f"{settings.run}: the loss is no longer finite; try a smaller --learning-rate.")
    record.replace(folder / "model" / record.name)
    return result


def _hand_over(made: Path, out: Path) -> None:
    """Move a model to its destination: atomically for a new folder; otherwise `config.json` is written last."""
    from neuroprune.models.pretrained import move_files

    if made.parent.parent == out:
        move_files(made, out)
    else:
        made.replace(out)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def run_settings(request: Request) -> RunSettings:
    """Resolve a request to the settings of its run.

    Args:
        request: The request.

    Returns:
        The settings, with all defaults.

    Raises:
        UserError: If the request is invalid, with one sentence per mistake that mentions the option.
    """
    return family_settings(request, [request.sparsity])[0]


def family_settings(request: Request, sparsities: Sequence[float]) -> list[RunSettings]:
    """Resolve a request for several sparsities to the settings of its runs; see `run_settings`."""
    rows = read_catalogue(request.catalogue)
    model, models = _with_row(request.model, rows.models, {"source": request.model})
    task, tasks = _with_row(request.task, rows.tasks, _task_file(request, rows.tasks))
    method = {"name": request.method, "sparsity": sparsities[0] if len(sparsities) == 1 else list(sparsities)}
    grid: dict[str, Any] = {"models": [model], "tasks": [task], "methods": [method], "seeds": [request.seed]}
    grid["training"] = dict(request.training)
    changes = {model: {"trim_vocabulary": True}} if request.trim_vocabulary else {}
    study = {"study": "prune", "models": changes, "experiments": {"prune": grid}}
    try:
        plan = make_plan(study, "prune", Catalogue(models, tasks, rows.problems))
    except ConfigError as error:
        raise ConfigError(_in_words_of_options(problem, model, task) for problem in error.problems) from error
    # A plan's runs leave out the checks of `prepare-data`, which is not run here.
    checks = {name: getattr(plan.study.tasks[task], name) for name in CHECKS}
    return [run.model_copy(update={"task": run.task.model_copy(update=checks)}) for run in plan.runs.values()]


def _with_row(name: str, rows: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a row's name and all rows; a file, folder or hub id takes the place of a catalogue row of its name."""
    if name in rows:
        return name, dict(rows)
    last = Path(name).stem if name.endswith(".yaml") else Path(name).name.strip(".") or Path(name).resolve().name
    short = re.sub(r"[^a-zA-Z0-9_.]+", "_", last).lstrip("_.") or "model"
    return short, {**rows, short: dict(new)}


def _task_file(request: Request, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Read the task file if the request contains a path."""
    if request.task in rows:
        return {}
    if not request.task.endswith(".yaml"):
        folder = request.catalogue / "tasks"
        if not folder.is_dir():
            raise UserError(
                f"--task: the task {request.task!r} can't be looked up, because there is no folder {folder}; name the "
                "folder that contains tasks/ with --catalogue, or give a YAML file."
            )
        raise UserError(
            f"--task: there is no task {request.task!r} in {folder}{did_you_mean(request.task, rows)}; "
            f"known: {', '.join(sorted(rows)) or 'none'}; or give a YAML file."
        )
    return read_yaml(Path(request.task))


def _in_words_of_options(problem: str, model: str, task: str) -> str:
    """Replace configuration keys in messages by command-line options."""
    grid = r"prune: experiments\.prune\."
    for key, option in (
        (grid + r"methods\[0\]\.sparsity(\[\d+\])?", "--sparsity"),
        (grid + r"seeds\[0\]", "--seed"),
        (grid + r"training\.(\w+)", r"--\1"),
        (r"prune: experiments\.prune", "--model"),
        (rf"prune: models\.{re.escape(model)}\.source", "--model"),
        (rf"prune: models\.{re.escape(model)}", "--model"),
        (rf"prune: tasks\.{re.escape(task)}", "--task"),
    ):
        problem, found = re.subn(f"^{key}", option, problem)
        if found:
            return re.sub(r"^[^:\s]+", lambda option_name: option_name[0].replace("_", "-"), problem)
    return problem


def _summary(record: RunRecord, out: Path) -> list[str]:
    """Describe the result and how to load it."""
    result, sparsity = record.result, record.result.sparsity
    return [
        f"{out}: {result.metric} {result.value:.4g} on {record.settings.task.name} ({result.eval_rows} rows); "
        f"{sparsity.weights:.1%} of the weights in attentions and MLPs removed or zero, "
        f"{sparsity.parameters / 1e6:.3g} M of {sparsity.dense_parameters / 1e6:.3g} M parameters left.",
        f'Load it: neuroprune.from_pretrained("{out}"); more is in {out / "README.md"}.',
    ]
