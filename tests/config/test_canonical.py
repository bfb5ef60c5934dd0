"""Canonical JSON and hashes are equal if and only if results are equal."""

import json

import pytest

from neuroprune.config.canonical import canonical, canonical_but_seed, json_hash, settings_hash
from neuroprune.config.catalogue import make_plan
from neuroprune.config.jobs import jobs_of, settings_of
from neuroprune.config.settings import RunSettings, TimingSettings
from neuroprune.config.study import ModelRow, StudySettings

RUN = {
    "run": "m-t-l1-50-s0",
    "model": {"name": "m", "source": "random:bert"},
    "task": {"name": "t", "source": "demo", "inputs": ["a"]},
    "method": {"name": "l1", "sparsity": 0.5},
    "training": {},
    "seed": 0,
}
STUDY = {"study": "s", "experiments": {"e": {"models": ["m"], "tasks": ["t"], "methods": [{"name": "dense"}]}}}


def run(**changes):
    return RunSettings.model_validate(RUN | changes)


def study(**changes):
    return StudySettings.model_validate(STUDY | changes)


def test_runs_that_are_averaged_differ_in_name_and_seed_alone():
    assert canonical_but_seed(run()) == canonical_but_seed(run(run="other", seed=7))
    assert canonical(run()) != canonical(run(seed=7))
    for key, value in {"sparsity": 0.6, "events": 1}.items():
        method = RUN["method"] | {key: value}
        assert canonical_but_seed(run()) != canonical_but_seed(run(method=method))


def test_the_order_of_keys_in_a_file_does_not_change_the_hash():
    data = run().model_dump(mode="json")
    backwards = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in data.items()
    }
    assert json_hash(dict(reversed(backwards.items()))) == json_hash(data) == settings_hash(run())


def test_hashes_are_those_of_earlier_records():
    assert settings_hash(run()) == "a385b9d671b5c51c3f8021e0e8610410163199b7333119328401025f1aae1cc5"
    earlier = run(method=RUN["method"] | {"version": 1})
    assert settings_hash(earlier) == "ed143f25a8d37c202d9f0c756203c43c53b4dbf8f1453f757fafd1a7e0dacfc2"
    assert settings_hash(TimingSettings()) == "9e59dbcdc6f68271a3ce63c9508c13f9a6aeb40554882b043331baddd4bb107c"


@pytest.mark.parametrize(
    "change",
    [
        {"keep_models": True},
        {"from_results": True},
        {"runs_per_job": 4},
        {"job_hours": 2.0},
        {"checkpoint_minutes": 1.0},
        {"experiments": {"e": STUDY["experiments"]["e"] | {"runs_per_job": 3}}},
    ],
    ids=str,
)
def test_what_decides_no_result_is_no_part_of_a_study(change):
    assert canonical(study(**change), "study") == canonical(study(), "study")
    assert canonical(study(seeds=[0, 1]), "study") != canonical(study(), "study")


def test_a_check_of_the_data_is_for_prepare_data_and_no_part_of_runs(tmp_path):
    tasks = {"t": {"source": "some/where", "inputs": ["a"]}}
    rows = {"models": {"m": {"source": "random:bert"}}, "tasks": tasks}
    plain = make_plan(STUDY | rows, "s.yaml", tmp_path)
    checked = make_plan(STUDY | rows | {"tasks": {"t": tasks["t"] | {"expected_rows": 6}}}, "s.yaml", tmp_path)
    assert checked.runs == plain.runs
    assert json.loads(canonical(checked.study.tasks["t"], "task"))["expected_rows"] == 6
    (job,) = jobs_of(checked).values()
    assert canonical(settings_of(checked, job)) == canonical(settings_of(plain, job))


def test_what_decides_no_result_is_no_part_of_a_row_or_of_timings():
    plain = {"name": "m", "source": "random:bert"}
    larger = ModelRow.model_validate(plain | {"parameters": 1e6, "job": {"memory_mb": 100}})
    assert canonical(larger, "model") == canonical(ModelRow.model_validate(plain), "model")
    assert canonical(TimingSettings(seeds=1), "timing") == canonical(TimingSettings(), "timing")
    assert canonical(TimingSettings(repeats=3), "timing") != canonical(TimingSettings(), "timing")
