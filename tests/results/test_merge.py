"""Merging of studies, and redrawing of all tables and figures from records only."""

import json
import shutil

import pytest

from helpers import results
from neuroprune import cli
from neuroprune.errors import UserError
from neuroprune.results import figures, tables
from neuroprune.results.collect import collect
from neuroprune.results.figures.context import rough_times
from neuroprune.results.merge import merge
from neuroprune.results.redraw import redraw
from neuroprune.results.runs import read_runs
from neuroprune.results.tables.summary import summarize

DENSE, PRUNED = results.settings(), results.settings(method={"name": "neuroprune", "sparsity": 0.8})


def study(folder, *runs, **changes):
    for settings in runs:
        results.write_run(folder, settings, **changes)
    results.write_plan(folder, runs)
    return folder


def test_runs_of_two_machines_become_one_study(tmp_path):
    one = study(tmp_path / "one", DENSE, cpu="First CPU")
    other = study(tmp_path / "other", DENSE, PRUNED, cpu="First CPU")
    (one / "runs" / DENSE.run / "model").mkdir()
    assert cli.main(["merge", str(one), str(other), "--study", str(tmp_path / "both")]) == 0
    assert list(read_runs(tmp_path / "both")["run"]) == [DENSE.run, PRUNED.run]
    folder = tmp_path / "both" / "runs" / DENSE.run
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "timing.json", "degrees.safetensors", "patterns.safetensors", "cells.safetensors",
        "heads.safetensors",
    }  # fmt: skip


def test_runs_that_are_missing_in_all_studies_are_still_known(tmp_path):
    one = study(tmp_path / "one", DENSE, PRUNED)
    shutil.rmtree(one / "runs" / PRUNED.run)
    merge([one], tmp_path / "both")
    assert list(json.loads((tmp_path / "both" / "plan.json").read_text())["runs"]) == [DENSE.run, PRUNED.run]


def test_different_records_of_one_name_are_refused_before_anything_is_written(tmp_path):
    one, other = study(tmp_path / "one", DENSE), study(tmp_path / "other", DENSE, value=0.5)
    with pytest.raises(UserError, match="are different records of a run with the same name"):
        merge([one, other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_that_one_source_lacks_comes_from_the_other(tmp_path, order):
    one = study(tmp_path / "one", DENSE, with_timing=False, with_arrays=False)
    other = study(tmp_path / "other", DENSE)
    merge([one, other][::order], tmp_path / "both")
    there = {path.name for path in (tmp_path / "both" / "runs" / DENSE.run).iterdir()}
    assert {"run.json", "timing.json", "degrees.safetensors"} <= there


def test_of_two_sources_the_first_decides(tmp_path):
    """Both have timed the same run and plan another, missing in both, with different settings."""
    one, other = study(tmp_path / "one", DENSE), study(tmp_path / "other", DENSE)
    (other / "runs" / DENSE.run / "timing.json").write_text("{}")
    longer = PRUNED.model_copy(update={"training": PRUNED.training.model_copy(update={"epochs": 9.0})})
    results.write_plan(one, [DENSE, PRUNED])
    results.write_plan(other, [DENSE, longer])
    merge([one, other], tmp_path / "both")
    times = [folder / "runs" / DENSE.run / "timing.json" for folder in (one, tmp_path / "both")]
    assert times[0].read_bytes() == times[1].read_bytes()
    plan = json.loads((tmp_path / "both" / "plan.json").read_text())
    assert plan["runs"][PRUNED.run]["training"]["epochs"] == PRUNED.training.epochs


def test_a_dense_run_with_other_settings_gets_the_times_beside_pruned_runs_in_all_notes(tmp_path):
    folder = study(tmp_path / "one", DENSE, PRUNED, results.settings(method={"name": "l1", "sparsity": 0.8}))
    results.retime(folder / "runs" / DENSE.run / "timing.json", 1 / 3, threads=4)
    assert not any("other settings" in note for note in collect(folder))
    assert "left out" not in tables.write("summary", folder)[1].read_text()
    assert read_runs(folder)["inference_ms_b32"].iloc[0] == 4.0


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"threads": 4}, "4 threads, fp32, 128 rows"), ({"precision": "bf16"}, "1 thread, bf16, 128 rows")],
)
def test_times_with_other_settings_are_left_out_and_said(settings, text, tmp_path):
    """One of two runs that are averaged is timed three times as fast, with other settings."""
    again = results.settings(method={"name": "neuroprune", "sparsity": 0.8}, seed=1)
    other = study(tmp_path / "other", again)
    results.retime(other / "runs" / again.run / "timing.json", 1 / 3, **settings)
    one = study(tmp_path / "one", DENSE, PRUNED, results.settings(method={"name": "l1", "sparsity": 0.8}))
    (one / "runs" / DENSE.run / "timing.json").unlink()
    merge([one, other], tmp_path / "both")
    (note,) = (note for note in collect(tmp_path / "both") if "these times are left out" in note)
    assert note.startswith("1 of 4 runs timed with other settings than most of their model and task; ")
    dense, cut, _ = summarize(read_runs(tmp_path / "both")).to_dict("records")
    assert (dense["inference_ms_b32"], dense["speedup_b32"], cut["runs"]) == (4.0, 1.0, 2)
    assert (cut["inference_ms_b32"], cut["dense_inference_ms_b32"]) == pytest.approx((1.6, 4.0))
    for name in ("summary", "timing"):
        said = tables.write(name, tmp_path / "both")[1].read_text()
        assert f"Inference times of 1 run are left out: they were measured with other settings ({text}) than" in said
    assert "inference times of 1 run with other timing settings are left out" in rough_times(
        read_runs(tmp_path / "both")
    )


