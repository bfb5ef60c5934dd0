"""Tables: rows of runs, means over seeds, and reports of missing or unusual runs."""

import json
import math

import pandas as pd
import pytest

from helpers import results
from neuroprune.errors import UserError
from neuroprune.results import tables
from neuroprune.results.collect import collect
from neuroprune.results.figures import grid
from neuroprune.results.runs import method_label, neuroprune_runs, read_runs
from neuroprune.results.tables import formats
from neuroprune.results.tables.summary import summarize
from neuroprune.results.tables.timing import timing


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "demo"
    results.write_study(folder, with_arrays=False)
    assert collect(folder) == []
    return folder


@pytest.fixture
def empty(tmp_path):
    return tmp_path / "odd"


def write(folder, *runs, timed=None):
    """Write runs given as (settings, changes) and their plan; return what collect says."""
    for settings, changes in runs:
        results.write_run(folder, settings, with_arrays=False, **changes)
    results.write_plan(folder, [settings for settings, _ in runs], timed)
    return collect(folder)


def row(table, **wanted):
    chosen = table
    for name, value in wanted.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


# ---- runs.csv


def test_a_run_is_one_row_of_what_its_record_says(study):
    runs = read_runs(study)
    assert len(runs) == 2 * (3 + 2 * 3 * 3 + 2)
    found = row(runs, run="minilm-movie_snippets-neuroprune-80-s2")
    wanted = {
        "study": "demo", "group": "minilm-movie_snippets-neuroprune-80", "variant": "", "status": "done",
        "dirty": False, "model": "minilm", "model_random": False, "task": "movie_snippets",
        "method": "neuroprune", "form": "target", "point": 0.8, "mode": "", "seed": 2, "metric": "accuracy",
        "majority": 0.52, "sparsity": 0.8, "neurons_gone": 0.8, "heads_gone": 0.75, "heads_left": 3,
        "parameters": 36_000, "dense_parameters": 100_000, "train_seconds": 36.0,
        "train_seconds_without_eval": 34.0, "seconds_per_step": 0.5, "epochs": 3.0, "steps": 100,
        "dense_inference_ms_b1": 8.0, "dense_inference_ms_b32": 4.0, "device": "cpu", "cpu": "Test CPU",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    measured = {"value": 0.86 - 0.05 * 0.64 + 0.01, "inference_ms_b1": 3.2, "inference_ms_b32": 1.6, "speedup_b32": 2.5}
    assert {name: found[name] for name in measured} == pytest.approx(measured)
    assert found[["alpha", "beta", "theta", "strength"]].isna().all()


def test_a_dense_run_has_the_times_that_it_had_beside_the_others(empty):
    dense, other = (results.settings("movie_snippets"), results.settings("verse_pairs"))
    cut = [results.settings("movie_snippets", {"name": "neuroprune", "sparsity": s}) for s in (0.5, 0.8)]
    assert write(empty, *((run, {"with_timing": run in cut}) for run in (dense, other, *cut)), timed=cut) == []
    found = row(read_runs(empty), method="dense", task="movie_snippets")
    assert (found["inference_ms_b1"], found["inference_ms_b1_q1"], found["speedup_b32"]) == (8.0, 7.6, 1.0)
    assert found["dense_inference_ms_b32"] == found["inference_ms_b32"] == 4.0
    assert math.isnan(row(read_runs(empty), task="verse_pairs")["inference_ms_b1"])  # nothing was timed there


@pytest.mark.parametrize("name", ["NA", "None", "nan", "null"])
def test_a_name_that_pandas_takes_for_a_missing_value_is_kept(name, empty):
    write(empty, (results.settings(name, model=name), {}), (results.settings(name, TARGET, model=name), {}))
    found = read_runs(empty)
    assert set(found["model"]) == set(found["task"]) == {name}
    assert found["mode"].eq("").all() and found["alpha"].isna().all() and found["speedup_b32"].notna().all()
    assert f"## {name} on {name} (accuracy" in tables.write("summary", empty)[1].read_text()


def test_the_penalty_form_has_strengths_and_no_point(study):
    found = row(read_runs(study), task="verse_pairs", alpha=1e-3)
    assert (found["form"], found["beta"], found["theta"], found["mode"]) == ("penalty", 1e-3, 0.25, "decoupled")
    assert math.isnan(found["point"])


def test_rows_follow_the_plan_and_what_it_does_not_name_is_left_out(empty):
    first, second, other = (results.settings(seed=seed) for seed in (5, 3, 7))
    results.write_run(empty, other, with_arrays=False)
    notes = write(empty, (first, {}), (second, {}))
    assert list(read_runs(empty)["seed"]) == [5, 3]
    assert notes == [f"1 run is not in the plan and left out: {other.run}."]


def test_without_a_plan_all_records_are_read(empty):
    write(empty, (results.settings(seed=1), {}), (results.settings(seed=0), {}))
    (empty / "plan.json").unlink()
    assert collect(empty) == []
    assert list(read_runs(empty)["seed"]) == [0, 1]


def test_what_a_reader_must_know_is_said(empty):
    runs = [results.settings(seed=seed) for seed in range(6)]
    missing, stopped, diverged, untimed, damaged, dirty = runs
    write(
        empty,
        (missing, {}),
        (stopped, {"status": "stopped", "with_timing": False}),
        (diverged, {"status": "diverged", "with_timing": False}),
        (untimed, {"with_timing": False}),
        (damaged, {}),
        (dirty, {"dirty": True}),
    )
    (empty / "runs" / missing.run / "run.json").unlink()
    (empty / "runs" / damaged.run / "run.json").write_text("{")
    notes = collect(empty)
    assert notes[:5] == [
        f"2 of 6 runs without a readable record: {missing.run}, {damaged.run}.",
        f"1 of 6 runs stopped before the end: {stopped.run}.",
        f"1 of 6 runs diverged, without a metric: {diverged.run}.",
        f"1 of 6 runs not timed: {untimed.run}.",
        f"1 of 6 runs made by code with uncommitted changes: {dirty.run}.",
    ]
    assert f"{damaged.run}/run.json: not a JSON file" in notes[5]
    assert list(read_runs(empty)["run"]) == [stopped.run, diverged.run, untimed.run, dirty.run]
    assert json.loads((empty / "provenance.json").read_text())["notes"] == notes


def test_a_record_of_other_settings_than_the_plan_is_said(empty):
    run = results.settings()
    results.write_run(empty, run, with_arrays=False)
    results.write_plan(empty, [run.model_copy(update={"training": run.training.model_copy(update={"epochs": 9.0})})])
    assert collect(empty) == [f"1 of 1 runs made with other settings than the plan's: {run.run}."]


def test_seeds_of_other_settings_are_not_averaged_whatever_their_name(empty):
    runs = [results.settings(seed=seed, training={"epochs": 9.0 if seed == 1 else 3.0}) for seed in range(3)]
    assert write(empty, *((run, {}) for run in runs)) == []
    table = summarize(read_runs(empty))
    assert dict(zip(table["variant"], table["runs"], strict=True)) == {"": 2, "epochs_9": 1}


def test_a_damaged_timing_costs_the_times_alone(empty):
    pruned = results.settings(method={"name": "neuroprune", "sparsity": 0.8})
    write(empty, (pruned, {}))
    (empty / "runs" / pruned.run / "timing.json").write_text("{")
    first, second = collect(empty)
    assert first == f"1 of 1 runs not timed: {pruned.run}."
    assert f"{pruned.run}/timing.json: not a JSON file" in second
    assert read_runs(empty)["value"].notna().all() and "inference_ms_b1" not in read_runs(empty)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"runs": []}', '{"runs": {}, "timed": null}', '{"runs": {}, "settings": []}']
)
def test_a_damaged_plan_is_told_in_a_sentence(empty, content):
    write(empty, (results.settings(), {}))
    (empty / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan\.json: .*; plan the study again or delete it"):
        collect(empty)


def test_times_of_another_machine_than_the_trainings_are_said(empty):
    dense, cut = results.settings(), results.settings(method={"name": "neuroprune", "sparsity": 0.8})
    write(empty, (dense, {"with_timing": False}), (cut, {}), timed=[cut])
    path = empty / "runs" / cut.run / "timing.json"
    timed = json.loads(path.read_text())
    timed["environment"] |= {"device": "Fast GPU", "cpu": "Other CPU"}
    path.write_text(json.dumps(timed))
    assert collect(empty) == [f"1 of 2 runs timed on another machine than they were trained on: {cut.run}."]
    found = read_runs(empty)
    assert set(found["timing_device"]) == {"Fast GPU"} and set(found["device"]) == {"cpu"}
    text = tables.write("summary", empty)[1].read_text()
    assert "Training times were measured on CPU Test CPU; inference times on Fast GPU." in text
    found.drop(columns=["timing_device", "timing_cpu"]).to_csv(empty / "runs.csv", index=False)
    assert "Times were measured on CPU Test CPU." in tables.write("timing", empty)[1].read_text()


def test_a_diverged_run_was_not_timed_on_any_machine(empty):
    run = results.settings()
    write(empty, (run, {"status": "diverged"}))
    path = empty / "runs" / run.run / "timing.json"
    results.edit(path, lambda timing: timing["environment"].update(device="Fast GPU"))
    assert any("timed on another machine" in note for note in collect(empty))
    results.edit(path, lambda timing: timing.update(batches=[]))
    assert not any("timed on another machine" in note for note in collect(empty))


TARGET = {"name": "neuroprune", "sparsity": 0.8}
PENALTY = {"name": "neuroprune", "alpha": 1e-7, "beta": 0.1}


@pytest.mark.parametrize(
    ("method", "changes", "variant"),
    [
        (TARGET, {}, ""),
        (TARGET, {"method": {"events": 1}}, "events_1"),
        (PENALTY, {"method": {"merge": "none", "eps": 0.1}}, "eps_0.1-merge_none"),
        (TARGET, {"training": {"epochs": 9.0}}, "epochs_9"),
        (TARGET, {"source": "other/minilm"}, "model.source_other_minilm"),
    ],
)
def test_variants_are_read_from_settings_whatever_the_runs_are_called(empty, method, changes, variant):
    other = changes | {"method": method | changes.get("method", {})}
    runs = [results.settings(method=method, label="b-90"), results.settings(**other, label="a-events_7", seed=3)]
    write(empty, *((run, {}) for run in runs))
    table = read_runs(empty)
    assert list(table["variant"]) == ["", variant]
    assert table["group"].nunique() == 1 + bool(variant)


def test_without_a_plan_the_defaults_are_usual_and_then_what_is_common(empty):
    changed = {"method": TARGET | {"events": 1}, "label": "a"}
    runs = [results.settings(**changed), *(results.settings(method=TARGET, label="b", seed=seed) for seed in (0, 1))]
    runs.append(results.settings(method=TARGET, label="a-long", training={"epochs": 9.0}))
    write(empty, *((run, {}) for run in runs))
    (empty / "plan.json").unlink()
    collect(empty)
    variants = read_runs(empty).set_index("run")["variant"]
    assert list(variants[[run.run for run in runs]]) == ["events_1", "", "", "epochs_9"]


def test_a_variant_stays_one_if_the_usual_run_is_missing(empty):
    usual, other = results.settings(method=TARGET), results.settings(method=TARGET | {"events": 1}, label="events")
    write(empty, (usual, {}), (other, {}))
    (empty / "runs" / usual.run / "run.json").unlink()
    collect(empty)
    assert list(read_runs(empty)["variant"]) == ["events_1"]


def test_settings_that_are_written_alike_are_averaged_apart(empty):
    runs = [results.settings(source=source, seed=seed) for seed, source in enumerate(("a/b", "a b", "a_b"))]
    write(empty, *((run, {}) for run in runs))
    assert read_runs(empty)["group"].nunique() == 3


def test_random_weights_are_marked(empty):
    write(empty, (results.settings(source="random:bert"), {}))
    assert read_runs(empty)["model_random"].item()
    files = tables.write("summary", empty)
    assert "minilm† on movie_snippets" in files[1].read_text()
    assert "† Weights were initialised at random" in files[3].read_text()


def test_a_finished_run_without_a_metric_is_said(empty):
    first, second = results.settings(), results.settings(seed=1)
    notes = write(empty, (first, {"value": float("nan")}), (second, {}))
    assert notes == [f"1 of 2 runs finished, but their metric is not a number: {first.run}."]
    said = "Some finished runs have a metric that is not a number; the means leave it out."
    assert said in tables.make("summary", empty).notes


@pytest.mark.parametrize("text", ["0,85", "x", "inf."])
def test_text_where_a_number_belongs_is_an_error(text, empty):
    write(empty, (results.settings(), {}))
    table = pd.read_csv(empty / "runs.csv").astype({"value": object})
    table.loc[0, "value"] = text
    table.to_csv(empty / "runs.csv", index=False)
    with pytest.raises(
        UserError, match=rf"runs\.csv: value of {results.settings().run} is '{text}', not a number; run"
    ):
        read_runs(empty)


def test_no_record_is_an_error(empty):
    with pytest.raises(UserError, match="no run has a record; run the study first"):
        collect(empty)


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_a_missing_or_foreign_table_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "runs.csv").write_text(content)
    with pytest.raises(UserError, match="neuroprune collect --study"):
        read_runs(tmp_path)


