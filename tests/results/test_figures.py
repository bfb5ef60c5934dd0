"""Figures: the csv contains the plotted data, unusual results are handled, files are reproducible."""

import json
import math
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from helpers import results
from neuroprune.errors import UserError
from neuroprune.results import figures
from neuroprune.results.collect import collect
from neuroprune.results.figures import grid
from neuroprune.results.figures.context import rough_times
from neuroprune.results.figures.figure1 import figure1
from neuroprune.results.figures.figure2 import figure2
from neuroprune.results.figures.figure4 import figure4
from neuroprune.results.figures.style import print_style
from neuroprune.results.records import shrink
from neuroprune.results.runs import read_runs

SIGNATURES = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "demo"
    results.write_study(folder)
    collect(folder)
    return folder


def write(folder, *runs):
    """Write runs given as (settings, changes) and collect them."""
    for settings, changes in runs:
        results.write_run(folder, settings, **changes)
    collect(folder)
    return folder


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_written_whole_and_the_same_each_time(study, name):
    files = figures.draw(name, study)
    assert [path.name for path in files] == [f"{name}.{ending}" for ending in ("csv", "pdf", "png", "svg")]
    for path in files[1:]:
        assert path.read_bytes().startswith(SIGNATURES[path.suffix[1:]])
    first = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in figures.draw(name, study)] == first
    assert not list(study.rglob("*.tmp"))


# Columns of the csv in which every number is a mark, bar or cell of the figure.
MARKS = {
    **dict.fromkeys(["strengths", "ablations"], ("value",)),
    **dict.fromkeys(["figure4", "figure5", "figure11", "forms"], ("drawn",)),
    **dict.fromkeys(["figure1", "figure8", "figure9", "figure10"], tuple(f"c{cell}" for cell in range(64))),
    "frontier": ["value", "relative"],
    "training_time": ["value", "relative"],
    "figure2": ["spread_percent"],
    "figure3": ["removed_percent"],
    "figure6": ["heads_left", "sparsity_percent"],
    "figure7": ["relative_importance", "removed"],
    "topology": ["sd_percent", "gini"],
    "dominating_sets": ["exact", "approximate"],
}
SCALED = {"figure1": 0.01}  # its cells are drawn as fractions


def drawn_numbers(figure):
    """Return all coordinates, heights of bars and values of cells in a figure."""
    found = [[np.nan]]
    for axes in figure.axes:
        found += [line.get_xydata() for line in axes.lines]
        found += [collection.get_offsets() for collection in axes.collections]
        found += [[bar.get_height()] for bar in axes.patches if isinstance(bar, Rectangle)]
        found += [image.get_array() for image in axes.images]
    return np.concatenate([np.ma.filled(np.ma.asarray(part, dtype=float), np.nan).ravel() for part in found])


def missing_from(figure, shown, name):
    """Return the numbers of a figure's csv that are not drawn."""
    if {"relative", "panel"} <= set(shown):  # a time is drawn over the dense model's
        shown = shown.assign(drawn=shown["relative"].where(shown["panel"] != "metric", shown["value"]))
    wanted = shown.reindex(columns=list(MARKS[name])).to_numpy(dtype=float)
    wanted = np.unique(SCALED.get(name, 1) * wanted[np.isfinite(wanted)])
    assert len(wanted) > 1
    drawn = drawn_numbers(figure)
    return [value for value in wanted if not np.isclose(drawn, value, atol=0.006).any()]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_draws_every_number_of_its_csv(study, tmp_path, name):
    ablated = [
        (results.settings(method=NEUROPRUNE | {"fold": fold}, label=f"fold_{fold}"), {}) for fold in (True, False)
    ]
    large = [(results.settings(method=method), {"parameters": 738_000_000}) for method in (NEUROPRUNE, L1)]
    longer = [
        (results.settings(method=method, training={"epochs": epochs}, label=f"{method['name']}-{epochs}"), {})
        for method in (NEUROPRUNE, L1, {"name": "dense"})
        for epochs in (2, 4)
    ]
    own = {"ablations": ablated, "figure11": large, "training_time": longer}
    folder = write(tmp_path, *own[name]) if name in own else study
    figure, shown = getattr(import_module(f"neuroprune.results.figures.{name}"), name)(folder)
    assert missing_from(figure, shown, name) == []
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.collections, *axes.patches, *axes.images):
            artist.remove()
    assert missing_from(figure, shown, name)


