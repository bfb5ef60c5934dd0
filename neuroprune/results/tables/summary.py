"""Summary of a study: metric, size, times and training cost of each method at each sparsity."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neuroprune.errors import UserError
from neuroprune.results.runs import (
    COUNTS,
    GUESSES,
    LATER,
    LAYERS,
    OPTIONS,
    STRENGTHS,
    left_out_times,
    method_label,
    of_earlier_versions,
    place_of,
    read_runs,
)
from neuroprune.results.tables.formats import NBSP, Table
from neuroprune.results.tables.lead import lead
from neuroprune.results.tables.paired import NOTE, TESTED, compared, with_tests
from neuroprune.results.tables.partners import dense_rows, functional_rows, partners

IDENTITY = [
    "group",
    "variant",
    "model",
    "model_random",
    "task",
    "method",
    "form",
    "point",
    "heads_asked",
    "speedup_asked",
]
IDENTITY += [*STRENGTHS, *OPTIONS, "metric"]
NOT_MEASURED = {*IDENTITY, *LAYERS, "study", "run", "status", "dirty", "commit", "seed", "device", "cpu", *LATER}
FIXED = {*GUESSES, *COUNTS, "dense_parameters", "epochs", "steps"}  # equal for all seeds
SYMBOLS = {"alpha": "α", "beta": "β", "theta": "θ", "strength": "λ"}
METHODS = (
    "NeuroPrune (penalties) is the paper's algorithm: the penalties of its Eq. 1 and 2, and merged heads. "
    "NeuroPrune-FC is this project's: it measures functional connectivity and has a target sparsity or number of "
    "heads. l1 penalty: the l1 norm of all weights in the loss; magnitude: the smallest weights are zeroed."
)
Row = Mapping[Any, Any]


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: one row per model, task, method and point.

    Args:
        runs: The tidy table, one row per run.

    Returns:
        The columns ``IDENTITY``; ``runs`` and ``diverged``, the numbers of averaged and of diverged runs; the mean of
        each measured column under its own name and its sample standard deviation over seeds as ``<name>_sd`` (NaN for
        one run); ``percent_of_dense``, relative to the dense mean of the same model and task; ``train_time``, processor
        seconds of training where recorded, otherwise wall-clock time without evaluation;
        ``training_to_dense`` and ``training_to_neuroprune``, the time over that of the dense model and of NeuroPrune's
        target form at the same sparsity or number of heads, NaN unless both are of the same kind. Models and tasks keep
        the order of the runs; within each, dense comes first, then the methods with ascending points.

    Raises:
        UserError: If there is no run.
    """
    if runs.empty:
        raise UserError("There are no runs to summarize; run the study first.")
    measured = [name for name in map(str, runs) if name not in NOT_MEASURED]
    table = _with_train_time(_sorted(_averages(runs, measured)))
    return table.assign(
        percent_of_dense=100 * table["value"] / _dense_of_each(table, "value"),
        training_to_dense=_time_ratio(table, _dense_of_each),
        training_to_neuroprune=_time_ratio(table, _neuroprune_of_each),
    )


def _averages(runs: pd.DataFrame, measured: list[str]) -> pd.DataFrame:
    """Average the finished runs of each group, in order of appearance; count the other runs."""
    table = runs.drop_duplicates("group").set_index("group", drop=False)[IDENTITY]
    done = runs[runs["status"] == "done"]
    values = done[measured].apply(pd.to_numeric, errors="coerce").groupby(done["group"])
    spread = [name for name in measured if name not in FIXED and not name.endswith(("_q1", "_q3"))]
    counts: dict[str, Any] = {
        "runs": done["group"].value_counts().reindex(table.index, fill_value=0),
        "diverged": (runs["status"] == "diverged").groupby(runs["group"]).sum(),
    }
    means, deviations = values.mean(), values.std()[spread].add_suffix("_sd")
    parts = [table.assign(**counts), means.reindex(table.index), deviations.reindex(table.index)]
    return pd.concat(parts, axis=1).reset_index(drop=True)


def _with_train_time(table: pd.DataFrame) -> pd.DataFrame:
    """Add the training time used in comparisons, with its standard deviation."""
    recorded = table["train_cpu_seconds"].notna()
    names = {end: (f"train_seconds_without_eval{end}", f"train_cpu_seconds{end}") for end in ("", "_sd")}
    return table.assign(
        **{f"train_time{end}": table[cpu].where(recorded, table[wall]) for end, (wall, cpu) in names.items()}
    )