def test_models_that_are_timed_with_different_settings_are_named(tmp_path):
    one = study(tmp_path / "one", DENSE)
    other = study(tmp_path / "other", results.settings("verse_pairs"))
    (file,) = other.glob("runs/*/timing.json")
    results.retime(file, 1.0, threads=4)
    merge([one, other], tmp_path / "both")
    assert not any("left out" in note for note in collect(tmp_path / "both"))
    assert (
        "- Inference was timed with different settings: minilm on verse_pairs: 4 threads, fp32, 128 rows; "
        "minilm on movie_snippets: 1 thread, fp32, 128 rows."
    ) in tables.write("summary", tmp_path / "both")[1].read_text()


def test_a_damaged_plan_is_told_before_anything_is_written(tmp_path):
    one = study(tmp_path / "one", DENSE)
    (one / "plan.json").write_text('{"runs"')
    with pytest.raises(UserError, match="cannot be read as a plan"):
        merge([one], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_damaged_record_is_refused_before_anything_is_written(tmp_path):
    one, other = study(tmp_path / "one", DENSE), study(tmp_path / "other", PRUNED)
    (other / "runs" / PRUNED.run / "run.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        merge([one, other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("name", ["a copy", ".hidden", "other-s0"])
def test_a_folder_with_the_record_of_another_run_is_refused_before_anything_is_written(name, tmp_path):
    one = study(tmp_path / "one", DENSE, PRUNED)
    (one / "runs" / PRUNED.run).rename(one / "runs" / name)
    with pytest.raises(UserError, match=f"{name}: contains the record of the run {PRUNED.run}; delete or rename it"):
        merge([one], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_folders_named_like_arrays_are_not_copied(tmp_path):
    one = study(tmp_path / "one", DENSE)
    (one / "runs" / DENSE.run / "x.safetensors").mkdir()
    assert merge([one], tmp_path / "both") == [DENSE.run]


@pytest.mark.parametrize(("part", "name"), [("data", DENSE.task.name), ("model", DENSE.model.name)])
def test_runs_with_other_content_of_data_or_model_are_named(part, name, tmp_path):
    seeds = [results.settings(seed=seed) for seed in range(3)]
    folder = study(tmp_path / "one", *seeds, with_timing=False, **{f"{part}_sha256": "2" * 64})
    results.write_run(folder, seeds[1], with_timing=False, **{f"{part}_sha256": "3" * 64})
    results.write_plan(folder, seeds, timed=[])
    text = f"made with other content of the {part} {name} than most (SHA-256 in their records), and not comparable"
    assert collect(folder) == [f"1 of 3 runs {text}: {seeds[1].run}."]


def test_a_file_as_target_is_refused(tmp_path):
    (tmp_path / "both").write_text("")
    with pytest.raises(UserError, match="both: is a file; give the folder of a study"):
        merge([study(tmp_path / "one", DENSE)], tmp_path / "both")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run has a record"):
        merge([tmp_path], tmp_path / "both")


def test_records_alone_give_all_tables_and_figures_and_nothing_else_is_touched(tmp_path):
    folder = study(tmp_path / "demo", DENSE, PRUNED)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert redraw(folder) == []
    new = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in before}
    wanted = {
        f"figures/{name}.{kind}"
        for name in figures.FIGURES
        if name != "figure11"
        for kind in ("csv", "pdf", "png", "svg")
    }
    wanted |= {f"tables/{name}.{kind}" for name in tables.TABLES for kind in ("csv", "md", "tex", "html")}
    assert new == wanted | {"runs.csv", "provenance.json"}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_study_whose_runs_all_diverged_is_drawn_and_says_what_is_missing(tmp_path):
    notes = redraw(study(tmp_path / "odd", DENSE, status="diverged", with_timing=False))
    assert any("diverged, without a metric" in note for note in notes)
    assert any("Table 1 has no rows" in note for note in notes)
    page = tmp_path / "odd" / "tables" / "table1.html"
    assert "no run is finished" in page.read_text()
    page.unlink()
    assert cli.main(["table", "table1", "--study", str(tmp_path / "odd")]) == 0  # as the workflow calls it
    assert "no run is finished" in page.read_text()


def test_what_the_study_asks_for_is_drawn_or_what_is_named(tmp_path):
    folder = study(tmp_path / "demo", DENSE, PRUNED)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"settings": {"artefacts": ["frontier", "summary"]}}))
    redraw(folder)
    assert {path.stem for path in folder.glob("*/*.csv")} == {"frontier", "summary"}
    assert cli.main(["redraw", "table1", "--study", str(folder)]) == 0
    assert {path.stem for path in folder.glob("*/*.csv")} == {"frontier", "summary", "table1"}
    with pytest.raises(UserError, match=r"'figre4' is not a figure or table .did you mean 'figure4'"):
        redraw(folder, ["figre4"])


