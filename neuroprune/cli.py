"""Command-line interface: argument parsing and error reporting.

Errors that the user can correct are printed as a sentence, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import neuroprune
from neuroprune import subcommands
from neuroprune.errors import UserError
from neuroprune.files import failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        arguments: Command-line arguments; default: those of this process.

    Returns:
        0 for success, or 1 after an error that was printed to standard error.
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
    except Exception as error:
        if (text := failures.sentence(error)) is None:
            raise
        print(text, file=sys.stderr)
        return 1
    return 0


class _Version(argparse.Action):
    """Print the version and exit; unlike argparse's action, look it up only then, not at every start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        print(f"{parser.prog} {neuroprune.__version__}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands."""
    root = argparse.ArgumentParser(prog="neuroprune", description="Prune transformers while they are fine-tuned.")
    root.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_plan(commands)
    command = _command(
        commands, "prepare-data", subcommands.prepare_data, "fetch a dataset if necessary and describe it"
    )
    _settings_option(command, "a task")
    _data_option(command)
    _output_option(command, "the dataset's manifest")
    command = _command(
        commands, "prepare-model", subcommands.prepare_model, "fetch a model if necessary and describe it"
    )
    _settings_option(command, "a model")
    _output_option(command, "the model's manifest")
    command = _command(commands, "train", subcommands.train, "fine-tune one model with one method")
    _settings_option(command, "a run")
    _data_option(command)
    _output_option(command, "the run's record, RUN/run.json; the model is written beside it")
    _checkpoint_option(command)
    command = _command(commands, "measure", subcommands.measure, "time the inference of one run's model")
    _settings_option(command, "timing", default="{}")
    _data_option(command)
    command.add_argument("--run", dest="record", type=Path, required=True, metavar="FILE", help="the run's record")
    _output_option(command, "the times")
    _add_jobs(commands)
    _add_results(commands)
    _add_verify(commands)
    _add_prune(commands)
    command = _command(commands, "export", subcommands.export, "export a saved model to another format")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a saved model")
    text = (
        "full: the dense model's size, zeros for removed units, for plain transformers; plain: the pruned size, for "
        "plain transformers, if all layers have equal shapes; onnx: for onnxruntime; gguf: for llama.cpp; "
        "vllm: a Llama for vLLM's DeciLMForCausalLM, not tested in vLLM; per-layer: the pruned size, with the layers' "
        "sizes also in transformers' per_layer_config; loads only after `import neuroprune`, because transformers up "
        "to 5.24 does not build layers from it"
    )
    command.add_argument("--format", required=True, metavar="FORMAT", help=text)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    command.add_argument("--int8", action="store_true", help="with --format onnx: also write a file with 8-bit weights")
    command = _command(commands, "schema", subcommands.schema, "rewrite config/schema.json and config/README.md")
    command.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    return root


def _add_plan(commands: Any) -> None:
    command = _command(commands, "plan", subcommands.plan, "check a study and print its runs without running them")
    command.add_argument(
        "--config",
        nargs="+",
        type=Path,
        default=[subcommands.CONFIG],
        metavar="FILE",
        help=f"study files; later ones override earlier ones (default: {subcommands.CONFIG})",
    )
    _catalogue_option(command)
    command.add_argument("--settings", metavar="JSON", help="a whole study as JSON instead of files")
    command.add_argument("--json", action="store_true", help="print all settings of all runs as JSON")
    command.add_argument("--folder", action="store_true", help="print only the study's folder")
    command.add_argument("--output", type=Path, metavar="FILE", help="write all settings of all runs there as JSON")
    text = "time this machine for five seconds; print the number of runs, how long they will take, and the disk space"
    command.add_argument("--estimate", action="store_true", help=text)
    command.add_argument(
        "--cores", metavar="N", default="all", help="with --estimate: number of processor cores (default: all)"
    )


def _add_jobs(commands: Any) -> None:
    text = "train the runs of a workflow job that have no record with the same settings and data"
    command = _command(commands, "train-job", subcommands.train_job, text)
    _settings_option(command, "a job's runs")
    for name in ("data", "model"):
        command.add_argument(
            f"--{name}", type=Path, required=True, metavar="FILE", help=f"manifest written by prepare-{name}"
        )
    _checkpoint_option(command)
    _job_options(command, "the list of all records")
    text = "time the inference of the runs of a workflow job that are not timed yet"
    command = _command(commands, "measure-job", subcommands.measure_job, text)
    _settings_option(command, "timing", default="{}")
    command.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="names of the runs")
    _job_options(command, "the list of all times")


