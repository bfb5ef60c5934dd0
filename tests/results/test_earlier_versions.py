"""Runs of an earlier version of their method are named and never mixed with later ones."""

import json

import pytest

from helpers import results
from neuroprune import cli
from neuroprune.config.catalogue import make_plan
from neuroprune.config.versions import in_version, is_earlier
from neuroprune.errors import UserError
from neuroprune.results import figures, tables
from neuroprune.results.collect import collect
from neuroprune.results.merge import merge
from neuroprune.results.outdated import repeated
from neuroprune.results.runs import drawn_runs, read_runs
from neuroprune.results.tables.summary import summarize

NEWEST = {"neuroprune": 4, "l1": 2, "taylor": 2, "random": 2}


def runs(points, seeds=(0,), name="neuroprune", version=None, **options):
    """Return settings of runs, by default in the newest version."""
    version = NEWEST[name] if version is None else version
    methods = [{"name": name, "sparsity": point, "version": version, **options} for point in points]
    return [results.settings(method=method, seed=seed) for method in methods for seed in seeds]


def write(folder, *found):
    for run in found:
        results.write_run(folder, run)
    return folder


def names(found):
    return ", ".join(run.run for run in found)


@pytest.mark.parametrize(("name", "newest"), NEWEST.items())
def test_settings_keep_their_choices_in_another_version(name, newest):
    (now,), (before,) = (
        [run.method for run in runs([0.5], name=name, version=version)] for version in (newest, newest - 1)
    )
    assert in_version(before) == now and in_version(now, newest - 1) == before
    assert is_earlier(before) and not is_earlier(now)
    chosen = in_version(runs([0.5], name=name, version=newest - 1, post_dropout=0.5, events=2)[0].method)
    assert (chosen.version, chosen.post_dropout, chosen.events) == (newest, 0.5, 2)


@pytest.mark.parametrize("method", [{"name": "dense"}, {"name": "l1", "strength": 1.0}, {"name": "dsp", "heads": 8}])
def test_methods_and_forms_with_a_single_version_are_never_earlier(method):
    settings = results.settings(method=method).method
    assert in_version(settings) == settings and not is_earlier(settings)


@pytest.mark.parametrize("planned", [False, True])
def test_the_table_of_runs_names_the_version(planned, tmp_path):
    before, now = runs([0.5, 0.8], (0,), version=2), runs([0.8, 0.9], (1,))
    folder = write(tmp_path / "mixed", results.settings(), *before, *now)
    if planned:  # with the newest version
        results.write_plan(folder, [results.settings(), *runs([0.5, 0.8]), *now])
    differ = "whose results differ from those of version 4"
    assert collect(folder) == [f"2 of 5 runs made by version 2 of neuroprune, {differ}: {names(before)}."]
    table = summarize(read_runs(folder))
    assert dict(zip(table["group"], table["variant"], strict=True)) == {
        "minilm-movie_snippets-dense": "",
        "minilm-movie_snippets-neuroprune-50-version_2": "version_2",
        "minilm-movie_snippets-neuroprune-80-version_2": "version_2",
        "minilm-movie_snippets-neuroprune-80": "",
        "minilm-movie_snippets-neuroprune-90": "",
    }


def test_runs_that_are_all_of_one_version_keep_their_groups(tmp_path):
    penalty = results.settings(method={"name": "l1", "strength": 1})
    folder = write(tmp_path / "old", *runs([0.5, 0.8], version=2), penalty)
    assert len(collect(folder)) == 1
    assert set(read_runs(folder)["variant"]) == {""}


def test_other_options_stay_in_the_variant_beside_the_version(tmp_path):
    before, now = runs([0.5], version=2, events=5), runs([0.5], (1,))
    collect(write(tmp_path / "mixed", *now, *before))
    assert list(read_runs(tmp_path / "mixed")["variant"]) == ["version_2-events_5", ""]


