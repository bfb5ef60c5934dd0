"""Implementation of the sub-commands, one function each, which read and write files.

The workflow uses the same sub-commands. Heavy packages are imported inside the functions, so that ``--help`` and
``plan`` are fast.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from neuroprune.errors import ConfigError, UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from neuroprune.config.plan import Plan

    AnySettings = TypeVar("AnySettings", bound=BaseModel)

CONFIG = Path("config/config.yaml")
PUBLISHED = Path("results/published")
TRAINING_OPTIONS = (
    ("epochs", float, "passes over the training rows"),
    (
        "budget",
        str,
        "dense_flops: continue training until the run has cost as much as dense fine-tuning for these epochs",
    ),
    ("batch_size", int, "rows per step"),
    ("learning_rate", float, "peak learning rate"),
    ("threads", int, "CPU threads"),
)


def plan(args: argparse.Namespace) -> None:
    """Check a study; print its runs or write their full settings."""
    made = _plan(args)
    for sentence in made.skipped:
        print(sentence, file=sys.stderr)
    if args.output:
        from neuroprune.files.atomic import write_json

        write_json(args.output, made.as_dict())
    elif args.estimate:
        from neuroprune.training import estimate

        print(estimate.estimate(made, args.cores))
    elif args.json:
        print(json.dumps(made.as_dict(), indent=1))
    else:
        from neuroprune.config.overview import overview

        print(made.study.folder if args.folder else overview(made))


def prepare_data(args: argparse.Namespace) -> None:
    """Fetch a task's data if necessary; write their manifest."""
    from neuroprune import tasks
    from neuroprune.config.settings import TaskSettings
    from neuroprune.files.atomic import write_json

    write_json(args.output, tasks.prepare(_read(TaskSettings, args.settings), args.data_root))


def prepare_model(args: argparse.Namespace) -> None:
    """Fetch a model's files if necessary; write their manifest."""
    from neuroprune.config.settings import ModelSettings
    from neuroprune.files.atomic import write_json
    from neuroprune.models import sources

    write_json(args.output, sources.prepare(_read(ModelSettings, args.settings)))


def train(args: argparse.Namespace) -> None:
    """Train one run."""
    from neuroprune.config.settings import RunSettings

    settings = _read(RunSettings, args.settings)
    from neuroprune.training import run as training

    training.train(settings, args.output, args.data_root, _checkpoint_minutes(args))


def measure(args: argparse.Namespace) -> None:
    """Time one run's model alternately with the dense model."""
    from neuroprune.config.settings import TimingSettings

    settings = _read(TimingSettings, args.settings)
    from neuroprune.training import inference_time

    inference_time.measure(settings, args.record, args.output, args.data_root)


def train_job(args: argparse.Namespace) -> None:
    """Train the missing runs of a workflow job."""
    from neuroprune.config.jobs import JobRuns
    from neuroprune.results.manifests import Prepared
    from neuroprune.training import job

    runs = _read(JobRuns, args.settings)
    place = job.Place(args.study, args.data_root, args.keep_models)
    job.train(runs, Prepared.read(args.data, args.model), place, args.output, _checkpoint_minutes(args))


def measure_job(args: argparse.Namespace) -> None:
    """Time the runs of a workflow job that are not timed yet."""
    from neuroprune.config.settings import TimingSettings
    from neuroprune.training import job

    place = job.Place(args.study, args.data_root, args.keep_models)
    job.measure(_read(TimingSettings, args.settings), args.runs, place, args.output)


def collect(args: argparse.Namespace) -> None:
    """Collect a study's records into its table and print warnings."""
    from neuroprune.results.collect import collect

    for note in collect(args.study, args.output):
        print(note)


def merge(args: argparse.Namespace) -> None:
    """Merge studies and collect the result."""
    from neuroprune.results import merge as merging

    print(f"{len(merging.merge(args.sources, args.study))} runs in {args.study}")
    collect(argparse.Namespace(study=args.study, output=None))


def redraw(args: argparse.Namespace) -> None:
    """Redraw tables and figures and print warnings."""
    from neuroprune.results import redraw

    for note in redraw.redraw(args.study, args.names):
        print(note)


def figure(args: argparse.Namespace) -> None:
    """Draw one figure of a study."""
    from neuroprune.results import figures

    figures.draw(args.name, args.study)


def table(args: argparse.Namespace) -> None:
    """Write one table of a study."""
    from neuroprune.results import tables

    tables.write(args.name, args.study)


def verify(args: argparse.Namespace) -> None:
    """Retrain published runs and compare results; fail if any differs or none could be retrained."""
    from neuroprune.training import verify

    chosen = verify.choose(args.studies or sorted(PUBLISHED.glob("*/")), args.number, args.seed)
    found = []
    for check in verify.verify(chosen, args.data_root):
        print(check.text, flush=True)
        found.append(check.matches)
    same, other, not_done = (found.count(kind) for kind in (True, False, None))
    said = f"{same} of {len(found)} runs match, {other} differ, {not_done} not retrained."
    if False in found or True not in found:
        raise UserError(said)
    print(said)


def prune(args: argparse.Namespace) -> None:
    """Fine-tune and prune one model, and print the result."""
    from neuroprune.training.prune import Request, prune, prune_family

    given = {name: getattr(args, name) for name, *_ in TRAINING_OPTIONS if getattr(args, name) is not None}
    options = {"trim_vocabulary": args.trim_vocabulary, "method": args.method}
    request = Request(args.model, args.task, args.sparsity[0], args.seed, args.catalogue, given, **options)
    several = len(args.sparsity) > 1
    made = prune_family(request, args.sparsity, args.out, args.data_root) if several else None
    for sentence in made or prune(request, args.out, args.data_root):
        print(sentence)


def export(args: argparse.Namespace) -> None:
    """Export a saved model to another format."""
    from neuroprune.models.export import export

    for sentence in export(args.folder, args.format, args.out, args.int8):
        print(sentence)


def schema(args: argparse.Namespace) -> None:
    """Write the files generated from the settings: the schema of study files and the reference of keys."""
    from neuroprune.config import schema as reference

    stale = reference.check(CONFIG.parent) if args.check else reference.write(CONFIG.parent)
    if args.check and stale:
        raise UserError(f"{', '.join(map(str, stale))}: out of date; run `neuroprune schema`")


def _read(kind: type[AnySettings], text: str) -> AnySettings:
    """Read settings from the command line."""
    from pydantic import ValidationError

    from neuroprune.config.messages import sentences

    try:
        return kind.model_validate(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"--settings: not JSON: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"--settings: {sentence}" for sentence in sentences(error, kind)) from error


def _checkpoint_minutes(args: argparse.Namespace) -> float:
    """Return the requested minutes between checkpoints, or the default of a study."""
    from neuroprune.config.study import StudySettings

    asked: float | None = args.checkpoint_minutes
    if asked is not None and not asked >= 0:
        raise UserError(f"--checkpoint-minutes: {asked:g} is not allowed; it must be at least 0")
    return StudySettings.model_fields["checkpoint_minutes"].get_default() if asked is None else asked


def _plan(args: argparse.Namespace) -> Plan:
    from neuroprune.config.catalogue import make_plan, read_study
    from neuroprune.results.figures import FIGURES
    from neuroprune.results.tables import TABLES

    artefacts = [*FIGURES, *TABLES]
    if args.settings is None:
        return make_plan(read_study(args.config), ", ".join(map(str, args.config)), args.catalogue, artefacts)
    try:
        return make_plan(json.loads(args.settings), "--settings", args.catalogue, artefacts)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"--settings: not JSON: {error}") from error