# ---- summary


def test_seeds_become_mean_and_spread(study):
    table = summarize(read_runs(study))
    assert len(table) == 2 * (1 + 2 * 3 + 2)
    found = row(table, group="minilm-verse_pairs-l1-90")
    wanted = {
        "runs": 3, "diverged": 0, "value": 0.82 - 0.12 * 0.81, "value_sd": 0.01, "sparsity": 0.9, "sparsity_sd": 0.0,
        "percent_of_dense": 100 * (0.82 - 0.12 * 0.81) / 0.82, "majority": 0.5, "heads_left": 12, "parameters": 100_000,
        "train_seconds": 36.0, "train_seconds_sd": 1.0, "train_seconds_without_eval": 34.0, "inference_ms_b32": 6.0,
        "inference_ms_b32_q1": 5.7, "speedup_b1": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert row(table, group="minilm-verse_pairs-dense")["percent_of_dense"] == 100
    assert math.isnan(row(table, group="minilm-verse_pairs-neuroprune-a0.001-b0.001-t0.25")["value_sd"])


def test_dense_comes_first_then_points_ascend_whatever_the_plan(empty):
    l1 = [results.settings(method={"name": "l1", "sparsity": s}) for s in (0.9, 0.5)]
    write(empty, *((run, {}) for run in [*l1, results.settings()]))
    assert list(summarize(read_runs(empty))["sparsity"]) == [0.0, 0.5, 0.9]


def test_diverged_runs_are_counted_and_not_averaged(empty):
    seeds = [results.settings(method={"name": "l1", "sparsity": 0.9}, seed=seed) for seed in range(3)]
    write(empty, (seeds[0], {"status": "diverged"}), (seeds[1], {"value": 0.5}), (seeds[2], {"value": 0.7}))
    found = summarize(read_runs(empty)).iloc[0]
    assert (found["runs"], found["diverged"], found["value"]) == (2, 1, pytest.approx(0.6))
    text = tables.write("summary", empty)[1].read_text()
    assert "60.0 ± 14.1 | 2 (−1‡)" in " ".join(text.split())


def test_stopped_runs_are_not_averaged(empty):
    stopped, done = (results.settings(seed=seed) for seed in (0, 1))
    write(empty, (stopped, {"status": "stopped", "value": 0.1}), (done, {"value": 0.7}))
    found = summarize(read_runs(empty)).iloc[0]
    assert (found["runs"], found["diverged"], found["value"]) == (1, 0, 0.7)


def test_a_group_without_any_finished_run_stays_in_the_table(empty):
    write(empty, (results.settings(), {"status": "diverged", "with_timing": False}))
    text = tables.write("summary", empty)[1].read_text()
    assert "| – | 0 (−1‡) |" in " ".join(text.split())


def test_the_csv_holds_the_unrounded_means(study):
    csv = tables.write("summary", study)[0]
    assert csv == study / "tables" / "summary.csv"
    pd.testing.assert_frame_equal(
        pd.read_csv(csv, keep_default_na=True)[["runs", "value", "sparsity"]],
        summarize(read_runs(study))[["runs", "value", "sparsity"]],
    )


def test_the_markdown_reads_as_meant(study):
    lines = tables.write("summary", study)[1].read_text().splitlines()
    assert "## minilm on movie_snippets (accuracy in %; always the most frequent class: 52.0)" in lines
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| NeuroPrune-FC ")
    ]
    assert cells[1] == [
        "NeuroPrune-FC", "80 %", "80.0", "82.8 ± 1.0", "3", "96.3", "3", "0.04",
        "3.20 (×2.50)", "1.60 (×2.50)", "33.0 (35.0)", "0.500", "0.67", "1.00",
    ]  # fmt: skip


