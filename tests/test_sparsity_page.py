"""The table of docs/sparsity.md equals the published records, and its number of forward passes the code."""

from helpers.published import (
    ROOT,
    accuracy,
    faster,
    heads,
    millions,
    neurons,
    paired_difference,
    percent,
    published_rows,
    sparsity,
    tables,
)
from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.methods.components.latency import REPEATS, SHARES, WARMUP
from neuroprune.methods.neuroprune.speedup import TABLES, TRIES


def test_the_reference_equals_the_records(tmp_path):
    rows = published_rows(tmp_path)
    (table, *_) = tables((ROOT / "docs" / "sparsity.md").read_text())
    found = [
        rows("sst2", f"minilm-sst2-{name}")
        for name in ("dense", *(f"neuroprune-{n}" for n in (25, 50, 70, 80, 90, 95)))
    ]
    assert table[2:] == [
        [sparsity(row), accuracy(row), f"{heads(row)}", f"{neurons(row):,}", millions(row), faster(row)]
        for row in found
    ]
    assert {(row["result"]["train_rows"], row["result"]["eval_rows"]) for row in found} == {(67349, 872)}
    assert [row["runs"] for row in found] == [3, 1, 1, 1, 3, 1, 1]


def test_the_advice_on_methods_equals_the_records(tmp_path):
    rows = published_rows(tmp_path)
    page = (ROOT / "docs" / "sparsity.md").read_text()
    ahead = paired_difference("smollm2", *(f"smollm2_10-sst2_1000-{name}-30" for name in ("taylor", "neuroprune")))
    assert f"with SmolLM2, ahead by {ahead} points at 30 % (95 % interval, n = 3)" in page
    zeros, dense = (rows("sst2", f"minilm-sst2-{name}") for name in ("neuroprune-penalties-50-t0.2", "dense"))
    assert (
        f"{percent(zeros['value'])} at 50 % sparsity on all of SST-2 (one seed; dense {percent(dense['value'])})"
        in page
    )


def test_the_measurement_of_a_speed_up_takes_the_passes_of_the_code():
    times = WARMUP + REPEATS
    table, events = 2 * (len(SHARES) + 1), NeuroPruneSettings(speedup=2).events
    fewest, most = (times * (tables_ * table + 2 * events * tries) for tables_, tries in ((1, 1), (TABLES, TRIES)))
    assert f"the measurements take {fewest} to {most} forward passes" in " ".join(
        (ROOT / "docs" / "sparsity.md").read_text().split()
    )
