"""The command line: one function a sub-command, each of which reads files and writes files.

The workflow calls these same lines. What is heavy is imported inside the functions, so that ``--help`` and ``plan`` are
quick; a mistake that the user can mend is printed as a sentence, without a traceback.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neuroprune.errors import ConfigError, UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from neuroprune.config.plan import Plan

    AnySettings = TypeVar("AnySettings", bound=BaseModel)

CONFIG = Path("config/config.yaml")
REMEDIES = {  # of errors that the user can resolve
    **dict.fromkeys((errno.EACCES, errno.EPERM), "ask the owner for access, or choose another folder."),
    errno.EROFS: "choose a folder on a writable disk.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run the command again."),
}
PUBLISHED = Path("results/published")
TRAINING_OPTIONS = (
    ("epochs", float, "passes over the training rows"),
    ("batch_size", int, "rows a step"),
    ("learning_rate", float, "AdamW's peak"),
    ("threads", int, "CPU threads"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        arguments: Words of the command line; default: those of this process.

    Returns:
        0, or 1 after a mistake that was printed on the standard error.
    """
    args = parser().parse_args(arguments)
    try:
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `neuroprune plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in REMEDIES or error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}; {REMEDIES[error.errno]}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe all sub-commands."""
    root = argparse.ArgumentParser(
        prog="neuroprune", description="Transformers that get small while they are fine-tuned."
    )
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_plan(commands)
    command = _command(commands, "prepare-data", prepare_data, "make sure that a dataset is there, say what it holds")
    _settings_option(command, "a task")
    _data_option(command)
    _output_option(command, "the dataset's manifest")
    command = _command(commands, "prepare-model", prepare_model, "make sure that a model is there, say what it is")
    _settings_option(command, "a model")
    _output_option(command, "the model's manifest")
    command = _command(commands, "train", train, "fine-tune one model with one method")
    _settings_option(command, "a run")
    _data_option(command)
    _output_option(command, "the run's record, RUN/run.json; the model is written beside it")
    _checkpoint_option(command)
    command = _command(commands, "measure", measure, "time the inference of one run's model")
    _settings_option(command, "timing", default="{}")
    _data_option(command)
    command.add_argument("--run", dest="record", type=Path, required=True, metavar="FILE", help="the run's record")
    _output_option(command, "the times")
    _add_jobs(commands)
    _add_results(commands)
    _add_verify(commands)
    _add_prune(commands)
    command = _command(commands, "export", export, "write a saved model in a form that needs no neuroprune")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a saved model")
    text = "full: the dense model's size, zeros where units are gone, for plain transformers; onnx: for onnxruntime"
    command.add_argument("--format", required=True, metavar="FORMAT", help=text)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    command.add_argument("--int8", action="store_true", help="onnx: a second file with 8-bit weights")
    command = _command(commands, "schema", schema, "write config/schema.json and config/README.md anew")
    command.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    return root


def _add_plan(commands: Any) -> None:
    command = _command(commands, "plan", plan, "check a study and print its runs; nothing is run")
    command.add_argument(
        "--config", nargs="+", type=Path, default=[CONFIG], metavar="FILE", help=f"study files ({CONFIG})"
    )
    command.add_argument(
        "--catalogue", type=Path, default=Path("config"), metavar="FOLDER", help="models and tasks (config)"
    )
    command.add_argument("--settings", metavar="JSON", help="a whole study in place of files")
    command.add_argument("--json", action="store_true", help="print all settings of all runs as JSON")
    command.add_argument("--folder", action="store_true", help="print the study's folder alone")
    command.add_argument("--output", type=Path, metavar="FILE", help="write all settings of all runs there as JSON")


def _add_jobs(commands: Any) -> None:
    text = "train those runs of a workflow job that have no record of the same settings and data"
    command = _command(commands, "train-job", train_job, text)
    _settings_option(command, "a job's runs")
    for name in ("data", "model"):
        command.add_argument(
            f"--{name}", type=Path, required=True, metavar="FILE", help=f"manifest that prepare-{name} wrote"
        )
    _checkpoint_option(command)
    _job_options(command, "the list of all records")
    text = "time the inference of those runs of a workflow job that are not timed yet"
    command = _command(commands, "measure-job", measure_job, text)
    _settings_option(command, "timing", default="{}")
    command.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="names of the runs")
    _job_options(command, "the list of all times")


def _job_options(command: argparse.ArgumentParser, output: str) -> None:
    _data_option(command)
    _study_option(command)
    text = "keep the models of all runs; by default a model is deleted as soon as no timing needs it"
    command.add_argument("--keep-models", action="store_true", help=text)
    _output_option(command, output)


def _add_results(commands: Any) -> None:
    command = _command(commands, "collect", collect, "gather the records of a study in one table")
    _study_option(command)
    command.add_argument("--output", type=Path, metavar="FILE", help="the table (STUDY/runs.csv)")
    command = _command(commands, "merge", merge, "join the records of several studies or machines in one folder")
    command.add_argument("sources", nargs="+", type=Path, metavar="STUDY", help="folders of studies, RESULTS/STUDY")
    _study_option(command)
    command = _command(commands, "redraw", redraw, "make tables and figures anew from the records alone")
    text = "figures and tables; default: those that the study asks for"
    command.add_argument("names", nargs="*", metavar="NAME", help=text)
    _study_option(command)
    command = _command(commands, "figure", figure, "draw a figure from the table of runs")
    command.add_argument("name", metavar="NAME", help="the figure, such as figure4")
    _study_option(command)
    command = _command(commands, "table", table, "write a table from the table of runs")
    command.add_argument("name", metavar="NAME", help="the table, such as summary")
    _study_option(command)


def _add_verify(commands: Any) -> None:
    command = _command(commands, "verify", verify, "retrain random published runs and compare them with their records")
    text = "folders of studies; default: all of results/published"
    command.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help=text)
    command.add_argument("--number", type=int, default=3, help="how many runs (3)")
    command.add_argument("--seed", type=int, help="seed of the choice; default: another choice each time")
    _data_option(command)


def _add_prune(commands: Any) -> None:
    command = _command(commands, "prune", prune, "fine-tune a model on a task until it is small, and save it")
    command.add_argument("--model", required=True, help="a row of models.yaml, a folder or a hub id")
    command.add_argument("--task", required=True, help="a task of the catalogue, or a YAML file like those in it")
    text = "share of the weights in attentions and MLPs that is to go, such as 0.8"
    command.add_argument("--sparsity", type=float, required=True, help=text)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder for the model")
    for name, kind, text in TRAINING_OPTIONS:
        command.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help=f"{text}; default: the task's and the model's"
        )
    command.add_argument("--seed", type=int, default=0, help="0")
    command.add_argument(
        "--catalogue", type=Path, default=Path("config"), metavar="FOLDER", help="models and tasks (config)"
    )
    _data_option(command)


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _settings_option(command: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    text = f"settings of {what}; `neuroprune plan --json` prints such"
    command.add_argument("--settings", required=default is None, default=default, metavar="JSON", help=text)


def _data_option(command: argparse.ArgumentParser) -> None:
    folder = Path("resources/data")
    command.add_argument("--data-root", type=Path, default=folder, metavar="FOLDER", help=f"datasets ({folder})")


def _checkpoint_option(command: argparse.ArgumentParser) -> None:
    text = "minutes between checkpoints (default: that of a study's key checkpoint_minutes); decides no result"
    command.add_argument("--checkpoint-minutes", type=float, metavar="MINUTES", help=text)


def _output_option(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help=what)


def _study_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--study", type=Path, required=True, metavar="FOLDER", help="the study's folder, results/STUDY"
    )


# ---- sub-commands


def plan(args: argparse.Namespace) -> None:
    """Check a study; print its runs, or write them whole."""
    made = _plan(args)
    for sentence in made.skipped:
        print(sentence, file=sys.stderr)
    if args.output:
        from neuroprune.files.atomic import write_json

        write_json(args.output, made.as_dict())
    elif args.json:
        print(json.dumps(made.as_dict(), indent=1))
    else:
        from neuroprune.config.overview import overview

        print(made.study.folder if args.folder else overview(made))


def prepare_data(args: argparse.Namespace) -> None:
    """Make sure that a task's data are there; write their manifest."""
    from neuroprune import tasks
    from neuroprune.config.settings import TaskSettings
    from neuroprune.files.atomic import write_json

    write_json(args.output, tasks.prepare(_read(TaskSettings, args.settings), args.data_root))


def prepare_model(args: argparse.Namespace) -> None:
    """Make sure that a model's files are there; write their manifest."""
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
    """Time one run's model beside the dense one."""
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
    """Gather a study's records in its table, and say what a reader of the table has to know."""
    from neuroprune.results.collect import collect

    for note in collect(args.study, args.output):
        print(note)


def merge(args: argparse.Namespace) -> None:
    """Join studies, and collect what is there then."""
    from neuroprune.results import merge as merging

    print(f"{len(merging.merge(args.sources, args.study))} runs in {args.study}")
    collect(argparse.Namespace(study=args.study, output=None))


def redraw(args: argparse.Namespace) -> None:
    """Make tables and figures anew, and say what a reader of them has to know."""
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
    """Retrain published runs and compare them; fail if something differs or nothing could be retrained."""
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
    """Fine-tune and prune one model, and say what came of it."""
    from neuroprune.training.prune import Request, prune

    given = {name: getattr(args, name) for name, *_ in TRAINING_OPTIONS if getattr(args, name) is not None}
    request = Request(args.model, args.task, args.sparsity, args.seed, args.catalogue, given)
    for sentence in prune(request, args.out, args.data_root):
        print(sentence)


def export(args: argparse.Namespace) -> None:
    """Write a saved model in another form."""
    from neuroprune.models.export import export

    for sentence in export(args.folder, args.format, args.out, args.int8):
        print(sentence)


def schema(args: argparse.Namespace) -> None:
    """Write what is generated from the settings: the schema of study files and the explanation of their keys."""
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
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not JSON: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"--settings: {sentence}" for sentence in sentences(error, kind)) from error


def _checkpoint_minutes(args: argparse.Namespace) -> float:
    """Return the minutes between checkpoints: those asked for, else the default of a study."""
    from neuroprune.config.study import StudySettings

    asked: float | None = args.checkpoint_minutes
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
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not JSON: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