def test_a_heading_says_what_copying_reaches_and_old_tables_without_it_are_read(empty):
    write(empty, (results.settings(task="docstrings"), {"guesses": {"majority": None, "copied": 0.204}}))
    assert (
        "docstrings (accuracy in %; always the source's own words: 20.4)"
        in tables.write("summary", empty)[1].read_text()
    )
    runs = pd.read_csv(empty / "runs.csv")
    assert list(runs["copied"]) == [0.204]
    runs.drop(columns="copied").to_csv(empty / "runs.csv", index=False)
    assert "docstrings (accuracy in %)" in tables.write("summary", empty)[1].read_text()


def test_the_html_page_needs_nothing_else(study):
    page = tables.write("summary", study)[3].read_text()
    assert page.startswith("<!doctype html>")
    assert not [part for part in ("<script", "http://", "https://", "url(") if part in page]


def test_cells_are_escaped():
    rows = pd.DataFrame({"a_b": ["<x> & 50 %_#"]})
    table = formats.Table("t", rows, {"h": rows})
    assert "&lt;x&gt; &amp; 50 %_#" in formats.to_html(table)
    assert r"<x> \& 50 \%\_\# \\" in formats.to_latex(table)
    assert r"a\_b \\" in formats.to_latex(table)


def test_times_say_what_the_cuts_are_worth(study):
    csv, markdown, *_ = tables.write("timing", study)
    found = row(pd.read_csv(csv), task="movie_snippets", method="neuroprune", point=0.8)
    assert (found["step_ms_first"], found["step_ms_last"]) == pytest.approx((20, 12))
    assert found["step_ratio"] == pytest.approx(0.6)
    assert found["speedup_b32"] == pytest.approx(2.5)
    line = next(
        line for line in markdown.read_text().splitlines() if line.startswith("| NeuroPrune-FC ") and "80.0" in line
    )
    assert "20.0 | 12.0 (×0.60) | 3.200 (×2.50) | 1.600 (×2.50)" in " ".join(line.split())


