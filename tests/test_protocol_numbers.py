"""The tables of the protocol in docs/method.md are those of its runs."""

import csv
import statistics
from collections import defaultdict
from typing import NamedTuple

import pytest

from helpers.published import PUBLISHED, ROOT, mean_interval, percent, tables

LAYOUTS = (ROOT / "docs" / "architectures.md").read_text()
PAGE = (ROOT / "docs" / "method.md").read_text()
BEGINNINGS = {"usual": "usual", "head_first": "head first", "longer": "longer"}
VARIANTS = {"dense": "dense", "usual": "NeuroPrune-FC", "taylor": "Taylor", "no fold": "without fold"}
VARIANTS |= {"score counts": "counts by Taylor", "score taylor": "Taylor's score with fold"}
VARIANTS |= {"six events": "six events", "taylor, six events": "Taylor, six events"}
SCHEDULES = {
    "post_lr 1": ("`post_lr` 1", "usual"),
    "late": ("late", "usual"),
    "late taylor": ("Taylor, late", "taylor"),
}
"""Changes of the schedule by variant: name, and the variant with the default schedule."""


class Cell(NamedTuple):
    """Runs that differ only in the seed; `sparsity` is empty for dense runs."""

    task: str
    beginning: str
    sparsity: str
    variant: str


@pytest.fixture(scope="module")
def runs():
    return complete_cells("protocol.csv")


def complete_cells(name):
    """Return the accuracies by cell and seed; dense runs belong to every target."""
    found = defaultdict(dict)
    with (PUBLISHED / "research" / name).open(newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row["task"], row["beginning"], row["asked"], row["variant"])
            found[cell][row["seed"]] = 100 * float(row["metric pool"])
    return {cell: values for cell, values in found.items() if len(values) == 5}


def difference(ours, theirs):
    """Return the mean of paired differences with the half width of its 95 % interval (t over five seeds)."""
    return mean_interval([ours[seed] - theirs[seed] for seed in sorted(ours)])


def cells(runs):
    yield ["task", "beginning", "sparsity", "method", "accuracy of each seed", "mean", "minus Taylor"]
    for cell, values in runs.items():
        if cell.variant in SCHEDULES or cell.sparsity == "0.5":
            continue
        seeds = ", ".join(f"{values[seed]:.1f}" for seed in sorted(values))
        taylor = runs[cell._replace(sparsity=cell.sparsity or "0.8", variant="taylor")]
        against = "" if cell.variant == "taylor" else difference(values, taylor)
        target = percent(float(cell.sparsity), 0) if cell.sparsity else ""
        names = [f"`{cell.task}`", BEGINNINGS[cell.beginning], target, VARIANTS[cell.variant]]
        yield [*names, seeds, f"{statistics.mean(values.values()):.1f}", against]


def schedules(runs):
    yield ["task", "sparsity", "change", "accuracy of each seed", "minus the default schedule"]
    for cell, values in runs.items():
        if cell.variant in SCHEDULES:
            name, usual = SCHEDULES[cell.variant]
            seeds = ", ".join(f"{values[seed]:.1f}" for seed in sorted(values))
            target = percent(float(cell.sparsity), 0)
            yield [f"`{cell.task}`", target, name, seeds, difference(values, runs[cell._replace(variant=usual)])]


def ridges(runs):
    """The addendum's runs: their cells with the usual ridge and a larger one."""
    yield ["task", "sparsity", "`ridge` 0.01", "`ridge` 1", "difference"]
    for cell, values in runs.items():
        if cell.variant == "ridge 1":
            usual = runs[cell._replace(variant="usual")]
            seeds = [", ".join(f"{found[seed]:.1f}" for seed in sorted(found)) for found in (usual, values)]
            yield [f"`{cell.task}`", percent(float(cell.sparsity), 0), *seeds, difference(values, usual)]


def over_cells(runs, ours, theirs):
    """Return the difference of two variants over all cells that both have, with the interval over the seeds' means."""
    cells_ = [cell for cell in runs if cell.variant == ours and cell._replace(variant=theirs) in runs]
    means = [
        {seed: statistics.mean(runs[cell._replace(variant=name)][seed] for cell in cells_) for seed in runs[cells_[0]]}
        for name in (ours, theirs)
    ]
    return difference(*means)