def drawn_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the means that figures draw.

    Args:
        runs: The tidy table, one row per run.

    Returns:
        The means of ``summarize``, without the wall-clock times of training where other runs on the same model and task
        recorded processor times.

    Raises:
        UserError: If there is no run.
    """
    table = summarize(runs)
    processor = table["train_cpu_seconds"].notna()
    other = processor.groupby([table["model"], table["task"]]).transform("any") & ~processor
    names = ("train_time", "train_time_sd", "training_to_dense", "training_to_neuroprune")
    return table.assign(**{name: table[name].mask(other) for name in names})


def _time_ratio(table: pd.DataFrame, partner: Callable[[pd.DataFrame, str], pd.Series]) -> pd.Series:
    """Divide each row's training time by its partner's, both processor times or both wall times; NaN otherwise."""
    names = ("train_cpu_seconds", "train_seconds_without_eval")
    (processor, other), (wall, other_wall) = ((table[name], partner(table, name)) for name in names)
    return (processor / other).fillna((wall / other_wall).where(processor.isna() & other.isna()))


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by model, task, form and method in order of appearance (dense, without a form, first), then by point."""
    orders = {name: list(table[name].unique()) for name in ("model", "task", "method")}
    orders["form"] = ["", *(form for form in table["form"].unique() if form)]
    ranks = {name: {value: rank for rank, value in enumerate(order)} for name, order in orders.items()}
    keys = table.assign(**{name: table[name].map(rank) for name, rank in ranks.items()})
    order = keys.sort_values(["model", "task", "form", "method", "point", "sparsity"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _dense_of_each(table: pd.DataFrame, name: str) -> pd.Series:
    """Return, for each row, the usual dense mean of a column for the same model and task, or NaN."""
    return partners(table, dense_rows(table), ["model", "task"])[name].astype(float)


def _neuroprune_of_each(table: pd.DataFrame, name: str) -> pd.Series:
    """Return, for each row with a target, NeuroPrune-FC's mean of a column for the same target; otherwise NaN."""
    return partners(table, functional_rows(table), ["model", "task", "point", "heads_asked"])[name].astype(float)


def summary(study_dir: Path) -> Table:
    """Make the summary table of a study.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The numbers of ``summarize`` and, for readers, one section per model and task with all times and sizes.
    """
    runs = read_runs(study_dir)
    table = with_tests(study_dir, runs, summarize(runs))
    sizes = batch_sizes(table)
    sections = {
        _heading(rows.iloc[0]): without_empty(pd.DataFrame([_cells(row, sizes) for row in rows.to_dict("records")]))
        for _, rows in table.groupby(["model", "task"], sort=False)
    }
    title = f"Summary of the study “{study_dir.name}”"
    return Table(title, table, sections, _notes(runs, table), lead(table, sizes))


def _heading(row: pd.Series) -> str:
    """Return a section heading: model, task, metric, and the value of the simplest baseline."""
    mark = "†" if row["model_random"] else ""
    tokens = row.get("metric_unigram_perplexity", math.nan)
    labels = GUESSES | ({"majority": "most frequent token"} if math.isfinite(tokens) else {})
    guesses = [f"; always the {label}: {number(100 * row[name], 1)}" for name, label in labels.items() if row[name] > 0]
    guesses += [f"; perplexity of token frequencies: {number(tokens, 1)}"] if math.isfinite(tokens) else []
    return f"{row['model']}{mark} on {row['task']} ({row['metric'].replace('_', ' ')} in %{''.join(guesses)})"


def batch_sizes(table: pd.DataFrame) -> list[int]:
    """Return the batch sizes at which inference was timed, ascending."""
    found = (re.fullmatch(r"inference_ms_b(\d+)", name) for name in map(str, table))
    return sorted(int(match.group(1)) for match in found if match)


def _cells(row: Row, sizes: list[int]) -> dict[str, str]:
    """Format one row for readers; unknown values become empty cells."""
    cells = {
        "Method": method_label(row["method"], row["form"]),
        "Target": asked(row),
        "Sparsity %": number(100 * row["sparsity"], 1) + (" §" if row["empty_layers"] > 0 else ""),
        "Metric %": _spread(100 * row["value"], 100 * row["value_sd"], 1),
        "Perplexity": _perplexity(row),
        "Against dense": compared(row, "dense"),
        "Against NeuroPrune-FC": compared(row, "fc"),
        "Runs": f"{row['runs']}" + (f" (−{row['diverged']}‡)" if row["diverged"] else ""),
        "% of dense": number(row["percent_of_dense"], 1),
        "Heads left": number(row["heads_left"], 0),
        "Parameters (M)": number(row["parameters"] / 1e6, 2),
    }
    for size in sizes:
        time, speedup = number(row[f"inference_ms_b{size}"], 2), number(row[f"speedup_b{size}"], 2)
        cells[f"Inference (ms), batch {size}"] = f"{time} (×{speedup})" if time else ""
    training, with_it = (_seconds(row[name]) for name in ("train_time", "train_seconds"))
    return cells | {
        "Training (s)": f"{training} ({with_it})" if training else "",
        "Step (s)": number(row["seconds_per_step"], 3),
        "Training × dense": number(row["training_to_dense"], 2),
        "Training × NeuroPrune": number(row["training_to_neuroprune"], 2),
    }


def _perplexity(row: Row) -> str:
    """Return the perplexity of a language model; empty for other tasks."""
    mean = row.get("metric_perplexity", math.nan)
    return _spread(mean, row["metric_perplexity_sd"], 2) if math.isfinite(mean) else ""


def asked(row: Row) -> str:
    """Format the target: a sparsity or penalty strengths, and unusual options."""
    target = [f"{100 * row['point']:g} %"] if math.isfinite(row["point"]) else []
    target += [f"{row['heads_asked']:.0f} heads"] if math.isfinite(row["heads_asked"]) else []
    target += [f"{row['speedup_asked']:g} × faster"] if math.isfinite(row["speedup_asked"]) else []
    strengths = [f"{SYMBOLS[name]}{NBSP}{row[name]:g}" for name in SYMBOLS if math.isfinite(row[name])]
    return ", ".join([*target, *strengths, *filter(None, [row["mode"], row["variant"]])])


def number(value: float, digits: int) -> str:
    """Format a number with this many decimals; return an empty string if it is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _seconds(value: float) -> str:
    """Format seconds, with one decimal below 100."""
    return number(value, 1 if value < 100 else 0)


def _spread(mean: float, sd: float, digits: int) -> str:
    """Format mean ± standard deviation, the mean alone for one run, or a dash if there is no value."""
    return (number(mean, digits) or "–") + (f" ± {number(sd, digits)}" if math.isfinite(sd) else "")


def without_empty(cells: pd.DataFrame) -> pd.DataFrame:
    """Drop empty columns."""
    return cells[[name for name in cells if (cells[name] != "").any()]]


def _notes(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Return notes on the meaning and limitations of the numbers."""
    notes = [
        "Metric: mean ± sample standard deviation over seeds. Runs: number of averaged seeds.",
        "Sparsity: fraction of the dense model's attention (Q, K, V, O) and MLP weights that is removed or zero.",
        "Inference: milliseconds per example, median over passes of the physically cut model; in parentheses the "
        "speed-up over the dense model, both timed alternately in one job. Values are means over the timed seeds; for "
        "the dense model, the median over these jobs.",
        "Training: processor time without evaluation where recorded, otherwise wall time; in parentheses wall time "
        "with evaluation. Step: wall time without evaluation. × dense and × NeuroPrune: training time relative to "
        "dense and to NeuroPrune with the same target sparsity or number of heads, both of the same kind.",
    ]
    tested = NOTE if TESTED & set(table) else ""
    empty = "§ A layer has lost all its heads or all its neurons."
    diverged = "‡ Number of runs that diverged (non-finite loss); they are not included in the means."
    marks = [empty] * bool((table["empty_layers"] > 0).any()) + [diverged] * bool(table["diverged"].any())
    return [*notes, METHODS, *filter(None, [tested]), *notes_on(runs, table), *marks]


def notes_on(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Return notes for any table: machines of the timings, and limitations of these runs."""
    marks = {
        "† Weights were initialised at random: the values show that the code works, not how good the method is.": table[
            "model_random"
        ].any(),
        "Some finished runs have a metric that is not a number; the means leave it out.": (
            runs["value"].isna() & (runs["status"] == "done")
        ).any(),
        "Some runs were stopped early and are not included in the means.": (runs["status"] == "stopped").any(),
        "Some runs were made with uncommitted code.": runs["dirty"].eq(True).any(),
    }
    earlier = [
        f"{name}: made by that version of the method and left out of figures, because other runs have a later one."
        for name in sorted(of_earlier_versions(table).dropna().unique())
    ]
    return [_machines(runs), *_timing_settings(runs), *earlier, *(text for text, holds in marks.items() if holds)]


def _timing_settings(runs: pd.DataFrame) -> list[str]:
    """Return notes on inference times that were left out, and on settings that differ between models and tasks."""
    left_out = left_out_times(runs)
    timed = runs[(runs["timing_settings"] != "") & (runs["timing_device"] != "")]
    notes = []
    if len(left_out):
        settings = "; ".join(left_out["timing_settings"].unique())
        notes.append(
            f"Inference times of {len(left_out)} run{'s' * (len(left_out) > 1)} are left out: they were measured with "
            f"other settings ({settings}) than most of the same model and task."
        )
    if timed["timing_settings"].nunique() > 1:
        pairs = timed.drop_duplicates(["model", "task"]).to_dict("records")
        found = [f"{row['model']} on {row['task']}: {row['timing_settings']}" for row in pairs]
        notes.append(f"Inference was timed with different settings: {'; '.join(found)}.")
    return notes


def _machines(runs: pd.DataFrame) -> str:
    """Return a note on the machines on which training and inference were timed."""
    trained = [place_of(*row) for row in zip(runs["device"], runs["cpu"], strict=True)]
    timed = [place_of(*row) for row in zip(runs["timing_device"], runs["timing_cpu"], strict=True)]
    if all(place == own for place, own, device in zip(timed, trained, runs["timing_device"], strict=True) if device):
        return f"Times were measured on {'; '.join(sorted(set(trained)))}."
    inference = {place for place, device in zip(timed, runs["timing_device"], strict=True) if device}
    return (
        f"Training times were measured on {'; '.join(sorted(set(trained)))}; "
        f"inference times on {'; '.join(sorted(inference))}."
    )