def test_unknown_figures_are_refused_with_the_nearest_name(study):
    with pytest.raises(UserError, match=r"figure 'figure44': unknown \(did you mean 'figure4'\?\)"):
        figures.draw("figure44", study)


# ---- figure 4


def test_figure4_shows_means_and_spreads(study):
    _, shown = figure4(study)
    assert len(shown) == 2 * (2 * 3 + 2) * 3  # tasks, methods and points and penalties, panels
    one = shown[
        (shown["task"] == "verse_pairs") & (shown["method"] == "neuroprune") & (shown["sparsity_percent"].round() == 80)
    ]
    found = one.set_index("panel")[["unit", "value", "low", "high", "dense"]].to_dict("index")
    value = 100 * (0.82 - 0.05 * 0.64)
    wanted = {
        "metric": ("accuracy (%)", value, value - 1, value + 1, 82.0),
        "inference": ("inference (ms an example), batch 32", 2.4, 2.4, 2.4, 6.0),
        "training": ("training (s), without evaluation", 18.0, 17.0, 19.0, 34.0),
    }
    for panel, (unit, *numbers) in wanted.items():
        assert found[panel]["unit"] == unit
        assert list(found[panel].values())[1:] == pytest.approx(numbers)
    relative = one.set_index("panel").loc[["inference", "training"], ["relative_low", "relative", "relative_high"]]
    assert relative.to_numpy().tolist() == pytest.approx(np.array([[0.4] * 3, [17 / 34, 18 / 34, 19 / 34]]))


def keys(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def titles(figure):
    return [part.get_suptitle() for part in figure.subfigs]


def test_figure4_draws_both_neuroprunes_under_their_names(study):
    figure, shown = figure4(study)
    assert set(zip(shown["method"], shown["form"], strict=True)) == {
        ("neuroprune", "target"), ("neuroprune", "penalty"), ("l1", "target")
    }  # fmt: skip
    assert set(keys(figure)) == {"NeuroPrune (penalties)", "NeuroPrune-FC", "magnitude", "dense"}


def test_figure4_names_weights_rows_mode_strengths_and_seeds(study, tmp_path):
    figure, _ = figure4(study)
    assert titles(figure) == [
        f"minilm (pretrained) on {t}, 1,000 training rows" for t in ("movie_snippets", "verse_pairs")
    ]
    note = figure.get_supxlabel().replace("\xa0", " ").replace("\n", " ")
    assert "NeuroPrune (penalties): decoupled, α 0.0001 to 0.001, β 0.0001 to 0.001, θ 0.2 to 0.25" in note
    assert "bars: ± 1 sd over seeds (n = 1 to 3)" in note
    run = results.settings(method={"name": "neuroprune", "sparsity": 0.5}, source="random:bert")
    assert titles(figure4(write(tmp_path, (run, {})))[0])[0].startswith("minilm (random-initialised)")


def test_figure4_crosses_out_runs_with_an_empty_layer(tmp_path):
    penalties = [results.settings(method={"name": "neuroprune", "alpha": alpha}, label=f"a{alpha}") for alpha in (1, 9)]
    folder = write(tmp_path, *((run, {"sparsity": run.method.alpha / 10}) for run in penalties))
    assert "an empty layer" not in keys(figure4(folder)[0])
    path = tmp_path / "runs" / penalties[1].run / "run.json"
    record = json.loads(path.read_text())
    record["result"]["sparsity"]["neurons_per_layer"][0] = 0
    path.write_text(json.dumps(record))
    collect(folder)
    figure, shown = figure4(folder)
    assert "an empty layer" in keys(figure) and list(shown["empty_layers"]) == [0, 0, 0, 1, 1, 1]
    crosses = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_label() == "an empty layer"]
    assert crosses == [[[90.0, pytest.approx(80.95)]]]


