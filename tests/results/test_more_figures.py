"""Golden values of all figures except 1, 2 and 4, and reference pictures of a few of them.

`python tests/results/test_more_figures.py` redraws the reference pictures; look at them before committing.
"""

import io
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.image import imread

from helpers import results
from neuroprune.errors import UserError
from neuroprune.pruning import heads
from neuroprune.pruning.dominating_sets import find_dominating, minimum_dominating_set
from neuroprune.results.collect import collect
from neuroprune.results.figures.ablations import ablations
from neuroprune.results.figures.cells import cells_figure
from neuroprune.results.figures.dominating_sets import dominating_sets
from neuroprune.results.figures.figure1 import figure1
from neuroprune.results.figures.figure2 import figure2
from neuroprune.results.figures.figure3 import figure3
from neuroprune.results.figures.figure4 import figure4
from neuroprune.results.figures.figure5 import figure5
from neuroprune.results.figures.figure6 import figure6
from neuroprune.results.figures.figure7 import figure7, relative_importance
from neuroprune.results.figures.figure11 import figure11
from neuroprune.results.figures.forms import forms
from neuroprune.results.figures.frontier import efficient, frontier, frontier_data
from neuroprune.results.figures.heavy_tail import gini, tail
from neuroprune.results.figures.strengths import strengths
from neuroprune.results.figures.style import print_style
from neuroprune.results.figures.topology import topology
from neuroprune.results.runs import read_runs
from neuroprune.results.tables import write
from neuroprune.results.tables.nearest import nearest_to_wanted
from neuroprune.results.tables.summary import summarize
from neuroprune.results.tables.table1 import table1

IMAGES = Path(__file__).with_name("images")
PINS = Path(__file__).parents[2].joinpath("requirements.lock").read_text().splitlines()
PICTURED = {"frontier": frontier, "figure3": figure3, "figure7": figure7}


def make_study(folder):
    results.write_study(folder)
    collect(folder)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("results") / "demo")


def written(folder, *runs):
    """Write runs given as (settings, changes) and collect them."""
    for settings, changes in runs:
        results.write_run(folder, settings, **changes)
    collect(folder)
    return folder


# ---- pictures


def picture(draw, folder):
    with print_style():
        file = io.BytesIO()
        draw(folder)[0].savefig(file, format="png", dpi=70)
    file.seek(0)
    return file


@pytest.mark.skipif(f"matplotlib=={version('matplotlib')}" not in PINS, reason="texts have other widths elsewhere")
@pytest.mark.parametrize("name", PICTURED)
def test_a_figure_looks_as_it_did(study, name):
    now, stored = imread(picture(PICTURED[name], study)), imread(IMAGES / f"{name}.png")
    assert now.shape == stored.shape
    assert np.sqrt(np.mean((now - stored) ** 2)) < 0.05  # an anti-aliased edge may differ, a mark may not


# ---- the picture that decides


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_a_point_is_efficient_if_no_other_is_as_good_in_both_and_better_in_one(points):
    found = efficient(*zip(*points, strict=True))
    for (cost, gain), on in zip(points, found, strict=True):
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert on == (not beaten)


def test_points_that_are_not_known_are_not_efficient():
    assert efficient([1, math.nan, 2], [1, 9, math.nan]).tolist() == [True, False, False]


def test_the_frontier_goes_through_ours_and_dense(study):
    shown = frontier(study)[1]
    one = shown[(shown["task"] == "movie_snippets") & (shown["panel"] == "inference")]
    best = one[one["efficient"] & (one["form"] != "penalty")].sort_values("time")
    assert list(best["method"]) == ["neuroprune"] * 3 + ["dense"]
    assert list(best["time"]) == pytest.approx([4 * (1 - 0.75 * s) for s in (0.9, 0.8, 0.5, 0)])
    assert list(best["value"]) == pytest.approx([100 * (0.86 - 0.05 * s**2) for s in (0.9, 0.8, 0.5, 0)])


# ---- heads


def test_figure3_counts_in_how_many_layers_each_head_is_gone(tmp_path):
    method = {"name": "neuroprune", "sparsity": 0.5}  # two of four heads gone, s and s + 1 in seed s
    runs = [(results.settings(method=method, seed=seed), {}) for seed in range(3)]
    shown = figure3(written(tmp_path, *runs))[1]
    every = shown[shown["panel"] == "movie_snippets, all layers"]
    assert list(every["removed_percent"]) == pytest.approx([100 / 3, 200 / 3, 200 / 3, 100 / 3])
    assert list(every["sd"]) == pytest.approx([100 / math.sqrt(3)] * 4)
    assert set(every["count"]) == {3}


