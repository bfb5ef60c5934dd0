"""The table of docs/sparsity.md equals the published records."""

from helpers.published import ROOT, accuracy, faster, heads, millions, neurons, published_rows, sparsity, tables


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
    assert {(row["runs"], row["result"]["train_rows"], row["result"]["eval_rows"]) for row in found} == {
        (1, 67349, 872)
    }