def test_records_without_step_times_have_a_table_of_times_too(empty):
    run = results.settings()
    record = results.record(run)
    results.write_run(empty, run, with_arrays=False)
    path = empty / "runs" / run.run / "run.json"
    old = json.loads(path.read_text())
    del old["result"]["step_times"]
    path.write_text(json.dumps(old))
    collect(empty)
    assert "Step" not in tables.write("timing", empty)[1].read_text().split("\n\n")[2]
    assert record.result.step_times


def test_the_origins_name_code_and_machine(study):
    text = tables.write("provenance", study)[1].read_text()
    for part in ("46 done", "0123456789abcdef", "Test CPU", "2.13.0"):
        assert part in text


@pytest.mark.parametrize("content", ["[]", '{"runs": 5}', '{"runs": {}, "commits": [3]}', "null", "{"])
def test_a_damaged_provenance_file_is_told_in_a_sentence(empty, content):
    write(empty, (results.settings(), {}))
    (empty / "provenance.json").write_text(content)
    with pytest.raises(UserError, match=r"provenance\.json: cannot be read; run `neuroprune collect"):
        tables.make("provenance", empty)


def test_origins_need_collected_records(empty):
    with pytest.raises(UserError, match="neuroprune collect"):
        tables.write("provenance", empty)


