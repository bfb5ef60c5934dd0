"""Paired tests between runs: hand-computed values, wording, and omission without predictions."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.stats import binom

from helpers import results
from neuroprune.results import tables
from neuroprune.results.collect import collect
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.paired import p_value, with_tests
from neuroprune.results.tables.summary import summarize

ROWS = 200
FC = {"name": "neuroprune", "sparsity": 0.8}
L1 = {"name": "l1", "sparsity": 0.8}


def write(folder, *runs):
    """Write runs given as (settings, number of rows from the first one on that are wrong)."""
    for settings, wrong in runs:
        place = results.write_run(folder, settings, with_arrays=False)
        true = np.arange(ROWS, dtype=np.uint8) % 2
        predicted = np.where(np.arange(ROWS) < wrong, 1 - true, true).astype(np.uint8)
        save_file({"predicted": predicted, "true": true}, place / "predictions.safetensors")
    collect(folder)
    return with_tests(folder, read_runs(folder), summarize(read_runs(folder))).set_index("method")


def test_mcnemars_test_is_the_sign_test_on_rows_that_differ():
    differences = np.array([1] * 9 + [-1] * 2 + [0] * 50)
    assert p_value(differences, seeds=1) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert p_value(np.zeros(10), seeds=1) == 1.0


def test_random_signs_agree_with_the_exact_test():
    differences = np.array([1] * 14 + [-1] * 4 + [0] * 50)
    assert p_value(differences, seeds=2) == pytest.approx(p_value(differences, seeds=1), abs=0.01)


def test_random_signs_give_no_p_of_zero():
    assert p_value(np.ones(100), seeds=2) == 1 / 10_000


def test_methods_are_compared_with_dense_and_with_neuroprune_fc(tmp_path):
    table = write(
        tmp_path,
        (results.settings(), 20),
        (results.settings(method=FC), 22),
        (results.settings(method=L1), 60),
    )
    assert table["points_dense"][["neuroprune", "l1"]].tolist() == [-1.0, -20.0]
    assert table["p_dense"]["neuroprune"] == pytest.approx(0.5)  # two rows of two
    assert table["points_fc"]["l1"] == -19.0 and table["p_fc"]["l1"] < 1e-9
    assert table[["p_dense", "p_fc"]].isna().loc["dense"].all() and np.isnan(table["p_fc"]["neuroprune"])
    text = tables.write("summary", tmp_path)[1].read_text()
    assert "no difference (p = 0.500)" in text and "−19.0 (p < 0.001)" in text and "McNemar" in text


def test_seeds_are_compared_with_the_same_seed(tmp_path):
    table = write(
        tmp_path,
        *((results.settings(seed=seed), 20) for seed in range(2)),
        *((results.settings(method=FC, seed=seed), 20 + 10 * seed) for seed in (0, 1, 2)),
    )
    assert table["points_dense"]["neuroprune"] == -2.5
    assert table["p_dense"]["neuroprune"] == pytest.approx(2 / 2**10, abs=0.002)


def test_without_predictions_or_on_other_rows_nothing_is_compared(tmp_path):
    results.write_run(tmp_path, results.settings(), with_arrays=False)
    table = write(tmp_path, (results.settings(method=FC), 20))
    assert "p_dense" not in table
    assert "Against" not in tables.write("summary", tmp_path)[1].read_text()
    short = np.zeros(ROWS - 1, dtype=np.uint8)
    save_file(
        {"predicted": short, "true": short}, tmp_path / "runs" / results.settings().run / "predictions.safetensors"
    )
    assert "Against" not in tables.write("summary", tmp_path)[1].read_text()