def test_a_figure_that_the_plan_asks_for_is_drawn_even_without_its_models(tmp_path):
    folder = study(tmp_path / "demo", DENSE, PRUNED)
    results.edit(folder / "plan.json", lambda plan: plan.update(settings={"artefacts": ["figure11"]}))
    assert redraw(folder) == []
    drawn = (folder / "figures" / "figure11.csv").read_text()
    assert "Nothing to show: no pruned run of a model of more than 300 M" in drawn


@pytest.mark.parametrize("artefacts", ["summary", [5], {"summary": 1}])
def test_artefacts_of_a_plan_that_are_not_names_are_told_in_a_sentence(artefacts, tmp_path):
    folder = study(tmp_path / "demo", DENSE)
    results.edit(folder / "plan.json", lambda plan: plan.update(settings={"artefacts": artefacts}))
    with pytest.raises(
        UserError, match=r"plan\.json: settings\.artefacts must be a list of names; plan the study again"
    ):
        redraw(folder)


def test_a_method_that_has_gained_a_setting_makes_no_record_old(tmp_path):
    folder = study(tmp_path / "demo", DENSE, PRUNED)
    plan = json.loads((folder / "plan.json").read_text())
    del plan["runs"][PRUNED.run]["method"]["penalty_start"]
    (folder / "plan.json").write_text(json.dumps(plan))
    assert collect(folder) == []
    plan["runs"][PRUNED.run]["method"]["ridge"] = 0.5
    (folder / "plan.json").write_text(json.dumps(plan))
    assert collect(folder) == [f"1 of 2 runs made with other settings than the plan's: {PRUNED.run}."]