def test_unknown_tables_are_refused_with_the_nearest_name(study):
    with pytest.raises(UserError, match=r"unknown \(did you mean 'summary'\?\); there are table1, summary"):
        tables.write("sumary", study)


def test_files_are_the_same_each_time(study):
    first = [path.read_bytes() for path in tables.write("summary", study)]
    assert [path.read_bytes() for path in tables.write("summary", study)] == first
    assert {path.name for path in (study / "tables").iterdir()} >= {
        "summary.csv",
        "summary.md",
        "summary.tex",
        "summary.html",
    }
    assert not list(study.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("method", "form", "label"),
    [
        ("neuroprune", "penalty", "NeuroPrune (penalties)"),
        ("neuroprune", "regulated", "NeuroPrune (penalties, regulated)"),
        ("neuroprune", "target", "NeuroPrune-FC"),
        ("l1", "penalty", "l1 penalty"),
        ("l1", "target", "magnitude"),
        ("taylor", "target", "Taylor"),
        ("new", "", "new"),
    ],
)
def test_each_algorithm_has_one_name(method, form, label):
    assert method_label(method, form) == label


def test_all_are_compared_with_the_usual_dense_run(empty):
    usual, long = results.settings(), results.settings(label="dense-epochs_9", training={"epochs": 9.0})
    cut = results.settings(method={"name": "neuroprune", "sparsity": 0.8})
    write(empty, (usual, {"value": 0.8}), (long, {"value": 0.5}), (cut, {"value": 0.6}))
    runs = read_runs(empty)
    runs["step_ms_last"] = [20.0, 40.0, 10.0]
    runs.to_csv(empty / "runs.csv", index=False)
    table = summarize(runs)
    assert row(table, method="neuroprune")["percent_of_dense"] == pytest.approx(75)
    assert set(grid.marks(table, table.assign(heading="")).query("panel == 'metric'")["dense"]) == {80}
    assert row(timing(empty).numbers, method="neuroprune")["step_ratio"] == 0.5


