"""The measured numbers of docs/performance.md are those of their tables."""

import csv
import math

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
    text = " ".join(PAGE.split())
    assert "8.2 and 10.1 times as fast as the dense model in torch, but only 4.1 and 2.4 times" in text
    batches = [float(line[3].split(" / ")[1]) for line in (dense, eighty)]
    assert f"{batches[1]:.1f} times as fast with `torch.compile` as the dense model in torch" in text
    losses = [float(a.split()[0]) - float(b.split()[0]) for *_, a, b in (dense, half, eighty, ninety)]
    assert f"changed the accuracy by at most {max(map(abs, losses)):.1f} points" in text
    accuracies = [float(cell.split()[0]) / 100 for line in (dense, half, eighty, ninety) for cell in line[-2:]]
    errors = [100 * math.sqrt(value * (1 - value) / 872) for value in accuracies]
    assert f"on 872 rows: {min(errors):.1f} to {max(errors):.1f} points" in text


def test_the_gain_with_one_engine_is_that_of_the_measurement():
    with (PUBLISHED / "research" / "engines.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["engine"], row["batch"]) == ("torch.compile", "32")]
    times = {row["sparsity"]: float(row["milliseconds"]) for row in rows}
    told = f"and {times['0.0'] / times['0.8']:.1f} times as fast as the dense model with `torch.compile`"
    assert told in " ".join(PAGE.split())


def test_the_times_of_multiples_are_those_of_their_measurement():
    with (PUBLISHED / "research" / "widths.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = " ".join(PAGE.split())
    for multiple, words in (("16", "takes {} of the time"), ("8", "take {} of it"), ("64", "of 64 {}.")):
        times = [float(row["time over free widths"]) for row in rows if row["multiple"] == multiple]
        assert words.format(f"{min(times):.2f} to {max(times):.2f}") in text


def test_the_costs_of_training_are_those_of_their_measurement():
    with (PUBLISHED / "research" / "bench.csv").open(newline="") as file:
        ratios = {(row["benchmark"], row["case"]): float(row["ratio"]) for row in csv.DictReader(file)}
    text = " ".join(PAGE.split())
    windows = (ratios["A training step", f"target, in a window{name}"] for name in ("", ", least squares"))
    text_of_windows = "takes about {:.1f} times as long, with the least-squares fold of short runs {:.1f} times."
    assert text_of_windows.format(*windows) in text
    sizes = (("Peak memory of a run", 80), ("Peak memory of a run", 50), ("Peak memory, 32 rows of 128 tokens", 80))
    fold, means = (
        [ratios[benchmark, f"target {share} %, {name}"] for benchmark, share in sizes]
        for name in ("least squares", "means")
    )
    none = ratios["Peak memory of a run", "target 80 %, no fold"]
    assert "is then {:.2f} of dense training's, at 50 % it is {:.2f}; with 32 rows".format(*fold) in text
    assert f"of the memory, it is {fold[2]:.2f}. With the means alone" in text
    assert "it is {:.2f}, {:.2f} and {:.2f}, without any fold {:.2f} with small".format(*means, none) in text
    cases = ("target 80 %, means", "target 50 %, means", "Taylor 80 %", "target 80 %, least squares")
    taken = [f"{ratios['A run of 200 steps', case]:.2f}" for case in cases]
    assert f"take {taken[0]} of dense training's processor time at 80 % sparsity and {taken[1]} at 50 %" in text
    assert f"at 80 % takes {taken[2]}. With the least-squares fold (`fold: true`) NeuroPrune-FC" in text
    assert f"at 80 % takes {taken[3]}." in text