def test_figure4_gives_marks_at_one_sparsity_a_line_for_each_task_and_leaves_single_marks_to_the_table(tmp_path):
    runs = [results.settings(task, method) for task in ("movie_snippets", "verse_pairs") for method in (NEUROPRUNE, L1)]
    runs.append(results.settings("alone", NEUROPRUNE))
    figure, shown = figure4(write(tmp_path, *((run, {}) for run in runs)))
    assert titles(figure) == ["minilm (pretrained), sparsity (%): 80"]
    lines = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert lines == ["movie_snippets\n1,000 training rows", "verse_pairs\n1,000 training rows"]
    assert "single runs, see the summary table: minilm on alone" in figure.get_supxlabel()
    assert "alone" in set(shown["task"])


def test_figures_say_that_times_are_rough_if_the_dense_models_differ(tmp_path):
    runs = [results.settings(method={"name": "neuroprune", "sparsity": s}) for s in (0.5, 0.8)]
    folder = write(tmp_path, *((run, {}) for run in runs))
    assert "inference times are rough" not in figure4(folder)[0].get_supxlabel()
    path = folder / "runs" / runs[0].run / "timing.json"
    timing = json.loads(path.read_text())
    timing["batches"][1]["dense_ms_per_example"] = {"q1": 8.0, "median": 8.0, "q3": 8.0}
    path.write_text(json.dumps(timing))
    collect(folder)
    note = figure4(folder)[0].get_supxlabel().replace("\n", " ")
    assert "inference times are rough: one dense model took 4.0 to 8.0 ms an example in different timings" in note


ROUGH = "training times are rough: some include waiting for other jobs"
LEFT_OUT = "training times of runs without processor time are left out"


@pytest.mark.parametrize(
    ("seconds", "notes"), [([3.0, 4.0], []), ([3.0, None], [LEFT_OUT]), ([None, None], [ROUGH])], ids=str
)
def test_figures_say_which_training_times_are_no_processor_times(tmp_path, seconds, notes):
    runs = [results.settings(method={"name": "neuroprune", "sparsity": s}) for s in (0.5, 0.8)]
    table = read_runs(write(tmp_path, *((run, {}) for run in runs))).assign(train_cpu_seconds=seconds)
    assert rough_times(table) == notes


def test_figure4_uses_quartiles_of_passes_for_one_seed(tmp_path):
    write(tmp_path, (results.settings(method={"name": "neuroprune", "sparsity": 0.8}), {}))
    shown = figure4(tmp_path)[1].set_index("panel")
    assert list(shown.loc["inference", ["low", "value", "high"]]) == pytest.approx([1.52, 1.6, 1.68])
    assert shown.loc[["metric", "training"], ["low", "high"]].isna().all(axis=None)


def test_figure4_leaves_variants_and_diverged_runs_out(tmp_path):
    method = {"name": "neuroprune", "sparsity": 0.8}
    figure, shown = figure4(
        write(
            tmp_path,
            (results.settings(method=method), {}),
            (results.settings(method=method | {"fold": False}, label="neuroprune-80-fold_false"), {}),
            (results.settings(method={"name": "l1", "sparsity": 0.8}), {"status": "diverged", "with_timing": False}),
        )
    )
    assert set(shown["method"]) == {"neuroprune"}
    assert len(shown) == 3
    assert "1 diverged run left out" in figure.get_supxlabel()


def test_figure4_points_at_the_most_frequent_class_where_a_method_falls_to_it(tmp_path):
    low = results.settings(method={"name": "l1", "sparsity": 0.9})
    high = results.settings(method={"name": "l1", "sparsity": 0.5})
    figure, _ = figure4(write(tmp_path, (low, {"value": 0.51}), (high, {})))
    assert "most frequent class" in keys(figure)