def test_figure5_shows_heads_and_says_that_no_run_asked_for_a_number(study):
    figure, shown = figure5(study)
    assert "no run has a target number of heads" in figure.get_supxlabel().replace("\n", " ")
    metric = shown[(shown["task"] == "verse_pairs") & (shown["panel"] == "metric") & (shown["form"] == "target")]
    assert dict(zip(metric["sparsity_percent"].round(), metric["heads_left"], strict=True)) == {50: 6, 80: 3, 90: 3}


def test_figure6_joins_what_is_efficient_at_a_similar_metric(study):
    shown = figure6(study)[1]
    points = shown[shown["panel"] == "frontier"]
    assert points["value"].min() >= 95 * 0.86
    best = points[points["efficient"] == True]  # noqa: E712
    assert list(zip(best["heads_left"], best["sparsity_percent"].round(1), strict=True)) == [(3, 90.0)]


def test_figure7_compares_removed_heads_with_those_that_stay(study):
    assert relative_importance([[0, 1], []], [np.array([1.0, 2, 3, 4]), np.ones(4)]) == pytest.approx(1.5 / 3.5)
    assert math.isnan(relative_importance([[0, 1]], [np.ones(2)]))
    shown = figure7(study)[1]
    seed0 = shown[shown["run"] == "minilm-movie_snippets-neuroprune-50-s0"]
    assert seed0["relative_importance"].item() == pytest.approx(1.5 / 3.5)
    layers = shown[(shown["panel"] == "layers") & (shown["form"] == "target")]
    assert list(layers["removed"]) == pytest.approx([(2 + 3 + 3) / 3] * 3)


def test_positions_of_removed_heads_that_the_dense_model_lacks(tmp_path):
    study, run = tmp_path / "odd", results.settings(method={"name": "neuroprune", "sparsity": 0.5})
    results.write_run(study, results.settings())
    place = results.write_run(study, run)
    results.edit(place / "run.json", lambda record: record["result"]["method"].update(removed_heads=[[6], [0], []]))
    collect(study)
    assert figure3(study)[1]["head"].max() == 6
    with pytest.raises(
        UserError, match=rf"{run.run}: the dense model, whose layers have \[4, 4, 4\] heads, has no heads"
    ):
        figure7(study)


# ---- topology


def test_gini_by_hand():
    assert gini(np.ones(7)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 1])) == pytest.approx(0.75)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)
    assert math.isnan(gini(np.zeros(3)))


def test_a_power_law_is_told_from_an_exponential():
    draw = np.random.default_rng(0)
    values = (1 - draw.random(3000)) ** (-1 / 1.5)
    found = tail(values)
    assert found["tail_share"] == pytest.approx(np.mean(values >= found["xmin"]))
    assert found["exponent"] == pytest.approx(2.5, abs=0.2)
    assert found["versus_exponential"] > 2 and found["p_exponential"] < 0.05
    assert tail(draw.exponential(size=3000))["versus_exponential"] < 0
    assert all(math.isnan(value) for value in tail(np.ones(500)).values())


def heads_and_sparsities(folder):
    methods = [None, {"name": "neuroprune", "sparsity": 0.5}, {"name": "neuroprune", "sparsity": 0.9}]
    runs = [(results.settings(method=method), {}) for method in methods]
    asked = [({"name": name, "heads": 4}, gone) for name, gone in (("neuroprune", 0.52), ("dsp", 0.3))]
    runs += [(results.settings(method=m, label=f"{m['name']}-h4"), {"sparsity": gone}) for m, gone in asked]
    return written(folder, *runs)


def test_runs_that_asked_for_heads_are_no_points_among_sparsities(tmp_path):
    folder = heads_and_sparsities(tmp_path)
    spread = figure2(folder)[1].query("panel == 'spread'")
    assert list(spread["sparsity_percent"]) == [0, 50, 90]
    assert set(figure1(folder)[1]["sparsity_percent"]) == {50, 90}
    assert set(cells_figure(folder, ("q",))[1]["sparsity_percent"]) == {0, 50, 90}
    shown = topology(folder)[1]
    assert {m: list(some["sparsity_percent"]) for m, some in shown.groupby("method")} == {
        "dense": [0], "dsp": [30], "neuroprune": [50, 90]
    }  # fmt: skip


