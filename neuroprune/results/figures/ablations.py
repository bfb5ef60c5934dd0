"""Ablation figure: side-by-side comparison of runs that differ in exactly one setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neuroprune.results.figures.context import below, pair_title, rough_training, seeds
from neuroprune.results.figures.grid import interval
from neuroprune.results.figures.style import (
    METRIC_SPAN,
    PAGE_WIDTH,
    TASK_MARKERS,
    at_least,
    bars,
    colours,
    empty_key,
    from_zero,
    mark_empty,
    nothing_to_show,
    say_below,
)
from neuroprune.results.runs import OPTIONS, drawn_runs
from neuroprune.results.tables.summary import drawn_means

SETTINGS = {
    "degree_weight": "NeuroPrune (penalties): degree weight",
    "merge": "NeuroPrune (penalties): redundant heads are folded into",
    "eps": "NeuroPrune (penalties): threshold ε",
    "mode": "NeuroPrune (penalties): mode",
    "fold": "NeuroPrune-FC: fold removed units into those that remain",
    "centred": "NeuroPrune-FC: connectivity without a unit's mean",
    "token_weights": "NeuroPrune-FC: tokens weighed in the fold",
}
WORDS = {"True": "yes", "False": "no", "auto": "by length", "output": "output", "mlp_in": "MLP input"}
PANELS = {"value": "metric (%)", "sparsity": "sparsity (%)", "train_time": "training (s)"}
POINT = ["model", "task", "method", "form", "point", "heads_asked", "alpha", "beta", "theta", "strength"]


def ablations(study_dir: Path) -> tuple[Figure, pd.DataFrame]:
    """Draw the effect of each setting on metric, sparsity and training time, with all other settings equal.

    Args:
        study_dir: The study's folder with ``runs.csv``.

    Returns:
        The figure and its data: one row per mark. Both are replaced by a note if no two finished runs differ in exactly
        one of ``SETTINGS``.

    Raises:
        UserError: If the table of runs is missing.
    """
    runs = drawn_runs(study_dir)
    table = drawn_means(runs)
    rest = table["group"].map(runs.drop_duplicates("group").set_index("group")["other_settings"])
    shown = comparisons(table.assign(other_settings=rest)[table["runs"] > 0])
    if shown.empty:
        names = ", ".join(SETTINGS)
        return nothing_to_show(
            f"Nothing to show: no two finished runs differ in exactly one of these settings:\n{names}."
        )
    drawn = runs[runs["model"].isin(shown["model"]) & runs["task"].isin(shown["task"])]
    pairs = drawn.drop_duplicates(["model", "task"]).to_dict("records")
    return _plot(shown, [*map(pair_title, pairs), *rough_training(drawn)]), shown


def comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """Find groups of rows that differ in exactly one setting.

    Args:
        table: Means of ``summarize``, finished runs only, with the column ``other_settings`` of ``runs.csv``.

    Returns:
        One row per mark: ``setting``, ``choice``, ``comparison`` (identifies rows that belong together), ``model``,
        ``task``, ``point`` (their common target), ``panel``, ``value`` with ``low`` and ``high``, ``seeds``.
    """
    rows = []
    for setting in SETTINGS:
        others = [name for name in (*OPTIONS, "mode") if name != setting]
        groups = table.groupby([*POINT, *others, "other_settings"], sort=False, dropna=False)
        compared = [group for _, group in groups if group[setting].nunique() > 1]
        for place, group in enumerate(compared):
            for choice, some in group.groupby(setting, sort=False):
                rows += _marks(some.iloc[0], setting, str(choice), place)
    return pd.DataFrame(rows)


def _marks(row: pd.Series, setting: str, choice: str, comparison: int) -> list[dict[str, object]]:
    """Return the marks of one row in all panels."""
    found: list[dict[str, object]] = []
    for panel, unit in PANELS.items():
        factor = 100 if "%" in unit else 1
        low, high = interval(row.to_dict(), panel)
        found.append(
            {"setting": setting, "choice": choice, "comparison": comparison, "model": row["model"], "task": row["task"]}
            | {
                "point": _point(row),
                "empty_layers": row["empty_layers"],
                "panel": panel,
                "unit": unit,
                "value": factor * row[panel],
            }
            | {"low": factor * low, "high": factor * high, "seeds": row["runs"]}
        )
    return found


def _point(row: pd.Series) -> str:
    """Return the target of a run as text."""
    asked = [f"{100 * row['point']:g} %"] if np.isfinite(row["point"]) else []
    asked += [f"{row['heads_asked']:.0f} heads"] if np.isfinite(row["heads_asked"]) else []
    strengths = {"α": "alpha", "β": "beta", "θ": "theta"}
    return ", ".join(asked + [f"{sign} {row[name]:g}" for sign, name in strengths.items() if np.isfinite(row[name])])


def _plot(shown: pd.DataFrame, notes: Sequence[str]) -> Figure:
    """Draw one row of panels per setting, one column per quantity and one line per comparison."""
    settings = list(shown["setting"].unique())
    tasks = colours(shown["task"].unique())
    figure = Figure(figsize=(PAGE_WIDTH, 0.7 + 1.6 * len(settings)), layout="constrained")
    grid = figure.subplots(len(settings), len(PANELS), squeeze=False)
    for axes_row, setting in zip(grid, settings, strict=True):
        rows = shown[shown["setting"] == setting]
        for axes, (panel, unit) in zip(axes_row, PANELS.items(), strict=True):
            _panel(axes, rows[rows["panel"] == panel], _choices(rows), tasks)
            axes.set_ylabel(unit)
        axes_row[0].set_title(SETTINGS[setting], loc="left", fontweight="bold")
    handles = [Line2D([], [], color=colour, lw=3, label=task) for task, colour in tasks.items()]
    handles += empty_key(shown)
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    points = f"target: {'; '.join(dict.fromkeys(shown['point']))}"
    say_below(figure, below(*notes, "lines join runs that differ only in this setting", points, seeds(shown["seeds"])))
    return figure


def _choices(rows: pd.DataFrame) -> list[str]:
    """Sort the choices of a setting: numbers ascending, words in order of appearance."""
    choices = list(rows["choice"].unique())
    try:
        return sorted(choices, key=float)
    except ValueError:
        return choices


def _panel(axes: Axes, rows: pd.DataFrame, choices: list[str], tasks: dict[str, str]) -> None:
    """Draw one quantity; comparisons are shifted sideways so that error bars do not overlap."""
    place = {choice: index for index, choice in enumerate(choices)}
    lines = list(rows.groupby("comparison", sort=False))
    for number, (_, line) in enumerate(lines):
        ordered = line.sort_values("choice", key=lambda column: column.map(place))
        x = ordered["choice"].map(place) + (number - (len(lines) - 1) / 2) * min(0.08, 0.5 / len(lines))
        marker = TASK_MARKERS[number % len(TASK_MARKERS)]
        mark_empty(axes, ordered.assign(x=x), "x", "value")
        axes.errorbar(
            x, ordered["value"], yerr=bars(ordered), color=tasks[ordered["task"].iloc[0]], marker=marker, capsize=1.8
        )
    axes.set_xticks(range(len(choices)), [WORDS.get(choice, choice) for choice in choices])
    axes.set_xlim(-0.5, len(choices) - 0.5)
    if rows["panel"].iloc[0] == "train_time":
        from_zero(axes)
    else:
        at_least(axes, METRIC_SPAN)
    axes.grid(visible=False, axis="x")