def test_figure4_points_at_what_copying_reaches(tmp_path):
    runs = [results.settings(task="docstrings", method={"name": "l1", "sparsity": s}) for s in (0.5, 0.9)]
    copies = {"guesses": {"majority": None, "copied": 0.28}}
    figure, shown = figure4(write(tmp_path, (runs[0], copies | {"value": 0.3}), (runs[1], copies | {"value": 0.2})))
    legend = {handle.get_label(): handle for handle in figure.legends[0].legend_handles}
    assert "most frequent class" not in legend
    assert legend["source's own words"].get_markerfacecolor() == "white"
    (mark,) = (line for line in figure.axes[0].get_lines() if line.get_label() == "source's own words")
    assert list(mark.get_ydata()) == pytest.approx([28.0])
    assert list(shown[shown["panel"] == "metric"]["copied"]) == pytest.approx([28.0, 28.0])


# ---- figure 1


def test_figure1_shows_the_runs_nearest_to_half_and_nine_tenths(study):
    figure, shown = figure1(study)
    assert list(shown["run"].unique()) == [f"minilm-movie_snippets-neuroprune-a{a}-s0" for a in ("0.0001", "0.001")]
    assert list(shown["sparsity_percent"].unique()) == pytest.approx([51.2, 91.2])
    assert list(shown["matrix"].unique()) == ["Q", "K", "V", "L_in", "L_out"]
    assert figure.axes[0].get_ylabel() == "sparsity 51.2 %"


def test_figure1_cells_are_the_shares_of_entries(study):
    _, shown = figure1(study)
    patterns = results.arrays(0.912, 0)["patterns"]
    present = np.unpackbits(patterns["q.1"], axis=1, count=results.WIDTH)
    cells = shown[(shown["matrix"] == "Q") & (shown["sparsity_percent"] > 90)].filter(regex=r"^c\d+$").dropna(axis=1)
    np.testing.assert_array_equal(cells.to_numpy(), 100 * present)