def test_variants_are_no_points_among_the_usual_runs(tmp_path):
    usual = {"name": "neuroprune", "sparsity": 0.5}
    runs = [(results.settings(), {}), (results.settings(method=usual), {})]
    runs += [(results.settings(method=usual | {"fold": False}, label="unfolded"), {"sparsity": 0.6})]
    folder = written(tmp_path, *runs)
    assert list(figure2(folder)[1].query("panel == 'spread'")["sparsity_percent"]) == [0, 50]
    assert set(figure1(folder)[1]["sparsity_percent"]) == {50}
    assert set(cells_figure(folder, ("q",))[1]["sparsity_percent"]) == {0, 50}


def test_without_other_runs_those_that_asked_for_heads_are_shown(tmp_path):
    run = results.settings(method={"name": "neuroprune", "heads": 4}, label="neuroprune-h4")
    assert set(figure2(written(tmp_path, (run, {"sparsity": 0.4})))[1]["sparsity_percent"]) == {40}


def test_topology_measures_every_method(study):
    shown = topology(study)[1]
    assert set(shown["method"] + shown["form"]) == {"dense", "neuroprunetarget", "neuroprunepenalty", "l1target"}
    dense = shown[shown["method"] == "dense"].iloc[0]
    assert (dense["gini"], dense["sd_percent"]) == (0, 0)


@pytest.mark.parametrize("kinds", [("q", "k", "v"), ("in",), ("out",)])
def test_cells_show_dense_and_three_sparsities(study, kinds):
    shown = cells_figure(study, kinds)[1]
    assert list(shown["sparsity_percent"].unique()) == pytest.approx([0, 51.2, 91.2])
    assert len(shown.groupby(["matrix", "layer"])) == len(kinds) * results.LAYERS
    assert (shown[shown["sparsity_percent"] == 0].filter(regex=r"^c\d+$").stack() == 100).all()


# ---- dominating sets


@hypothesis_settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(0.1, 0.9))
def test_the_exact_set_dominates_and_is_no_larger(seed, size, share):
    upper = np.triu(np.random.default_rng(seed).random((size, size)) < share)
    similar = upper | upper.T | np.eye(size, dtype=bool)
    exact = minimum_dominating_set(similar)
    assert similar[exact].any(axis=0).all()
    assert len(exact) <= (find_dominating(similar) == np.arange(size)).sum()
    assert heads.find_dominating(torch.from_numpy(similar)).tolist() == find_dominating(similar).tolist()


def test_the_approximation_is_not_always_exact():
    ring = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    similar = (ring <= 1) | (ring == 5)  # six heads in a ring: two dominate all, none contains its neighbour
    assert len(minimum_dominating_set(similar)) == 2
    assert find_dominating(similar).tolist() == list(range(6))


def test_dominating_sets_shows_every_graph(study):
    shown = dominating_sets(study)[1]
    assert len(shown) == shown["run"].nunique() * results.LAYERS * 12
    assert (shown["exact"] <= shown["approximate"]).all() and shown["exact"].min() == 1


# ---- ablations


def test_ablations_join_runs_that_differ_in_one_setting(tmp_path):
    base = {"name": "neuroprune", "sparsity": 0.8}
    other = results.settings(method=base | {"fold": False}, label="neuroprune-80-fold_false")
    both = results.settings(
        method=base | {"fold": False, "token_weights": False}, label="neuroprune-80-fold_false-token_weights_false"
    )
    folder = written(tmp_path, (results.settings(method=base), {}), (other, {"value": 0.7}), (both, {"value": 0.6}))
    shown = ablations(folder)[1]
    metric = shown[shown["panel"] == "value"].set_index(["setting", "choice"])["value"]
    assert set(metric.index) == {
        ("fold", "auto"), ("fold", "False"), ("token_weights", "True"), ("token_weights", "False")
    }  # fmt: skip
    assert metric["fold", "False"] == 70
    assert metric["token_weights", "False"] == 60


def test_ablations_leave_out_earlier_versions(tmp_path):
    runs = [
        (
            results.settings(
                method={"name": "neuroprune", "sparsity": 0.8, "version": version, "fold": fold},
                label=f"neuroprune-{version}-{fold}",
            ),
            {},
        )
        for version in (2, 3)
        for fold in (True, False)
    ]
    shown = ablations(written(tmp_path, *runs))[1]
    assert sorted(shown.loc[shown["panel"] == "value", "choice"]) == ["False", "True"]


