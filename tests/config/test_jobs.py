"""Grouping of a plan's runs into jobs, and the overview of jobs."""

import pytest
import yaml

from neuroprune.config import gpu_hours, jobs
from neuroprune.config.canonical import canonical
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.errors import ConfigError, UserError

STUDY = yaml.safe_load("""
study: small
seeds: [0, 1, 2]
models: {tiny: {source: "random:bert", config: {hidden_size: 48}, job: {minutes: 100}}}
experiments:
  sweep:
    models: [tiny, bert_base]
    tasks: [sst2, mnli]
    methods: [{name: dense}, {name: l1, sparsity: [0.5, 0.8]}]
  more:
    models: [tiny]
    tasks: [sst2]
    methods: [{name: random, sparsity: 0.5}]
""")


def plan(**changes):
    return make_plan(STUDY | changes, "study")


def test_without_the_setting_each_run_has_a_job_for_itself():
    made = plan()
    found = jobs.jobs_of(made)
    assert {name: job.runs for name, job in found.items()} == {name: (name,) for name in made.runs}
    assert {name for name, job in found.items() if job.timed} == set(made.timed)
    assert jobs.count_by_rule(made) == {"train": 39, "measure": 27}  # dense runs are not timed


def test_runs_of_one_experiment_model_and_task_share_jobs_in_the_order_of_the_plan():
    made = plan(runs_per_job=5)
    found = jobs.jobs_of(made)
    assert list(found)[:2] == ["sweep-tiny-sst2-1", "sweep-tiny-sst2-2"] and "more-tiny-sst2-1" in found
    assert [run for job in found.values() for run in job.runs] == list(made.runs)
    for job in found.values():
        runs = [made.runs[name] for name in job.runs]
        assert all((run.model, run.task) == (runs[0].model, runs[0].task) for run in runs)
        assert all(run.training == runs[0].training for run in runs)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(9, 5, [4, 5]), (9, 3, [3, 3, 3]), (10, 9, [5, 5]), (1, 50, [1]), (7, 1, [1] * 7)],
)
def test_parts_are_few_and_of_like_size(count, most, sizes):
    runs = [f"r{number}" for number in range(count)]
    parts = jobs.split(runs, most)
    assert [len(part) for part in parts] == sizes
    assert [run for part in parts for run in part] == runs


def test_a_run_that_is_left_alone_keeps_its_own_job():
    found = jobs.jobs_of(plan(runs_per_job=2, seeds=[0]))  # three runs of each model and task: one and two
    assert sorted(len(job.runs) for job in found.values()) == [1] * 5 + [2] * 4
    assert {name for name, job in found.items() if len(job.runs) == 1} >= {"tiny-sst2-random-50-s0"}
    assert jobs.count_by_rule(plan(runs_per_job=2, seeds=[0])) == {"train": 9, "measure": 5}


def test_a_run_that_shares_a_job_can_be_asked_for_alone():
    made = plan(runs_per_job=9)
    found = jobs.jobs_of(made)
    shared = found["sweep-tiny-sst2-1"]
    assert jobs.find_job(made, found, "sweep-tiny-sst2-1") is shared
    assert jobs.find_job(made, found, "tiny-sst2-l1-50-s0") == jobs.Job(
        ("tiny-sst2-l1-50-s0",), ("tiny-sst2-l1-50-s0",)
    )
    assert jobs.find_job(made, found, "tiny-sst2-dense-s0").timed == ()
    with pytest.raises(UserError, match="tiny-sst2-dense-s9: the study has no such job or run"):
        jobs.find_job(made, found, "tiny-sst2-dense-s9")


def test_an_experiment_may_say_how_many_of_its_runs_share_a_job():
    study = yaml.safe_load(yaml.safe_dump(STUDY | {"runs_per_job": 9}))
    study["experiments"]["sweep"]["runs_per_job"] = 1
    assert [name for name, job in jobs.jobs_of(make_plan(study, "study")).items() if len(job.runs) > 1] == [
        "more-tiny-sst2-1"
    ]


def test_only_runs_that_are_timed_stand_in_the_timing_job():
    made = plan(runs_per_job=9, timing={"seeds": 1})
    job = jobs.jobs_of(made)["sweep-tiny-sst2-1"]
    assert [made.runs[run].seed for run in job.timed] == [0, 0]
    assert jobs.settings_of(made, job).timing.seeds is None
    assert jobs.count_by_rule(plan(runs_per_job=1, timing={"seeds": 1}))["measure"] == 9


def test_long_runs_share_fewer_jobs_where_the_hours_of_a_job_are_limited():
    found = jobs.jobs_of(plan(runs_per_job=9, job_hours=1.0))
    made = plan()
    longest = gpu_hours.hours(made.runs["bert_base-mnli-dense-s0"])
    assert 3 * longest > 1.0 > longest  # so no three of them
    sizes = {name: len(job.runs) for name, job in found.items()}
    assert not any(name.startswith("sweep-bert_base-mnli") for name in sizes)
    assert sizes["bert_base-mnli-dense-s0"] == 1
    assert sizes["sweep-bert_base-sst2-1"] > 2
    assert sizes["sweep-tiny-sst2-1"] == 9  # nothing is known of how long these take


def test_the_time_limit_is_that_of_all_runs_but_not_far_above_the_hours_of_a_job():
    made = plan(runs_per_job=9)
    job = jobs.jobs_of(made)["sweep-tiny-sst2-1"]
    assert jobs.time_limit(made, job) == 900
    assert jobs.time_limit(plan(runs_per_job=9, job_hours=2.5), job) == 100 + 2 * 150


def test_the_time_limit_of_a_run_is_asked_for_or_twice_its_estimate_but_four_hours_at_least():
    made = plan(training={"epochs": 20})
    name = "bert_base-mnli-dense-s0"
    assert jobs.run_limit(made, name) == int(120 * gpu_hours.hours(made.runs[name])) > jobs.LEAST_MINUTES
    assert jobs.run_limit(plan(), "bert_base-sst2-dense-s0") == jobs.LEAST_MINUTES
    assert jobs.run_limit(made, "tiny-mnli-dense-s0") == 100  # asked for by the model's row
    nothing_known = plan(models={"tiny": {"source": "random:bert"}})
    assert jobs.run_limit(nothing_known, "tiny-mnli-dense-s0") == jobs.LEAST_MINUTES


def test_a_job_tells_each_run_what_the_plan_tells_it():
    made = plan(runs_per_job=9, training={"epochs": 7})
    for job in jobs.jobs_of(made).values():
        told = jobs.JobRuns.model_validate_json(canonical(jobs.settings_of(made, job)))
        assert told.runs == tuple(made.runs[name] for name in job.runs)


@pytest.mark.parametrize(("key", "value"), [("runs_per_job", 0), ("runs_per_job", 51), ("job_hours", 0)])
def test_senseless_numbers_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        plan(**{key: value})


def test_the_papers_study_has_few_jobs_whose_commands_fit_on_a_line():
    made = make_plan(read_study(["config/paper.yaml"]), "config/paper.yaml")
    found = jobs.jobs_of(made)
    assert sum(jobs.count_by_rule(made).values()) == sum(jobs.count_by_experiment(made).values()) < 2500
    assert max(len(canonical(jobs.settings_of(made, job))) for job in found.values()) < 100_000  # Linux: 131,072
    assert sorted({run for job in found.values() for run in job.runs}) == sorted(
        run for job in found.values() for run in job.runs
    )