def test_the_table_and_the_decision_about_the_ridge_are_those_of_the_runs():
    runs = complete_cells("ridge.csv")
    header, *lines = ridges(runs)
    (found,) = [table for table in tables(PAGE) if table[0] == header]
    assert found[2:] == lines and len(lines) == 6
    text = " ".join(PAGE.replace("**", "").split())
    assert f"over all six cells the difference is {over_cells(runs, 'ridge 1', 'usual')} points" in text
    lead = over_cells(runs, "usual", "taylor")
    assert f"fold against none on `movie_512` {over_cells(runs, 'usual', 'no fold')}, and" in text
    assert f"NeuroPrune-FC against Taylor {lead}." in text and f"is ahead: by {lead[1:]} points over 50, 80" in text
    assert f"that suggested it: {over_cells(runs, 'ridge 1', 'usual')} points over six cells" in text


def test_the_conclusions_about_schedules_are_those_of_the_runs(runs):
    text = " ".join(PAGE.replace("**", "").split())

    def changed(task, sparsity, variant):
        return difference(*(runs[Cell(task, "usual", sparsity, name)] for name in (variant, "usual")))

    late = [changed("movie_512", sparsity, "late") for sparsity in ("0.8", "0.9")]
    assert f"not even in 64 steps: {late[0]} points at 80 % sparsity and {late[1]} at 90 %" in text
    lower = [changed(task, "0.5", "post_lr 1") for task in ("sst2_6000", "movie_512")]
    assert f"in place of 2 it is {lower[0]} points on 6,000 rows of SST-2 and {lower[1]} in runs of 64 steps" in text


def beginnings(runs):
    yield ["task", "method", "head first − usual", "head first − longer"]
    for first, values in runs.items():
        if first.beginning == "head_first":
            others = [runs.get(first._replace(beginning=other)) for other in ("usual", "longer")]
            if any(others):
                found = [difference(values, other) if other else "" for other in others]
                yield [f"`{first.task}`", VARIANTS[first.variant], *found]


def value(runs):
    """Return the value of NeuroPrune-FC by rule 1: the mean over cells, with the interval over the seeds' means."""
    usual = {cell: values for cell, values in runs.items() if (cell.beginning, cell.variant) == ("usual", "usual")}
    ours = {cell: values for cell, values in usual.items() if cell.sparsity in ("0.8", "0.9")}
    over_cells = [
        {seed: statistics.mean(values[seed] for values in found) for seed in next(iter(ours.values()))}
        for found in (list(ours.values()), [runs[cell._replace(variant="taylor")] for cell in ours])
    ]
    return difference(*over_cells)


def test_the_decision_follows_from_the_runs(runs):
    text = " ".join(PAGE.replace("**", "").split())
    assert f"its mean difference to Taylor over the complete cells is {value(runs)} points" in text


def test_the_shares_of_dense_accuracy_are_those_of_the_runs(runs):
    dense = runs[Cell("sst2_6000", "usual", "", "dense")]
    shares = []
    for asked in ("0.8", "0.9"):
        ours = runs[Cell("sst2_6000", "usual", asked, "usual")]
        shares.append(percent(statistics.mean(ours[seed] / dense[seed] for seed in dense)))
    text = " ".join(PAGE.replace("**", "").split())
    assert f"keeps {shares[0]} of the dense accuracy at 80 % sparsity and {shares[1]} at 90 %" in text


def test_the_differences_at_80_and_90_percent_are_those_of_the_runs(runs):
    found = {
        task: " and ".join(
            difference(*(runs[Cell(task, "usual", asked, name)] for name in ("usual", "taylor")))
            for asked in ("0.8", "0.9")
        )
        for task in ("sst2_6000", "sick_1500", "mrpc_1600")
    }
    text = " ".join(PAGE.split())
    assert f"it is {found['sst2_6000']} points, on SICK {found['sick_1500']}, on MRPC {found['mrpc_1600']}." in text


@pytest.mark.parametrize("expected", [cells, schedules, beginnings])
def test_a_table_of_the_page_is_that_of_the_runs(runs, expected):
    header, *lines = expected(runs)
    (found,) = [table for table in tables(PAGE) if table[0] == header]
    assert found[2:] == lines


def test_the_cost_of_uniform_layers_is_that_of_the_runs():
    runs = complete_cells("uniform.csv")
    usual, uniform, multiple = (
        runs[Cell("sst2_1000", "usual", "0.5", name)] for name in ("usual", "uniform", "uniform, 64")
    )
    text = " ".join(LAYOUTS.split())
    assert f"loses {difference(usual, uniform).removeprefix('+')} points against freely chosen widths" in text
    assert f"and {difference(usual, multiple).removeprefix('+')} points with `multiple_of=64`" in text
