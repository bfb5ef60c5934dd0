"""The tables of the protocol in docs/method.md are those of its runs."""

import csv
import math
import statistics
from collections import defaultdict

import pytest
from scipy import stats

from helpers.published import PUBLISHED, ROOT, tables

PAGE = (ROOT / "docs" / "method.md").read_text()
BEGINNINGS = {"usual": "usual", "head_first": "head first", "longer": "longer"}
VARIANTS = {"dense": "dense", "usual": "NeuroPrune-FC", "taylor": "Taylor", "no fold": "without fold"}
VARIANTS |= {"score counts": "counts by Taylor", "score taylor": "Taylor's score with fold"}


@pytest.fixture(scope="module")
def runs():
    found = defaultdict(dict)
    with (PUBLISHED / "research" / "protocol.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert row["asked"] in ("0.8", "")
            found[row["task"], row["beginning"], row["variant"]][row["seed"]] = 100 * float(row["metric pool"])
    return {key: values for key, values in found.items() if len(values) == 5}


def difference(ours, theirs):
    """Return the mean of paired differences with the half width of its 95 % interval (t over five seeds)."""
    found = [ours[seed] - theirs[seed] for seed in sorted(ours)]
    half = stats.t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return f"{statistics.mean(found):+.1f} ± {half:.1f}".replace("-", "−")


def cells(runs):
    yield ["task", "beginning", "method", "accuracy of each seed", "mean", "minus Taylor"]
    for (task, beginning, variant), values in runs.items():
        seeds = ", ".join(f"{values[seed]:.1f}" for seed in sorted(values))
        against = "" if variant == "taylor" else difference(values, runs[task, beginning, "taylor"])
        mean = f"{statistics.mean(values.values()):.1f}"
        yield [f"`{task}`", BEGINNINGS[beginning], VARIANTS[variant], seeds, mean, against]


def beginnings(runs):
    yield ["task", "method", "head first − usual", "head first − longer"]
    for task in dict.fromkeys(task for task, *_ in runs):
        for variant in ("dense", "usual", "taylor"):
            others = [runs.get((task, other, variant)) for other in ("usual", "longer")]
            if any(others):
                first = runs[task, "head_first", variant]
                yield [f"`{task}`", VARIANTS[variant], *(difference(first, other) if other else "" for other in others)]


@pytest.mark.parametrize("expected", [cells, beginnings])
def test_a_table_of_the_page_is_that_of_the_runs(runs, expected):
    header, *lines = expected(runs)
    (found,) = [table for table in tables(PAGE) if table[0] == header]
    assert found[2:] == lines