@pytest.mark.parametrize("shape", [(3, 5), (10, 7), (128, 300)])
def test_shrinking_counts_every_entry_once(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    cells = shrink(mask, cells=7)
    assert cells.shape == (min(shape[0], 7), min(shape[1], 7))
    assert 0 <= cells.min() <= cells.max() <= 1
    edges = [np.append(np.linspace(0, size, min(size, 7), endpoint=False).astype(int), size) for size in shape]
    assert (cells * np.outer(*map(np.diff, edges))).sum() == pytest.approx(mask.sum())


def test_whole_rows_that_vanish_are_seen():
    mask = np.ones((8, 8), bool)
    mask[2:4] = False
    np.testing.assert_array_equal(shrink(mask, cells=4)[:, 0], [1, 0, 1, 1])


# ---- figure 2


def test_figure2_shows_all_neurons_and_the_spread(study):
    _, shown = figure2(study)
    bins = shown[shown["panel"] == "distribution"]
    assert bins.groupby("run")["neurons_percent"].sum().tolist() == pytest.approx([100] * 3)
    dense = bins[bins["sparsity_percent"] == 0]
    assert dense.loc[dense["degree_to"] == 1, "neurons_percent"].item() == 100
    points = shown[(shown["panel"] == "spread") & (shown["task"] == "verse_pairs")]
    assert list(points["sparsity_percent"]) == pytest.approx([0, 51.2, 91.2])
    assert list(points["spread_percent"]) == pytest.approx([0.1 + 40 * s * (1 - s) for s in (0, 0.512, 0.912)])
    assert list(points["seeds"]) == [3, 1, 1]


def test_figure2_does_without_arrays(tmp_path):
    run = results.settings(method={"name": "neuroprune", "sparsity": 0.5})
    figure, shown = figure2(write(tmp_path, (run, {"with_arrays": False})))
    assert set(shown["panel"]) == {"spread"}
    assert "no degrees were recorded" in [text.get_text() for text in figure.axes[0].texts]


def test_figure2_shows_at_most_seven_sparsities(tmp_path):
    points = np.linspace(0.1, 0.9, 9).round(2)
    runs = [results.settings(method={"name": "neuroprune", "sparsity": float(point)}) for point in points]
    _, shown = figure2(write(tmp_path, *((run, {}) for run in runs)))
    strips = shown.loc[shown["panel"] == "distribution", "sparsity_percent"].unique()
    assert len(strips) == 7
    assert (strips.min(), strips.max()) == pytest.approx((10, 90))


# ---- odd results

NEUROPRUNE, L1 = {"name": "neuroprune", "sparsity": 0.8}, {"name": "l1", "sparsity": 0.8}
ODD = {
    "dense alone": [({"name": "dense"}, {})],
    "l1 alone": [(L1, {})],
    "NeuroPrune alone": [(NEUROPRUNE, {})],
    "all diverged": [(NEUROPRUNE, {"status": "diverged"}), ({"name": "dense"}, {"status": "diverged"})],
    "stopped": [(NEUROPRUNE, {"status": "stopped"})],
    "no value": [(NEUROPRUNE, {"value": float("nan")})],
    "nothing timed": [(NEUROPRUNE, {"with_timing": False}), (L1, {"with_timing": False})],
    "no arrays": [(NEUROPRUNE, {"with_arrays": False})],
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("name", figures.FIGURES)
def test_odd_results_give_a_figure_that_says_something(tmp_path, name, case):
    write(tmp_path, *((results.settings(method=method), changes) for method, changes in ODD[case]))
    figure, shown = getattr(import_module(f"neuroprune.results.figures.{name}"), name)(tmp_path)
    assert len(shown)
    if "note" in shown:
        assert figure.texts[0].get_text() == shown["note"].item()
        assert shown["note"].item().startswith("Nothing to show: no ")
    else:
        with print_style():
            figure.draw_without_rendering()


def test_a_damaged_array_is_an_error(tmp_path):
    run = results.settings(method=NEUROPRUNE)
    write(tmp_path, (run, {}))
    (tmp_path / "runs" / run.run / "patterns.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"patterns.safetensors: cannot be read"):
        figures.draw("figure1", tmp_path)


def test_without_a_table_there_is_an_error(tmp_path):
    for name in figures.FIGURES:
        with pytest.raises(UserError, match="neuroprune collect"):
            figures.draw(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_lines_of_several_models_name_their_models():
    ticks = {}
    for models in (("bert", "bert"), ("bert", "opt")):
        rows = [
            {
                "model": model,
                "task": f"task{place}",
                "heading": f"{model} (pretrained) on task{place}, 9 training rows",
                "method": method,
                "form": "target",
                "panel": "metric",
                "unit": "accuracy",
                "sparsity_percent": 80.0,
                "value": 70.0 + place,
                "low": 69.0,
                "high": 72.0,
                "seeds": 1,
                "dense": 75.0,
                "empty_layers": 0,
                "heads_left": 4,
                "relative": math.nan,
                "majority": math.nan,
                "copied": math.nan,
            }
            for place, model in enumerate(models)
            for method in ("neuroprune", "taylor")
        ]
        figure = grid.plot(pd.DataFrame(rows), "")
        titles = {text.get_text() for part in figure.subfigs for text in [part._suptitle] if text}
        ticks[models] = [tick.get_text() for tick in figure.axes[0].get_yticklabels()], titles
    assert ticks["bert", "bert"] == (
        ["task0\n9 training rows", "task1\n9 training rows"],
        {"bert (pretrained), sparsity (%): 80"},
    )
    assert ticks["bert", "opt"] == (
        ["bert on\ntask0\n9 training rows", "opt on\ntask1\n9 training rows"],
        {"pretrained models, sparsity (%): 80"},
    )