def test_tables_explain_earlier_versions_and_figures_leave_them_out(tmp_path):
    folder = write(tmp_path / "mixed", results.settings(), *runs([0.5, 0.8], version=2), *runs([0.9], (0, 1)))
    collect(folder)
    for name in ("summary", "timing"):
        said = tables.write(name, folder)[1].read_text()
        assert "50 %, version_2" in said
        assert "version_2: made by that version of the method and left out of figures" in said
    assert {run.partition("-neuroprune-")[2][:2] for run in drawn_runs(folder)["run"]} == {"", "90"}
    for name in figures.FIGURES:
        written = figures.draw(name, folder)[-1].with_suffix(".csv").read_text()
        assert "neuroprune-50" not in written and "neuroprune-80" not in written, name
    assert ",2,target" in (folder / "figures" / "figure3.csv").read_text()


def test_a_merge_names_the_versions_of_a_run_that_both_studies_have(tmp_path):
    one, other = write(tmp_path / "one", *runs([0.5], version=2)), write(tmp_path / "other", *runs([0.5]))
    text = "same name, made by version 2 of neuroprune and version 4 of neuroprune; leave one"
    with pytest.raises(UserError, match=text):
        merge([one, other], tmp_path / "both")


def test_a_merge_of_runs_of_two_versions_names_the_earlier_one(tmp_path, capsys):
    before = runs([0.5], name="taylor", version=1)
    one, other = write(tmp_path / "one", *before), write(tmp_path / "other", *runs([0.8], name="taylor"))
    assert cli.main(["merge", str(one), str(other), "--study", str(tmp_path / "both")]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 runs made by version 1 of taylor, whose results differ from those of version 2: " in said


def small(folder, **changes):
    """A study of four runs."""
    methods = [{"name": "dense"}, {"name": "neuroprune", "sparsity": [0.5, 0.8]}, {"name": "random", "sparsity": 0.5}]
    return {
        "study": "small",
        "results": str(folder),
        "models": {"tiny": {"source": "random:bert"}},
        "tasks": {"words": {"source": "some/words", "inputs": ["text"]}},
        "experiments": {"e": {"models": ["tiny"], "tasks": ["words"], "methods": methods}},
    } | changes


def planned(folder, **changes):
    return list(make_plan(small(folder, **changes), "study").runs.values())


def write_earlier(folder):
    """Write the records of that study as made by the versions before."""
    for run in planned(folder):
        results.write_run(folder / "small", in_version_before(run), with_timing=False, with_arrays=False)


def in_version_before(run):
    version = getattr(run.method, "version", None)
    method = run.method if version is None else in_version(run.method, version - 1)
    return run.model_copy(update={"method": method})


def test_records_that_will_be_repeated_are_counted_with_the_reason(tmp_path):
    folder, runs_of_now = tmp_path / "small", planned(tmp_path)
    assert repeated(folder, runs_of_now) == ""
    write_earlier(tmp_path)
    begin = "a record that does not count and will be repeated"
    neuroprune, random = "version 3 of neuroprune instead of version 4", "version 1 of random instead of version 2"
    assert repeated(folder, runs_of_now) == f"3 runs have {begin}: 2 made by {neuroprune}, 1 made by {random}."
    longer = planned(tmp_path, training={"epochs": 9})[:1]
    assert repeated(folder, longer) == f"1 run has {begin}: 1 made with other settings."
    (folder / "runs" / longer[0].run / "run.json").write_text("{")
    assert repeated(folder, longer) == f"1 run has {begin}: 1 cannot be read."


def test_an_estimate_says_which_records_do_not_count(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neuroprune.training.estimate.operations_per_second", lambda: 1e9)
    write_earlier(tmp_path)
    assert cli.main(["plan", "--estimate", "--settings", json.dumps(small(tmp_path))]) == 0
    assert capsys.readouterr().out.startswith("small: 4 runs, 1 of them done. 3 runs have a record that does not count")