def _job_options(command: argparse.ArgumentParser, output: str) -> None:
    _data_option(command)
    _study_option(command)
    text = "keep the models of all runs; by default, models are deleted after timing"
    command.add_argument("--keep-models", action="store_true", help=text)
    _output_option(command, output)


def _add_results(commands: Any) -> None:
    text = "collect the records of a study in one table and list missing runs"
    command = _command(commands, "collect", subcommands.collect, text)
    _study_option(command)
    command.add_argument("--output", type=Path, metavar="FILE", help="the table (default: STUDY/runs.csv)")
    command = _command(
        commands, "merge", subcommands.merge, "merge the records of several studies or machines in one folder"
    )
    command.add_argument("sources", nargs="+", type=Path, metavar="STUDY", help="folders of studies, RESULTS/STUDY")
    _study_option(command)
    command = _command(commands, "redraw", subcommands.redraw, "redraw tables and figures from records only")
    text = "figures and tables; default: those listed in the study"
    command.add_argument("names", nargs="*", metavar="NAME", help=text)
    _study_option(command)
    command = _command(commands, "figure", subcommands.figure, "draw a figure from the table of runs")
    command.add_argument("name", metavar="NAME", help="the figure, such as figure4")
    _study_option(command)
    command = _command(commands, "table", subcommands.table, "write a table from the table of runs")
    command.add_argument("name", metavar="NAME", help="the table, such as summary")
    _study_option(command)


def _add_verify(commands: Any) -> None:
    command = _command(
        commands, "verify", subcommands.verify, "retrain random published runs and compare them with their records"
    )
    text = "folders of studies; default: all of results/published"
    command.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help=text)
    command.add_argument("--number", type=int, default=3, help="number of runs (default: 3)")
    command.add_argument("--seed", type=int, help="seed of the choice; default: a different choice each time")
    _data_option(command)


def _add_prune(commands: Any) -> None:
    command = _command(
        commands, "prune", subcommands.prune, "prune a model while fine-tuning it on a task, and save it"
    )
    command.add_argument("--model", required=True, help="a row of CATALOGUE/models.yaml, a folder or a hub id")
    command.add_argument(
        "--task", required=True, help="the name of a file in CATALOGUE/tasks, or a YAML file in the same format"
    )
    text = "fraction of the weights in attentions and MLPs to remove, such as 0.8; several values give one model "
    text += "each, with a shared first third of the training"
    command.add_argument("--sparsity", type=float, nargs="+", required=True, metavar="SHARE", help=text)
    text = "neuroprune (NeuroPrune-FC) or taylor (first-order scores); default: neuroprune"
    command.add_argument("--method", choices=("neuroprune", "taylor"), default="neuroprune", help=text)
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new or empty folder for the model"
    )
    for name, kind, text in subcommands.TRAINING_OPTIONS:
        command.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help=f"{text}; default: the task's and the model's"
        )
    text = "keep only the embeddings of tokens in the task's training rows, special tokens and single characters"
    command.add_argument("--trim-vocabulary", action="store_true", help=text)
    command.add_argument(
        "--seed", type=int, default=0, help="seed of initialisation, data order and dropout (default: 0)"
    )
    _catalogue_option(command)
    _data_option(command)


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _settings_option(command: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    text = f"settings of {what}, as printed by `neuroprune plan --json`"
    command.add_argument("--settings", required=default is None, default=default, metavar="JSON", help=text)


def _catalogue_option(command: argparse.ArgumentParser) -> None:
    text = "folder with models.yaml and tasks/ (default: config)"
    command.add_argument("--catalogue", type=Path, default=Path("config"), metavar="FOLDER", help=text)


def _data_option(command: argparse.ArgumentParser) -> None:
    folder = Path("resources/data")
    command.add_argument(
        "--data-root", type=Path, default=folder, metavar="FOLDER", help=f"folder of datasets (default: {folder})"
    )


def _checkpoint_option(command: argparse.ArgumentParser) -> None:
    text = "minutes between checkpoints, without effect on results (default: as in a study)"
    command.add_argument("--checkpoint-minutes", type=float, metavar="MINUTES", help=text)


def _output_option(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help=what)


def _study_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--study", type=Path, required=True, metavar="FOLDER", help="the study's folder, results/STUDY"
    )


if __name__ == "__main__":
    sys.exit(main())
