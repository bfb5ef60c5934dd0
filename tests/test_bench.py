"""`make bench` at tiny sizes: every method is timed, and a cut model costs its neighbours nothing."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from helpers.loops import train_bare
from helpers.models import make_model
from neuroprune import NeuroPrune, Taylor
from neuroprune.pruning.surgery import kept_units


def test_every_benchmark_prints_and_writes_its_line(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import bench

    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    monkeypatch.setattr(bench, "SIZES", tiny)
    measured = bench.steps(1) + bench.whole_runs(12)
    bench.write(tmp_path / "bench.csv", bench.COLUMNS, measured)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(lines) == 29  # ten kinds of steps, two events, seven runs with their memory, three with large batches
    written = pd.read_csv(tmp_path / "bench.csv")
    assert written["case"].tolist() == [line[1] for line in measured] and len(written) == 29
    assert set(written.columns) == {*bench.COLUMNS, "commit", "cpu", "torch"} and written["commit"].notna().all()
    assert written.query("case == 'dense'")["ratio"].tolist() == [1, 1, 1]
    assert lines[0][0] == "plain" and lines[0][-1] == "1.00"
    assert all(float(line[-2]) > 0 for line in lines[:10] + lines[12:])


@pytest.fixture
def research(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import research

    return research


@pytest.fixture
def variants(research):
    from benchmarks import variants

    return variants


def test_runs_share_their_training_until_a_method_begins_to_watch(research):
    first = {
        name: research.first_watched(name, research.build(name, 0.8), total=1000, batch=16)
        for name in research.VARIANTS
    }
    assert first["dense"] == 1000
    assert first["usual"] == first["late"] == 333 - 16  # 256 rows are 16 steps
    assert first["late, 64 rows"] == 333 - 4 and first["early"] == 150 - 16
    assert first["random"] == 333  # it watches nothing


def test_rows_are_weighted_by_what_the_model_predicts(variants):
    """p = (0.9, 0.1): the squared gradient is 0.02 for the first label and 1.62 for the other, 0.18 on average."""
    logits, labels = torch.tensor([0.9, 0.1]).log().expand(2, 2), torch.tensor([0, 1])
    factors = [variants.row_factors(logits, labels, kind).tolist() for kind in ("predicted", "margin")]
    assert factors[0] == pytest.approx([3.0, 1 / 3])
    assert factors[1] == pytest.approx([0.02**-0.5, 1.62**-0.5])
    certain = torch.tensor([[100.0, 0.0]])
    for kind, largest in (("predicted", 30**0.5), ("margin", 1e3)):
        assert variants.row_factors(certain, torch.tensor([0]), kind).item() <= largest


def test_weighted_rows_change_which_units_are_chosen(variants):
    fields = {"sparsity": 0.5, "start": 0.25, "end": 0.25, "events": 1, "calibration_rows": 8, "post_lr": 1}
    found = []
    for method in (NeuroPrune(**fields), *(variants.weighted(kind, **fields) for kind in ("predicted", "margin"))):
        model = make_model("bert").train()
        torch.manual_seed(0)
        train_bare(method, model, steps=8)
        left = kept_units(model)
        found.append([list(map(int, units)) for units in (*left.heads, *left.neurons)])
    assert found[0] != found[1] and found[0] != found[2]


def test_another_score_picks_what_taylor_picks(variants):
    """At the first event both have seen the same steps; the fold changes only what stays."""
    fields = {"sparsity": 0.5, "start": 0.25, "end": 0.25, "events": 1, "calibration_rows": 8, "post_lr": 1}
    found = []
    for method in (variants.scored("taylor", **fields), Taylor(**fields)):
        model = make_model("bert").train()
        torch.manual_seed(0)
        train_bare(method, model, steps=8)
        left = kept_units(model)
        found.append([list(map(int, units)) for units in (*left.heads, *left.neurons)])
    assert found[0] == found[1]
