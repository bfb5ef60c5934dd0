"""Files of a study that have to be made again because they are missing or were made with other settings."""

import json
import time
from pathlib import Path

import pytest

from helpers.results import edit
from helpers.studies import write_finished
from neuroprune.config.canonical import json_hash
from neuroprune.config.catalogue import make_plan, read_study
from neuroprune.config.jobs import jobs_of
from neuroprune.results.outdated import has_record, is_written, outdated_files

ROOT = Path(__file__).parents[2]
PUBLISHED = [path.parent for path in sorted((ROOT / "results" / "published").glob("*/plan.json"))]
DENSE, L1, JOB = "tiny-words-dense-s0", "tiny-words-l1-50-s0", "e-tiny-words-1"
RUNS, TIMINGS = f"jobs/{JOB}/runs.json", f"jobs/{JOB}/timings.json"


def study(folder, methods=({"name": "dense"}, {"name": "l1", "sparsity": 0.5}), **changes):
    return {
        "study": "small",
        "results": str(folder),
        "runs_per_job": 2,
        "models": {"tiny": {"source": "random:bert"}},
        "tasks": {"words": {"source": "some/words", "inputs": ["text"]}},
        "experiments": {"e": {"models": ["tiny"], "tasks": ["words"], "methods": [*methods]}},
    } | changes


def outdated(plan):
    """The outdated files of all jobs, relative to the study's folder."""
    found = [path for name, job in jobs_of(plan).items() for path in outdated_files(plan, name, job)]
    return [str(Path(path).relative_to(plan.study.folder)) for path in found]


@pytest.fixture
def plan(tmp_path):
    """The plan of a finished study of two runs in one job, one of which is timed."""
    made = make_plan(study(tmp_path), "study")
    write_finished(made, tmp_path / "small")
    return made


def run_file(plan, run, kind="run"):
    return Path(plan.study.folder, "runs", run, f"{kind}.json")


def test_nothing_of_a_finished_study_is_outdated(plan):
    assert outdated(plan) == []
    assert is_written(plan)
    assert all(has_record(Path(plan.study.folder), run) for run in plan.runs.values())


def test_a_list_is_outdated_where_it_or_a_file_that_it_names_is_missing(plan):
    for file, lists in (
        (run_file(plan, DENSE), [RUNS]),
        (run_file(plan, L1, "timing"), [TIMINGS]),
        (Path(plan.study.folder, RUNS), [RUNS]),
        (Path(plan.study.folder, TIMINGS), [TIMINGS]),
    ):
        content = file.read_bytes()
        file.unlink()
        assert outdated(plan) == lists
        file.write_bytes(content)
    empty = make_plan(study(plan.study.results, study="empty"), "study")
    assert outdated(empty) == [RUNS, TIMINGS]
    untimed = make_plan(study(plan.study.results, [{"name": "dense"}], study="empty", timing={"seeds": 1}), "study")
    assert {Path(path).name for path in outdated(untimed)} == {"runs.json", "timings.json"}


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"training": {"epochs": 40}}, [RUNS]),
        (
            {"tasks": {"words": {"source": "some/words", "inputs": ["text"], "train_rows": 9}}},
            ["data/words.json", RUNS],
        ),
        ({"models": {"tiny": {"source": "random:bert", "layers": 1}}}, ["models/tiny.json", RUNS]),
        ({"timing": {"repeats": 3}}, [TIMINGS]),
        ({"timing": {"seeds": 5}}, []),
        ({"runs_per_job": 9, "checkpoint_minutes": 1, "keep_models": True}, []),
    ],
)
def test_settings_that_decide_results_are_compared(plan, changes, files):
    assert outdated(make_plan(study(plan.study.results, **changes), "study")) == files


def test_only_the_run_with_other_settings_counts_as_missing(plan):
    methods = [{"name": "dense"}, {"name": "l1", "sparsity": 0.5, "events": 5}]
    changed = make_plan(study(plan.study.results, methods, runs_per_job=1), "study")
    found = {name: has_record(Path(plan.study.folder), run) for name, run in changed.runs.items()}
    assert found == {DENSE: True, L1: False}


def test_a_record_without_a_later_setting_is_kept_and_one_of_another_version_is_not(plan):
    def older(data):
        del data["settings"]["method"]["events"], data["settings"]["training"]["weight_decay"]
        data["environment"]["settings_sha256"] = json_hash(data["settings"])

    def other_version(data):
        data["settings"]["method"]["version"] -= 1
        data["environment"]["settings_sha256"] = json_hash(data["settings"])

    edit(run_file(plan, L1), older)
    assert outdated(plan) == []
    edit(run_file(plan, L1), other_version)
    assert outdated(plan) == [RUNS]


@pytest.mark.parametrize("kind", ["run", "timing"])
def test_a_damaged_record_is_made_again(plan, kind):
    run_file(plan, L1, kind).write_text("{")
    assert outdated(plan) == [RUNS if kind == "run" else TIMINGS]


@pytest.mark.parametrize(("kind", "text"), [("data", '{"sha256": "0"}'), ("data", "{"), ("models", "{}")])
def test_a_manifest_that_can_t_be_read_is_made_again_if_it_is_needed(plan, kind, text):
    (path,) = Path(plan.study.folder, kind).glob("*.json")
    path.write_text(text)  # the first one is that of a version whose manifests had one key less
    assert outdated(plan) == []
    made, files = f"{kind}/{path.name}", ((L1, "timing", TIMINGS), (DENSE, "run", RUNS))
    for run, file, listed in files:
        content = run_file(plan, run, file).read_bytes()
        run_file(plan, run, file).unlink()
        assert outdated(plan) == [made, listed]
        run_file(plan, run, file).write_bytes(content)


def test_a_plan_is_written_again_if_it_has_another_content_or_order(plan):
    path = Path(plan.study.folder, "plan.json")
    other = study(plan.study.results, [{"name": "l1", "sparsity": 0.5}, {"name": "dense"}])
    assert not is_written(make_plan(other, "study"))
    assert not is_written(make_plan(study(plan.study.results, training={"epochs": 40}), "study"))
    for text in ("{", "[]", "[" * 100_000):
        path.write_text(text)
        assert not is_written(plan)
    path.unlink()
    assert not is_written(plan)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_the_published_records_have_the_settings_of_their_studies(folder):
    config = ROOT / "config" / f"{'config' if folder.name == 'demo' else folder.name}.yaml"
    planned = make_plan(read_study([config]) | {"skip_absent_data": False}, config.name, ROOT / "config").runs
    names = [name for name in planned if (folder / "runs" / name / "run.json").exists()]
    assert len(names) == len(json.loads((folder / "plan.json").read_text())["runs"])
    assert [name for name in names if not has_record(folder, planned[name])] == []


def test_ten_thousand_records_are_compared_in_seconds(tmp_path):
    made = make_plan(study(tmp_path), "study")
    write_finished(made, tmp_path / "small")
    start = time.process_time()
    for _ in range(500):
        assert outdated(made) == []
    assert (time.process_time() - start) / 1000 < 3e-3  # of a core and run; a fifth is usual