def test_ablations_join_no_runs_that_differ_in_more(tmp_path):
    base = {"name": "neuroprune", "sparsity": 0.8}
    one = results.settings(method=base)
    no_fold = results.settings(method=base | {"fold": False, "events": 1}, label="neuroprune-80-fold_false-events_1")
    longer = one.model_copy(
        update={"run": "minilm-movie_snippets-neuroprune-80-fold_false-epochs_9-s0"}
        | {"method": no_fold.method.model_copy(update={"events": one.method.events})}
        | {"training": one.training.model_copy(update={"epochs": 9.0})}
    )
    assert "note" in ablations(written(tmp_path, (one, {}), (no_fold, {}), (longer, {})))[1]


def test_strengths_and_forms_show_the_penalty_form(study):
    shown = strengths(study)[1]
    sparsity = shown[(shown["panel"] == "sparsity") & (shown["task"] == "verse_pairs")]
    assert dict(zip(sparsity["alpha"], sparsity["value"], strict=True)) == pytest.approx({1e-4: 51.2, 1e-3: 91.2})
    assert set(forms(study)[1]["form"]) == {"target", "penalty"}


@pytest.mark.parametrize(
    ("models", "tasks", "title", "label"),
    [
        (1, 1, "m0 (pretrained) on t0, 1,000 training rows: NeuroPrune (penalties)", "decoupled, β/α 1, θ 0.2"),
        (2, 1, "m0 (pretrained) and m1 (pretrained) on t0: NeuroPrune (penalties)", "m1, decoupled, β/α 1, θ 0.2"),
        (1, 2, "m0 (pretrained) on t0 and t1: NeuroPrune (penalties)", "t1, decoupled, β/α 1, θ 0.2"),
        (3, 4, "m0 (pretrained), m1 (pretrained) and m2 (pretrained) on t0, t1, t2 and t3: NeuroPrune (penalties)",
         "m2, t3, decoupled, β/α 1, θ 0.2"),
    ],
)  # fmt: skip
def test_strengths_of_several_models_and_tasks_have_lines_of_their_own(models, tasks, title, label, tmp_path):
    line = {a: {"name": "neuroprune", "alpha": a, "beta": a, "theta": 0.2, "mode": "decoupled"} for a in (1e-4, 1e-3)}
    runs = [
        (results.settings(f"t{task}", method, model=f"m{model}", label=f"neuroprune-a{a}"), {"sparsity": 0.5})
        for model in range(models) for task in range(tasks) for a, method in line.items()
    ]  # fmt: skip
    figure, shown = strengths(written(tmp_path, *runs))
    (part,), (legend,) = figure.subfigs, figure.legends
    keys = [(key.get_label(), key.get_color(), key.get_marker()) for key in legend.legend_handles]
    assert part.get_suptitle().replace("\n", " ") == title and keys[-1][0] == label
    assert len(keys) == shown["series"].nunique() == models * tasks == len({key[1:] for key in keys})
    assert all(len(axes.containers) == models * tasks for axes in part.axes)


# ---- the paper's values, large models, grids


def test_published_values_stand_beside_ours_only_in_the_papers_study(study, tmp_path):
    bert = [results.settings("sst2", m, model="bert_base") for m in (None, {"name": "neuroprune", "sparsity": 0.5})]
    shown = figure2(written(tmp_path, *((run, {}) for run in bert)))[1]
    theirs = shown[shown["source"] == "paper"]
    assert dict(zip(theirs["sparsity_percent"], theirs["spread_percent"], strict=True)) == {
        0: 0.13,
        50: 12.12,
        90: 4.16,
    }
    assert "paper" not in set(figure2(study)[1]["source"].dropna())