def test_a_dense_run_that_diverged_is_no_reference(empty):
    usual, long = results.settings(), results.settings(label="dense-epochs_9", training={"epochs": 9.0})
    cut = results.settings(method=TARGET)
    write(empty, (usual, {"status": "diverged"}), (long, {"value": 0.8}), (cut, {"value": 0.6}))
    assert row(summarize(read_runs(empty)), method="neuroprune")["percent_of_dense"] == pytest.approx(75)


def test_training_times_are_compared_with_the_usual_neuroprune_run(empty):
    """A variant with a slightly lower sparsity precedes it in the table."""
    usual, variant = results.settings(method=TARGET), results.settings(method=TARGET | {"events": 1}, label="once")
    other = results.settings(method={"name": "l1", "sparsity": 0.8})
    write(empty, (usual, {}), (variant, {"sparsity": 0.79}), (other, {}))
    runs = read_runs(empty)
    runs["train_seconds_without_eval"] = runs["run"].map({usual.run: 10.0, variant.run: 20.0, other.run: 30.0})
    assert row(summarize(runs), method="l1")["training_to_neuroprune"] == 3.0


@pytest.mark.parametrize(
    ("cpu", "times", "ratio"),
    [
        ([5.0, 6.0], [5.0, 6.0], 1.2),
        ([5.0, math.nan], [5.0, 30.0], math.nan),
        ([math.nan, math.nan], [10.0, 30.0], 3.0),
    ],
)
def test_processor_times_are_compared_with_each_other_where_both_were_recorded(empty, cpu, times, ratio):
    usual, other = results.settings(method=TARGET), results.settings(method={"name": "l1", "sparsity": 0.8})
    write(empty, (usual, {}), (other, {}))
    runs = read_runs(empty).sort_values("method", ascending=False)
    table = summarize(runs.assign(train_seconds_without_eval=[10.0, 30.0], train_cpu_seconds=cpu))
    assert [row(table, method=name)["train_time"] for name in ("neuroprune", "l1")] == times
    assert row(table, method="l1")["training_to_neuroprune"] == pytest.approx(ratio, nan_ok=True)


