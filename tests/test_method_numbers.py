"""Paired differences in docs/method.md, and the conclusions from them, equal the runs of results/published/research."""

import csv

import pytest
from test_protocol_numbers import difference

from helpers.published import PUBLISHED, ROOT, tables

TEXT = "".join((ROOT / "docs" / name).read_text() for name in ("method.md", "experiments.md"))
LATE = "start=0.333 end=0.667 post_lr=3"
OLD = "centred on the mean so far"
CENTRED = "f5b559d"


@pytest.fixture(scope="module")
def accuracies():
    """Return a function from task, method and setting to accuracies by seed at 80 % sparsity."""
    with (PUBLISHED / "research" / "runs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sparsity"] == "0.8000"]

    def find(task, method, setting, commit=None):
        return {
            row["seed"]: 100 * float(row["metric pool"])
            for row in rows
            if (row["task"], row["method"], row["setting changed"]) == (task, method, setting)
            and commit in (None, row["commit"])
        }

    return find


def differences(find):
    """Yield the lines of the table of paired differences: 512 film snippets, and SST-2 (with the mean so far: †)."""
    films, reviews = "movie_512", "sst2_1000"
    centred = [find(task, "neuroprune", "", CENTRED) for task in (films, reviews)]
    whole = [find(task, "neuroprune", "centred=False", CENTRED) for task in (films, reviews)]
    taylor = [find(task, "taylor", "") for task in (films, reviews)]
    late = find(films, "neuroprune", LATE, CENTRED)
    old, old_late = (find(reviews, "neuroprune", setting) for setting in (OLD, f"{LATE} {OLD}"))
    assert [len(cell) for cell in (*centred, *whole, *taylor, late, old, old_late)] == [5, 3, 5, 3, 5, 3, 5, 3, 3]
    yield ["centred − whole", *map(difference, centred, whole)]
    yield ["late − usual, both centred", difference(late, centred[0]), f"{difference(old_late, old)} †"]
    yield ["centred − Taylor", *map(difference, centred, taylor)]
    yield ["late centred − Taylor", difference(late, taylor[0]), f"{difference(old_late, taylor[1])} †"]


def test_paired_differences_equal_the_runs(accuracies):
    (found,) = [table for table in tables(TEXT) if table[0][0] == "paired difference"]
    assert found[2:] == list(differences(accuracies))


def test_conclusions_equal_the_runs(accuracies):
    text = " ".join(TEXT.split())
    lines = {line[0]: line[1].removeprefix("+") for line in differences(accuracies)}
    assert f"The mean gain is {lines['centred − whole']} points in runs of 64 steps" in text
    assert f"the difference is {lines['late − usual, both centred']} points" in text


SHARES = {
    "none": ("neuroprune", "post_dropout=0"),
    "true Fisher information": ("neuroprune", "post_dropout=0 true Fisher information"),
    "Taylor": ("taylor", "post_dropout=0"),
    **{
        f"{share} % of the heads": ("neuroprune", f"post_dropout=0 {share / 100} of the heads")
        for share in (45, 60, 75, 85)
    },
}
"""Method and setting of each line of the table."""


def test_shares_of_heads_equal_the_runs():
    with (PUBLISHED / "research" / "runs.csv").open(newline="") as file:
        both = [row for row in csv.DictReader(file) if row["setting changed"].startswith("post_dropout=0")]
    rows = [row for row in both if row["task"] == "sst2_1000"]
    (found,) = [table for table in tables(TEXT) if table[0] == ["change", "heads removed", "accuracy of each seed"]]
    for change, *shown in found[2:]:
        chosen = [row for row in rows if (row["method"], row["setting changed"]) == SHARES[change]]
        accuracies = ", ".join(f"{100 * float(row['metric pool']):.1f}" for row in chosen)
        assert shown == [", ".join(row["heads removed"] for row in chosen), accuracies]
    assert {line[0] for line in found[2:]} == SHARES.keys()