def test_table1_has_rouge_and_the_papers_rows(tmp_path):
    rouge = {"rouge1": 0.4, "rouge2": 0.2, "rougeL": 0.3}
    field = {"kind": "summarization", "metric": "rougeLsum"}
    methods = [None, {"name": "neuroprune", "sparsity": 0.5}]
    runs = [(results.settings("cnn_dailymail", m, model="t5_base", **field), {"metrics": rouge}) for m in methods]
    table = table1(written(tmp_path, *runs))
    ours, theirs = (table.numbers[table.numbers["source"] == source] for source in ("ours", "paper"))
    assert len(theirs) == 13 and len(ours) == 2
    assert list(ours[["rouge1", "rouge2", "rougeL"]].iloc[1]) == pytest.approx([40, 20, 30])
    assert (theirs["inference_ms"].max(), theirs["inference_ms"].min()) == pytest.approx((455, 406))
    assert list(ours["batch_size"]) == [32, 32]
    assert list(ours["inference_ms"]) == pytest.approx([4.0, 2.5])
    text = write("table1", tmp_path)[1].read_text()
    assert "NeuroPrune (penalties), the paper's value" in text and "ROUGE-Lsum" in text and "41.96" in text


def test_table1_of_another_study_has_its_own_metric(study):
    numbers = table1(study).numbers
    assert "accuracy" in numbers and set(numbers["source"]) == {"ours"}


def test_large_models_are_in_figure11(tmp_path):
    large, small = (
        results.settings(method={"name": "neuroprune", "sparsity": 0.5}, model=name) for name in ("t5_large", "minilm")
    )
    folder = written(tmp_path, (large, {"parameters": 738_000_000}), (small, {}))
    assert set(figure11(folder)[1]["model"]) == {"t5_large"}


def test_without_large_models_there_is_no_figure11(study):
    (note,) = figure11(study)[1]["note"]
    assert note == "Nothing to show: no pruned run of a model of more than 300 M parameters is finished."


def test_the_frontier_is_of_the_tasks_on_which_methods_are_compared(tmp_path):
    methods = [{"name": name, "sparsity": 0.5} for name in ("neuroprune", "l1")]
    runs = [results.settings("movie_snippets", method) for method in methods]
    runs += [results.settings("verse_pairs", methods[0])]
    figure, shown = frontier(written(tmp_path / "both", *((run, {}) for run in runs)))
    assert set(shown["task"]) == {"movie_snippets"} and "Figure 4" in figure.get_supxlabel()
    figure, shown = frontier(written(tmp_path / "alone", (runs[2], {})))
    assert set(shown["task"]) == {"verse_pairs"} and "Figure 4" not in figure.get_supxlabel()


def test_the_frontier_has_the_usual_dense_run_alone(tmp_path):
    dense = results.settings("movie_snippets")
    slow = results.settings("movie_snippets", label="dense-slow", training={"learning_rate": 1e-5})
    pruned = results.settings("movie_snippets", {"name": "neuroprune", "sparsity": 0.5})
    shown = frontier(written(tmp_path, (dense, {"value": 0.8}), (slow, {"value": 0.9}), (pruned, {"value": 0.7})))[1]
    assert set(shown[shown["method"] == "dense"]["value"]) == {80}


def test_runs_at_the_cost_of_dense_are_ringed_in_the_frontier_alone(tmp_path):
    usual = results.settings("movie_snippets", {"name": "neuroprune", "sparsity": 0.5})
    longer = usual.model_copy(
        update={"run": "longer-s0", "training": usual.training.model_copy(update={"budget": "dense_flops"})}
    )
    other = results.settings("movie_snippets", {"name": "l1", "sparsity": 0.5})
    folder = written(tmp_path, (usual, {"value": 0.8}), (longer, {"value": 0.9}), (other, {"value": 0.7}))
    figure, shown = frontier(folder)
    metric = shown[shown["panel"] == "training"]
    assert metric[metric["same_cost"]]["value"].tolist() == [90]
    assert sorted(metric[~metric["same_cost"]]["value"]) == [70, 80]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "at dense cost" in labels
    rings = [line for line in figure.axes[1].lines if line.get_label() == "at dense cost"]
    assert [line.get_ydata().tolist() for line in rings] == [[90]]
    assert 90 not in figure4(folder)[1].query("panel == 'metric'")["value"].tolist()