def test_wall_times_of_other_seeds_do_not_count_beside_a_processor_time(empty):
    """Wall-clock time also depends on the machine's load."""
    write(empty, *((results.settings(method=TARGET, seed=seed), {}) for seed in (0, 1)))
    runs = read_runs(empty).assign(train_seconds_without_eval=[2594.0, 2400.0], train_cpu_seconds=[math.nan, 793.0])
    (found,) = summarize(runs).to_dict("records")
    assert found["train_time"] == 793.0 and math.isnan(found["train_time_sd"])


def test_the_papers_form_is_preferred(study):
    runs = read_runs(study)
    assert set(neuroprune_runs(runs)["form"]) == {"penalty"}
    assert set(neuroprune_runs(runs[runs["form"] != "penalty"])["form"]) == {"target"}


def test_training_times_stand_beside_the_dense_models_and_neuroprunes(empty):
    methods = {"dense": 10.0, "neuroprune": 12.0, "cofi": 240.0}
    runs = [
        (results.settings(method={"name": name} | ({"sparsity": 0.8} if name != "dense" else {})), time)
        for name, time in methods.items()
    ]
    runs.append((results.settings(method={"name": "cofi", "sparsity": 0.5}), 220.0))
    runs.append((results.settings(method={"name": "dsp", "heads": 6}, label="dsp-h6"), 30.0))
    runs.append((results.settings(method={"name": "neuroprune", "heads": 6}, label="neuroprune-h6"), 15.0))
    write(empty, *((settings, {}) for settings, _ in runs))
    rows = read_runs(empty)
    rows["train_seconds_without_eval"] = rows["run"].map({settings.run: time for settings, time in runs})
    table = summarize(rows).set_index("group")
    ratios = table[["training_to_dense", "training_to_neuroprune"]].T.to_dict("list")
    name = "minilm-movie_snippets-"
    assert ratios[name + "neuroprune-80"] == [1.2, 1.0]
    assert ratios[name + "cofi-80"] == [24.0, 20.0]
    assert ratios[name + "dsp-h6"] == [3.0, 2.0]
    assert ratios[name + "cofi-50"][0] == 22.0 and math.isnan(ratios[name + "cofi-50"][1])
    assert ratios[name + "dense"][0] == 1.0 and math.isnan(ratios[name + "dense"][1])
    page = tables.write("summary", empty)[1].read_text()
    assert "Training × NeuroPrune" in page and "Heads left" in page
