"""Training-time figure: which runs form a line, relative times, reference, error bars, needed runs."""

import pytest
from matplotlib.container import ErrorbarContainer

from helpers import results
from neuroprune.results.collect import collect
from neuroprune.results.figures.training_time import training_time
from neuroprune.results.needs import needed_runs

DENSE = {"name": "dense"}
FC, WITHOUT_FOLD = ({"name": "neuroprune", "sparsity": 0.8, "fold": fold} for fold in (True, False))
TAYLOR, DSP = {"name": "taylor", "sparsity": 0.8}, {"name": "dsp", "heads": 12}


def run(method, epochs, seed=0, task="movie_snippets", **more):
    label = "-".join(f"{value}".lower() for value in [*method.values(), epochs, *more.values()])
    return results.settings(task, method, seed, label=label, training={"epochs": epochs, **more})


def collected(folder, runs, **changes):
    for settings in runs:
        results.write_run(folder, settings, with_arrays=False, **changes)
    results.write_plan(folder, runs)
    collect(folder)
    return folder


@pytest.fixture
def shown(tmp_path):
    runs = [run(DENSE, epochs, seed) for epochs in (3, 6, 12) for seed in (0, 1)]
    runs += [run(FC, epochs) for epochs in (3, 6)] + [run(DSP, epochs) for epochs in (6, 3)]
    left_out = [run(TAYLOR, 3), run(WITHOUT_FOLD, 6), run(FC, 12, batch_size=8)]
    left_out.append(run(DENSE, 3, task="verse_pairs"))
    return training_time(collected(tmp_path, [*runs, *left_out]))[1]


def test_lines_are_of_methods_and_targets_with_several_numbers_of_epochs(shown):
    lines = shown.groupby(["method", "target"])["epochs"].apply(list).to_dict()
    assert lines == {("dense", ""): [3, 6, 12], ("neuroprune", "80 %"): [3, 6], ("dsp", "12 heads"): [6, 3]}
    assert set(shown["task"]) == {"movie_snippets"}
    assert shown.set_index(["method", "epochs"])["seeds"].to_dict()["dense", 3] == 2


def test_times_are_relative_to_the_shortest_dense_run(shown):
    """Training takes 50 s per 3 epochs, for NeuroPrune-FC 20 s x sparsity less; plus the seed, minus 2 s evaluation."""
    found = shown.set_index(["method", "epochs"])["relative"]
    dense = 48.5
    wanted = {("dense", 3): 1, ("dense", 6): 98.5 / dense, ("dense", 12): 198.5 / dense}
    wanted |= {("neuroprune", 3): 32 / dense, ("neuroprune", 6): 66 / dense, ("dsp", 6): 98 / dense}
    for mark, relative in wanted.items():
        assert found[mark] == pytest.approx(relative)


def test_bars_in_both_directions_are_the_standard_deviation_over_seeds(shown):
    """Seeds 0 and 1 differ by 1 s and by one point, so their standard deviation is 0.7071 of it."""
    one = shown.set_index(["method", "epochs"]).loc[("dense", 3)]
    assert one["value"] - one["low"] == pytest.approx(0.5**0.5)
    assert one["relative_high"] - one["relative"] == pytest.approx(0.5**0.5 / 48.5)


def test_without_dense_runs_times_are_relative_to_the_shortest(tmp_path):
    figure, shown = training_time(collected(tmp_path, [run(FC, epochs) for epochs in (3, 6)]))
    assert shown.set_index("epochs")["relative"].to_dict() == pytest.approx({3: 1, 6: 66 / 32})
    (axes,) = figure.axes
    assert axes.get_xlabel() == "training time, the shortest run = 1 (without evaluation)"
    assert [text.get_text() for text in axes.texts] == ["3", "6"]
    assert "targets: NeuroPrune-FC 80 %" in figure.get_supxlabel()


def test_wall_times_are_left_out_beside_processor_times(tmp_path):
    folder = collected(tmp_path, [run(method, epochs) for method in (DENSE, FC) for epochs in (3, 6)])
    for path in folder.glob("runs/*neuroprune*/run.json"):
        results.edit(path, lambda data: data["result"].update(train_cpu_seconds=10.0 * data["result"]["epochs"]))
    collect(folder)
    figure, shown = training_time(folder)
    assert set(shown["method"]) == {"neuroprune"}
    assert shown.set_index("epochs")["relative"].to_dict() == pytest.approx({3: 1, 6: 2})
    assert "training times of runs without processor time are left out" in figure.get_supxlabel().replace("\n", " ")


def test_two_targets_of_one_method_are_two_lines(tmp_path):
    half = FC | {"sparsity": 0.5}
    figure, shown = training_time(collected(tmp_path, [run(m, e) for m in (FC, half) for e in (3, 6)]))
    assert sorted(shown["target"].unique()) == ["50 %", "80 %"]
    lines = [part for part in figure.axes[0].containers if isinstance(part, ErrorbarContainer)]
    assert [len(line.lines[0].get_xdata()) for line in lines] == [2, 2]


def test_runs_of_one_number_of_epochs_leave_a_note(tmp_path):
    assert "Nothing to show" in training_time(collected(tmp_path, [run(DENSE, 3), run(FC, 3)]))[1]["note"].item()


def test_only_runs_with_several_numbers_of_epochs_are_needed():
    runs = {r.run: r for r in [run(DENSE, 3), run(DENSE, 6), run(FC, 3), run(FC, 6, task="verse_pairs")]}
    wanted = [f"minilm-movie_snippets-dense-{epochs}-s0" for epochs in (3, 6)]
    assert list(needed_runs("training_time", runs)) == wanted
