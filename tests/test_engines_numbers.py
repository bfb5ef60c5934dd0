"""The measured numbers of docs/performance.md are those of their tables."""

import csv

from helpers.published import PUBLISHED, ROOT, percent, tables

PAGE = (ROOT / "docs" / "performance.md").read_text()
ENGINES = ["torch", "torch.compile", "onnx", "onnx int8"]
HEADER = ["sparsity", "FLOPs", "torch", "torch.compile", "ONNX", "ONNX, int8", "accuracy", "accuracy, int8"]


def speedup(row):
    return f"{float(row['speed-up']):.1f}"


def lines():
    with (PUBLISHED / "research" / "engines.csv").open(newline="") as file:
        rows = {(row["run"], row["engine"], row["batch"]): row for row in csv.DictReader(file)}
    runs = list(dict.fromkeys(run for run, *_ in rows))
    dense = int(rows[runs[0], "torch", "1"]["flops"])
    for run in runs:
        first = rows[run, "torch", "1"]
        fast = [" / ".join(speedup(rows[run, engine, batch]) for batch in ("1", "32")) for engine in ENGINES]
        accuracy = [percent(float(rows[run, engine, "1"]["accuracy"])) for engine in ("torch", "onnx int8")]
        yield [percent(float(first["sparsity"]), 0), f"{int(first['flops']) / dense:.2f}", *fast, *accuracy]


def test_the_table_of_engines_is_that_of_its_measurement():
    (found,) = [table for table in tables(PAGE) if table[0] == HEADER]
    assert found[2:] == list(lines())


def test_the_text_follows_from_the_table():
    (_, dense, half, eighty, ninety) = [HEADER, *lines()]
    single = [[float(cell.split(" / ")[0]) for cell in line[2:6]] for line in (dense, eighty)]
    assert [f"{single[1][i] / single[0][i]:.1f}" for i in (2, 3)] == ["4.1", "2.4"]
    losses = [float(a.split()[0]) - float(b.split()[0]) for *_, a, b in (dense, half, eighty, ninety)]
    assert f"{max(map(abs, losses)):.1f}" == "0.7"


def test_the_times_of_multiples_are_those_of_their_measurement():
    with (PUBLISHED / "research" / "widths.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = " ".join(PAGE.split())
    for multiple, words in (("16", "takes {} of the time"), ("8", "take {} of it"), ("64", "of 64 {}.")):
        times = [float(row["time over free widths"]) for row in rows if row["multiple"] == multiple]
        assert words.format(f"{min(times):.2f} to {max(times):.2f}") in text
