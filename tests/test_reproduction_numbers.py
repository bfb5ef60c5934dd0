"""Numbers in docs/reproduction.md equal those in the published records."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.published import (
    PUBLISHED,
    ROOT,
    accuracy,
    heads,
    paired_difference,
    percent,
    published_rows,
    seed_results,
    setting,
    sparsity,
    standard_error,
    tables,
)

PAGE = (ROOT / "docs" / "reproduction.md").read_text()
TEXT = " ".join(PAGE.replace("**", "").split())
ABLATIONS, SST2 = "minilm-movie_snippets-neuroprune-a2-b60-t0.45", "minilm-sst2-neuroprune-a0.0001-b0.001-t0.2"
STRONG = PUBLISHED / "sst2" / "runs" / f"{SST2}-s0"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return published_rows(tmp_path_factory.mktemp("published"))


def both(row):
    return f"{sparsity(row)} sparsity, {accuracy(row)}"


def line(study, name, found):
    mode = "" if found[0]["mode"] == "coupled" else f", {found[0]['mode']}"
    return [name, setting(found[0]) + mode, *map(both, found)]


def effect(rows, names):
    """Return the ablations' line for a setting's values: names of variants, None for the default."""
    return line(
        "ablations", "ablations", [rows("ablations", f"{ABLATIONS}-{name}" if name else ABLATIONS) for name in names]
    )


def degree_weight(rows):
    names = (None, "degree_weight_missing", "degree_weight_none")
    yield ["study", "setting", "`inverse`", "`missing`", "`none`"]
    yield line("sst2", "SST-2", [rows("sst2", f"{SST2}-{name}" if name else SST2) for name in names])
    yield effect(rows, names)


def matched(rows):
    """Regulated penalties at exactly the same sparsity."""
    names = {"inverse": "", "missing": "-degree_weight_missing", "none": "-degree_weight_none"}
    groups = [f"minilm-sst2-neuroprune-penalties-80-t0.2{name}" for name in names.values()]
    found = [rows("sst2", group) for group in groups]
    assert {sparsity(row) for row in found} == {"80 %"}
    counted = [f"`{name}`, n = {row['runs']}" for name, row in zip(names, found, strict=True)]
    yield ["SST-2, regulated, 80 % sparsity", *counted]
    yield ["accuracy", *map(accuracy, found)]
    yield ["neurons left, of 9,216", *map(neurons_of_seeds, groups)]


def test_the_difference_of_degree_weights_equals_the_records():
    groups = [f"minilm-sst2-neuroprune-penalties-80-t0.2{name}" for name in ("", "-degree_weight_none")]
    assert f"the paired difference is {paired_difference('sst2', *groups)} points (95 % interval)" in TEXT
    missing = f"{groups[0]}-degree_weight_missing"
    assert f"accuracy is {paired_difference('sst2', groups[0], missing)} points lower (95 % interval)" in TEXT
    left = [result["sparsity"]["heads_per_layer"] for result in seed_results("sst2", missing)]
    assert {heads for layers in left for heads in layers[:-1]} == {12}
    assert (
        f"{min(12 - layers[-1] for layers in left)} or {max(12 - layers[-1] for layers in left)} heads of the" in TEXT
    )
    runs = [PUBLISHED / "sst2" / "runs" / f"{group}-s0" for group in (groups[0], missing)]
    left = [sum(load_file(run / "degrees.safetensors")[f"in.{layer}"].mean() for layer in range(6)) for run in runs]
    assert left[1] > left[0]  # fewer zeros in the MLPs


def neurons_of_seeds(group):
    counts = [result["sparsity"]["neurons_per_layer"] for result in seed_results("sst2", group)]
    return ", ".join(f"{sum(layers):,}" for layers in counts)


def merging(rows):
    yield ["study", "setting", "`output`", "`mlp_in`", "`none`"]
    yield effect(rows, (None, "merge_mlp_in", "merge_none"))


def epsilon(rows):
    yield ["study", "setting", "ε 1e-5", "ε 1e-4", "ε 1e-3"]
    yield effect(rows, ("eps_1e-5", None, "eps_0.001"))


def theta(rows):
    found = [rows("sst2", f"minilm-sst2-neuroprune-a0.0001-b0.001-t{value}") for value in (0.15, 0.2, 0.25)]
    yield ["study", "setting", *(f"θ {row['theta']:g}" for row in found)]
    name = setting(found[1]).removesuffix(", θ 0.2")
    yield ["SST-2", name, *(f"{heads(row)} heads, {accuracy(row)}" for row in found)]


@pytest.mark.parametrize("expected", [degree_weight, matched, merging, epsilon, theta])
def test_a_table_of_effects_equals_the_records(rows, expected):
    header, *lines = expected(rows)
    assert [table[2:] for table in tables(PAGE) if table[0] == header] == [lines]


def claims(rows):
    one, dense, l1 = rows("sst2", SST2), rows("sst2", "minilm-sst2-dense"), rows("sst2", "minilm-sst2-l1-l0.0001")
    magnitude, weaker = rows("sst2", "minilm-sst2-l1-80"), rows("sst2", "minilm-sst2-neuroprune-a0.0001-b0.0003-t0.2")
    yield f"{sparsity(one)} sparsity with {accuracy(one)} accuracy (dense: {accuracy(dense)})"
    pair = paired_difference("sst2", SST2, "minilm-sst2-l1-l0.0001")
    yield f"the l1 penalty ({accuracy(l1)} at {sparsity(l1)}; paired difference {pair} points, 95 % interval, "
    yield f"n = {l1['runs']} seeds) or magnitude pruning ({accuracy(magnitude)} at 80 %, one seed)"
    yield f"ends at {sparsity(weaker)} sparsity with {accuracy(weaker)}"
    merged = rows("ablations", ABLATIONS)
    yield f"{heads(rows('ablations', 'minilm-movie_snippets-dense')) - heads(merged)} of 48 heads are merged"
    yield f"and {standard_error(merged):.1f} points in the ablations ({merged['result']['eval_rows']} rows)"
    distances = one["result"]["method"]["head_distances"]
    yield f"one layer is {distances['min']:.2f} and the median {distances['median']:.2f}"
    short = rows("inhouse", "minilm-sst2_1000-cofi-80-schedule_published-epochs_4")
    yield f"ends at {percent(short['sparsity'])} instead of 80 % in 4 epochs"
    failed = rows("small", "minilm-movie_snippets-neuroprune-a12-b60-t0.2")
    assert not any(failed["result"]["sparsity"]["neurons_per_layer"])
    yield f"reach {sparsity(failed)} sparsity with {accuracy(failed)} accuracy, but every neuron"


def test_claims_equal_the_records(rows):
    for claim in claims(rows):
        assert claim in TEXT


def test_what_vanishes_equals_the_arrays():
    """The middle layer of the strong run: columns of Q, K and V, neurons; and the neurons of the last layer."""
    arrays = load_file(STRONG / "patterns.safetensors")
    columns = [np.unpackbits(arrays[f"{name}.3"], axis=1).any(axis=0) for name in "qkv"]
    assert f"all {np.any(columns, axis=0).sum()} input dimensions still have entries" in PAGE
    assert all(len(found) == np.any(columns, axis=0).sum() for found in columns)
    left = json.loads((STRONG / "run.json").read_text())["result"]["sparsity"]["neurons_per_layer"]
    gone = [1536 - neurons for neurons in left]
    assert f"{gone[3]} of 1,536 neurons of the middle layer are gone, and {gone[5]} of 1,536 in the last one" in PAGE


def test_the_spread_of_degrees_equals_the_records(rows):
    dense = rows("sst2", "minilm-sst2-dense")["degree_sd_percent"]
    groups = ("a3e-5-b0.0003-t0.2", "a0.0001-b0.001-t0.2", "a0.0003-b0.003-t0.2")
    found = [rows("sst2", f"minilm-sst2-neuroprune-{group}") for group in groups]
    spread = ", ".join(f"{row['degree_sd_percent']:.2f} ({sparsity(row)})" for row in found)
    assert f"{dense:.2f} (dense), {spread}" in PAGE


def test_heads_merge_only_where_the_summary_says_so():
    merged = {}
    for path in (PUBLISHED / "sst2" / "runs").glob("*-neuroprune-a*-s0/run.json"):
        record = json.loads(path.read_text())
        method, removed = record["settings"]["method"], record["result"]["method"]["removed_heads"]
        merged[method["alpha"], method["beta"], method["theta"]] = sum(map(len, removed))
    assert "Five heads merge at θ = 0.25; at θ = 0.2, one with β 3e-3 and none with smaller β." in PAGE
    assert {theta for *_, theta in merged} == {0.15, 0.2, 0.25}
    assert max(beta for _, beta, _ in merged) == 3e-3
    for (_, beta, theta), count in merged.items():
        assert count == (5 if theta == 0.25 else int(beta == 3e-3))