def test_of_many_models_and_tasks_the_frontier_draws_some_of_each_model_and_says_how_many_more(tmp_path):
    tasks = [f"task{number}" for number in range(6)]
    methods = [{"name": name, "sparsity": 0.5} for name in ("neuroprune", "l1")]
    runs = [results.settings(task, m, model=model) for model in ("one", "two") for task in tasks for m in methods]
    for run in runs:
        results.write_run(tmp_path, run, with_arrays=False)
    collect(tmp_path)
    figure, shown = frontier(tmp_path)
    assert len(shown.groupby(["model", "task"])) == 12
    assert "of 12 pairs of model and task 8 are drawn, 4 more are in the csv" in figure.get_supxlabel().replace(
        "\n", " "
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    wanted = [f"{m} (pretrained) on task{n}, 1,000 training rows" for m in ("one", "two") for n in range(4)]
    assert [title for title in titles if title] == wanted


def test_the_frontier_leaves_out_wall_times_beside_processor_times(tmp_path):
    methods = ({"name": "dense"}, {"name": "l1", "sparsity": 0.5}, {"name": "neuroprune", "sparsity": 0.8})
    runs = read_runs(written(tmp_path, *((results.settings(method=method), {}) for method in methods)))
    seconds = {"dense": 10.0, "l1": math.nan, "neuroprune": 6.0}
    shown = frontier_data(summarize(runs.assign(train_cpu_seconds=runs["method"].map(seconds))))
    drawn = shown.groupby("panel")["method"].agg(set)
    assert drawn["training"] == {"dense", "neuroprune"} and drawn["inference"] == {*seconds}
    times = shown[shown["panel"] == "training"].set_index("method")["relative"]
    assert times.to_dict() == {"dense": 1.0, "neuroprune": 0.6}
    assert set(frontier_data(summarize(runs.assign(train_cpu_seconds=math.nan)))["panel"]) == {"inference", "training"}


def test_no_figure_has_wall_and_processor_times_on_one_axis(tmp_path):
    methods = ({"name": "dense"}, *({"name": name, "sparsity": s} for name in ("l1", "neuroprune") for s in (0.5, 0.8)))
    without_fold = results.settings(
        method={"name": "neuroprune", "sparsity": 0.8, "fold": False}, label="neuroprune-80-fold_false"
    )
    folder = written(tmp_path, *((results.settings(method=method), {}) for method in methods), (without_fold, {}))
    for path in folder.glob("runs/*neuroprune*/run.json"):
        results.edit(path, lambda data: data["result"].update(train_cpu_seconds=300.0))
    collect(folder)
    for draw in (figure4, frontier, ablations):
        figure, shown = draw(folder)
        times = shown[shown["panel"].isin(["training", "train_time"])]
        assert set(times["time" if draw is frontier else "value"].dropna()) == {300.0}, draw
        assert "training times of runs without processor time are left out" in figure.get_supxlabel().replace("\n", " ")
    times = figure4(folder)[1].set_index("panel").loc["training"]
    assert times[["dense", "relative"]].isna().all(axis=None)


def test_of_a_grid_the_runs_nearest_to_the_papers_sparsities_are_shown(tmp_path):
    reached = [0.1, 0.24, 0.3, 0.52, 0.69, 0.75, 0.81, 0.88, 0.97]
    runs = [
        (results.settings(method={"name": "l1", "strength": 10.0**-k}, label=f"l1-l1e-{k}"), {"sparsity": s})
        for k, s in enumerate(reached, start=1)
    ]
    table = summarize(read_runs(written(tmp_path, *runs)))
    assert sorted(nearest_to_wanted(table)["sparsity"]) == [0.24, 0.52, 0.69, 0.81, 0.88, 0.97]


def test_figure2_and_topology_show_of_a_grid_the_runs_nearest_to_the_papers_sparsities(tmp_path):
    reached = [0.1, 0.24, 0.3, 0.52, 0.69, 0.75, 0.81, 0.88, 0.97]
    grid = [{"name": "neuroprune", "alpha": 10.0**-k, "beta": 1.0, "theta": 0.2} for k in range(1, 10)]
    runs = [
        (results.settings(method=method, label=f"neuroprune-a1e-{k}"), {"sparsity": gone})
        for k, (method, gone) in enumerate(zip(grid, reached, strict=True), start=1)
    ]
    folder = written(tmp_path, (results.settings(), {}), *runs)
    nearest = pytest.approx([0, 24, 52, 69, 81, 88, 97])
    shown = figure2(folder)[1]
    assert list(shown[shown["panel"] == "spread"]["sparsity_percent"]) == nearest
    assert list(shown[shown["panel"] == "distribution"]["sparsity_percent"].unique()) == nearest
    assert sorted(topology(folder)[1]["sparsity_percent"]) == nearest


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = make_study(Path(folder) / "demo")
        for name, draw in PICTURED.items():
            (IMAGES / f"{name}.png").write_bytes(picture(draw, made).getvalue())
