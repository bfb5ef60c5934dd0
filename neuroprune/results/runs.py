"""The tidy table ``runs.csv`` and selections of its rows. It is the only source of tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroprune.errors import UserError
from neuroprune.files.failures import sentence

STRENGTHS = ("alpha", "beta", "theta", "strength", "mode")
ABLATED = {  # settings by form
    "penalty": ("degree_weight", "merge", "eps"),
    "regulated": ("degree_weight", "merge", "eps"),
    "target": ("fold", "centred", "token_weights"),
}
OPTIONS = (*ABLATED["penalty"], *ABLATED["target"])
LAYERS = ("heads_per_layer", "removed_heads")  # columns with one number or list of numbers per layer: `12;10`, `;0 3`
NAMES = ("study", "run", "group", "status", "model", "task", "method", "form", "metric")
LATER = ("other_settings", "timing_device", "timing_cpu", "timing_settings")  # missing in tables of earlier versions
TRUTH_VALUES = ("dirty", "model_random")
COUNTS = ("train_rows", "eval_rows", "empty_layers")  # missing numeric columns that are equal for all seeds
LATER_NUMBERS = ("speedup_asked", "train_cpu_seconds")  # other missing numeric columns
TEXTS = (*NAMES, "variant", "commit", "mode", *OPTIONS, *LAYERS, "device", "cpu")
GUESSES = {"majority": "most frequent class", "copied": "source's own words"}  # metrics of baselines without a model
LABELS = {  # labels by method and form; other methods have one form
    ("neuroprune", "penalty"): "NeuroPrune (penalties)",
    ("neuroprune", "regulated"): "NeuroPrune (penalties, regulated)",
    ("neuroprune", "target"): "NeuroPrune-FC",
    ("l1", "penalty"): "l1 penalty",
    ("l1", "target"): "magnitude",
}
NAMES_OF_METHODS = {"cofi": "CoFi", "dsp": "DSP", "taylor": "Taylor", "random": "random units"}


def method_label(method: str, form: str = "") -> str:
    """Return a method's name in tables and figures.

    NeuroPrune (penalties) is the paper's algorithm. NeuroPrune-FC is this project's and measures functional
    connectivity. The target form of l1 zeroes the smallest weights.
    """
    return LABELS.get((method, form)) or NAMES_OF_METHODS.get(method, method)


def read_runs(study_dir: Path) -> pd.DataFrame:
    """Read the tidy table that ``collect`` wrote.

    Args:
        study_dir: The study's folder.

    Returns:
        One row per run. Missing text is an empty string, missing numbers are NaN.

    Raises:
        UserError: If the table is missing, empty or in another format.
    """
    path = Path(study_dir) / "runs.csv"
    try:
        # Only empty cells are missing values: a model may be named `NA` or `None`.
        runs = pd.read_csv(path, dtype=dict.fromkeys((*TEXTS, *LATER), str), keep_default_na=False, na_values=[""])
    except PermissionError as error:
        raise UserError(str(sentence(error))) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no table of runs ({error}); run `neuroprune collect --study {study_dir}`.") from error
    missing = [name for name in (*TEXTS, *STRENGTHS, "value", "sparsity", "seed") if name not in runs]
    if missing or runs.empty:
        raise UserError(
            f"{path}: has no {missing[0] if missing else 'rows'}; run `neuroprune collect --study {study_dir}`."
        )
    _check_numbers(path, runs)
    absent: dict[str, Any] = {**dict.fromkeys((*GUESSES, *COUNTS, *LATER_NUMBERS), np.nan), **dict.fromkeys(LATER, "")}
    runs = runs.assign(**{name: value for name, value in absent.items() if name not in runs})
    return runs.fillna(dict.fromkeys((*TEXTS, *LATER), ""))


def _check_numbers(path: Path, runs: pd.DataFrame) -> None:
    """Reject text where numbers belong, such as the decimal commas of a spreadsheet."""
    for name in runs.columns.difference([*TEXTS, *LATER, *TRUTH_VALUES], sort=False):
        odd = runs[runs[name].notna() & pd.to_numeric(runs[name], errors="coerce").isna()]
        if len(odd):
            raise UserError(
                f"{path}: {name} of {odd['run'].iloc[0]} is {odd[name].iloc[0]!r}, not a number; run "
                f"`neuroprune collect --study {path.parent}`, which writes the table again."
            )


def of_earlier_versions(runs: pd.DataFrame) -> pd.Series:
    """Return the version in the variant of each run or mean of an earlier version, otherwise NaN; see `groups`."""
    return runs["variant"].str.extract(r"^(version_\d+)", expand=False)


def drawn_runs(study_dir: Path) -> pd.DataFrame:
    """Read the tidy table without runs of earlier versions of a method, which are not mixed with later ones."""
    runs = read_runs(study_dir)
    return runs[of_earlier_versions(runs).isna()]


def left_out_times(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose inference times were left out by `rows.with_usual_times` and not filled in since.

    Missing text may be None, as in new rows, or empty, as in the table that `read_runs` returns.
    """
    settings, device = (runs[name].fillna("") for name in ("timing_settings", "timing_device"))
    return runs[(settings != "") & (device == "")]


def with_file(study_dir: Path, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the runs that have a file of this name next to their record."""
    return runs[np.array([run_file(study_dir, run, name).exists() for run in runs["run"]], dtype=bool)]


def run_file(study_dir: Path, run: str, name: str) -> Path:
    """Return the path of one of a run's files."""
    return Path(study_dir) / "runs" / run / name


def neuroprune_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the usual finished NeuroPrune runs of the first available form: penalties, regulated, or FC.

    Runs with a target number of heads are left out if there are others.
    """
    ours = runs[(runs["status"] == "done") & (runs["method"] == "neuroprune") & (runs["variant"] == "")]
    done = at_sparsities(ours[ours["sparsity"].notna()])
    found = [done[done["form"] == form] for form in ("penalty", "regulated") if (done["form"] == form).any()]
    return found[0] if found else done


def at_sparsities(runs: pd.DataFrame) -> pd.DataFrame:
    """Leave out runs with a target number of heads if their model, task and method have other runs."""
    asked = runs["heads_asked"].notna()
    others = (~asked).groupby([runs[name] for name in ("model", "task", "method", "form")]).transform("any")
    return runs[~(asked & others.astype(bool))]


def usual_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows without unusual options first."""
    return rows.sort_values("variant", key=lambda names: names != "", kind="stable")


def layers_of(text: str) -> list[list[int]]:
    """Parse a cell of a `LAYERS` column: the numbers of each layer; no layers if the text is empty."""
    return [[int(number) for number in layer.split()] for layer in text.split(";")] if text else []


def place_of(device: str, cpu: str) -> str:
    """Return a machine's accelerator or, if it has none, its processor."""
    return device if device != "cpu" else f"CPU {cpu}"
