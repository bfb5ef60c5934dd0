"""Figures and tables drawn only from their needed runs equal those of the whole study."""

import json
from collections import Counter
from pathlib import Path

import pytest

from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.settings import RunSettings
from neuroprune.results import figures, tables
from neuroprune.results.collect import collect
from neuroprune.results.needs import needed_runs

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published"
ARTEFACTS = [*figures.FIGURES, *tables.TABLES]


@pytest.fixture(scope="module")
def paper():
    return make_plan(read_study([ROOT / "config" / "paper.yaml"]), "paper.yaml", ROOT / "config").runs


def planned(study):
    plan = json.loads((PUBLISHED / study / "plan.json").read_text())
    return {name: RunSettings.model_validate(run) for name, run in plan["runs"].items()}


def test_table_1_of_the_paper_needs_its_121_runs(paper):
    found = Counter(paper[name].method.name for name in needed_runs("table1", paper))
    assert found == {"dense": 5, "neuroprune": 30 + 49, "l1": 30 + 7}
    assert {paper[name].task.name for name in needed_runs("table1", paper)} == {"cnn_dailymail"}


@pytest.mark.parametrize(
    ("artefact", "methods", "tasks"),
    [
        ("figure1", {"dense", "neuroprune"}, {"sst2"}),
        ("figure5", {"dense", "neuroprune", "dsp"}, None),
        ("figure6", {"dense", "neuroprune", "l1", "dsp"}, {"iwslt14_de_en"}),
        ("figure3", {"neuroprune"}, None),
        ("topology", {"dense", "neuroprune", "l1", "taylor", "random", "cofi", "dsp"}, {"cola"}),
    ],
)
def test_other_figures_of_the_paper_need_a_part_of_its_runs(paper, artefact, methods, tasks):
    chosen = [paper[name] for name in needed_runs(artefact, paper)]
    assert 0 < len(chosen) < len(paper)
    assert {run.method.name for run in chosen} == methods
    assert tasks in (None, {run.task.name for run in chosen})


def test_what_shows_everything_or_has_nothing_to_show_needs_all_runs(paper):
    dense = {name: run for name, run in paper.items() if run.method.name == "dense"}
    assert needed_runs("summary", paper) == tuple(paper)
    assert needed_runs("strengths", dense) == tuple(dense)


@pytest.mark.parametrize(
    ("study", "artefact"),
    [
        ("architectures", "table1"),
        *(("small", name) for name in ("figure1", "figure2", "figure4", "figure5", "figure10", "forms")),
    ],
)
def test_an_artefact_of_its_own_runs_is_that_of_the_whole_study(tmp_path, study, artefact):
    runs = planned(study)
    chosen = needed_runs(artefact, runs)
    assert len(chosen) < len(runs)
    folder = tmp_path / study
    (folder / "runs").mkdir(parents=True)
    (folder / "plan.json").write_text((PUBLISHED / study / "plan.json").read_text())
    for name in chosen:
        (folder / "runs" / name).symlink_to(PUBLISHED / study / "runs" / name)
    collect(folder)
    if artefact in figures.FIGURES:
        figures.draw(artefact, folder)
    else:
        tables.write(artefact, folder)
    (made,) = folder.glob(f"*/{artefact}.csv")
    assert made.read_bytes() == (PUBLISHED / study / made.relative_to(folder)).read_bytes()
