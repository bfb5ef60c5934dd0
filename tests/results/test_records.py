"""Records: round trip, rejection of foreign files in one sentence, and atomic writes."""

import errno
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from helpers import results
from neuroprune.config import canonical
from neuroprune.config.training import TrainingSettings
from neuroprune.errors import UserError
from neuroprune.files import atomic
from neuroprune.results import environment, records
from neuroprune.results.runs import read_runs


@pytest.fixture
def record():
    return results.record(results.settings(method={"name": "neuroprune", "sparsity": 0.8}))


def test_a_record_is_read_as_it_was_written(tmp_path, record):
    path = tmp_path / "new" / "run.json"
    atomic.write_json(path, record)
    assert records.read_record(path) == record
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


def test_a_timing_is_read_as_it_was_written(tmp_path, record):
    timing = results.timing(record.settings, 0.8)
    atomic.write_json(tmp_path / "timing.json", timing)
    assert records.read_timing(tmp_path / "timing.json") == timing


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "; run the study first"),
        ("{", "not a JSON file"),
        ("[]", "version None"),
        ('{"schema_version": 0}', "version 0 cannot be read, this program writes version 1"),
        ('{"schema_version": 1}', "run: Field required (and 4 more)"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, content, part):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        records.read_record(path)
    assert part in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"run": "other"}, "run 'other' and settings.run"),
        ({"status": "fine"}, "status: Input should be 'done', 'diverged' or 'stopped'"),
    ],
)
def test_a_foreign_record_is_refused(tmp_path, record, change, part):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record.model_dump(mode="json") | change))
    with pytest.raises(UserError, match=part):
        records.read_record(path)


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [
        (("sparsity", "weights"), 5, "result.sparsity.weights"),
        (("sparsity", "heads"), -0.5, "result.sparsity.heads"),
        (("sparsity", "parameters"), -1, "result.sparsity.parameters"),
        (("sparsity", "heads_per_layer"), [4, -1, 4], "result.sparsity.heads_per_layer.1"),
        (("eval_rows",), 0, "result.eval_rows"),
        (("train_rows",), 0, "result.train_rows"),
        (("steps",), -1, "result.steps"),
        (("epochs",), -2, "result.epochs"),
        (("train_seconds",), -5, "result.train_seconds"),
        (("files",), {"../../x.safetensors": "0" * 64}, "result.files"),
        (("files",), {"/etc/passwd": "0" * 64}, "result.files"),
        (("value",), 0.123, "must be the same"),
    ],
)
def test_a_result_that_no_run_can_have_is_refused(tmp_path, record, place, value, key):
    edited = record.model_dump(mode="json")
    *above, last = ("result", *place)
    inner = edited
    for part in above:
        inner = inner[part]
    inner[last] = value
    (tmp_path / "run.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match=re.escape(key)):
        records.read_record(tmp_path / "run.json")


@pytest.mark.parametrize("name", ["device", "cpu"])
def test_a_machine_without_a_name_is_refused(tmp_path, record, name):
    written = record.model_dump(mode="json")
    written["environment"][name] = ""
    (tmp_path / "run.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=rf"environment\.{name}: String should have at least 1 character"):
        records.read_record(tmp_path / "run.json")


@pytest.mark.parametrize("name", ["batch_size", "examples"])
def test_times_of_no_rows_are_refused(tmp_path, record, name):
    written = results.timing(record.settings, 0.0).model_dump(mode="json")
    written["batches"][0][name] = 0
    (tmp_path / "timing.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=rf"batches\.0\.{name}: Input should be greater than or equal to 1"):
        records.read_timing(tmp_path / "timing.json")


def test_quartiles_that_do_not_ascend_are_refused():
    assert records.Quartiles(q1=1.0, median=1.0, q3=2.0).q3 == 2.0
    with pytest.raises(ValueError, match=re.escape("q1 3.0, median 2.0 and q3 4.0 must ascend")):
        records.Quartiles(q1=3.0, median=2.0, q3=4.0)


def test_a_metric_above_one_is_refused_although_it_stands_in_both_places(tmp_path, record):
    edited = record.model_dump(mode="json")
    edited["result"] |= {"value": 7.0, "metrics": {edited["result"]["metric"]: 7.0}}
    (tmp_path / "run.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match=re.escape("value 7.0 of accuracy must be a fraction, not a percentage")):
        records.read_record(tmp_path / "run.json")


def test_a_record_of_another_version_of_its_method_says_so(tmp_path, record):
    written = record.model_dump(mode="json")
    written["settings"]["method"]["version"] = 0
    (tmp_path / "run.json").write_text(json.dumps(written))
    name = record.settings.method.name
    with pytest.raises(UserError, match=f"made by version 0 of {name}, whose results differ from this version"):
        records.read_record(tmp_path / "run.json")


def test_numbers_that_are_not_finite_become_null(tmp_path):
    atomic.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": float("-inf")}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.json"
    atomic.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic.write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        atomic.write_text(path, "half \ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_of_settings_depends_on_values_alone():
    one, same, other = TrainingSettings(epochs=2), TrainingSettings(epochs=2.0), TrainingSettings(epochs=3)
    assert canonical.settings_hash(one) == canonical.settings_hash(same) != canonical.settings_hash(other)


def test_the_hash_of_a_file_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert atomic.file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@hypothesis_settings(deadline=None)  # it writes files
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_patterns_survive_packing(tmp_path_factory, rows, columns, seed):
    present = np.random.default_rng(seed).random((rows, columns)) < 0.5
    packed = records.pack_patterns({"q.3": present})
    assert packed["q.3"].shape == (rows, -(-columns // 8))
    path = tmp_path_factory.mktemp("p") / "patterns.safetensors"
    save_file(packed, path)
    np.testing.assert_array_equal(records.read_patterns(path)["q.3"], present)


def test_patterns_of_a_large_model_are_thinned_to_the_room_they_have(tmp_path):
    draw = np.random.default_rng(0)
    patterns = {"q.12": draw.random((2048, 2048)) < 0.2, "in.12": np.ones((8192, 2048), dtype=bool)}
    patterns["in.12"][:4096] = False
    packed = records.pack_patterns(patterns, room=300_000)
    assert sum(array.nbytes for array in packed.values()) < 300_100 and packed["every"] == [3]
    save_file(packed, tmp_path / "patterns.safetensors")
    found = records.read_patterns(tmp_path / "patterns.safetensors")
    assert {name: mask.shape for name, mask in found.items()} == {name: mask.shape for name, mask in patterns.items()}
    assert found["q.12"].mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(found["q.12"][::3, ::3], patterns["q.12"][::3, ::3])
    assert not found["in.12"][:4095].any() and found["in.12"][4098:].all()


def test_a_damaged_array_file_is_named(tmp_path):
    (tmp_path / "degrees.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"degrees.safetensors: cannot be read"):
        records.read_arrays(tmp_path / "degrees.safetensors")


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True)


def test_the_commit_is_recorded_and_a_change_makes_it_dirty(tmp_path):
    code = tmp_path / "package"
    code.mkdir()
    (code / "a.py").write_text("1\n")
    assert environment.git_state(code) == (None, None)
    git(tmp_path, "init")
    assert environment.git_state(code) == (None, None), "a folder that git does not track has no commit"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    (tmp_path / "notes.txt").write_text("outside the package\n")
    commit, dirty = environment.git_state(code)
    assert (len(commit), dirty) == (40, False)
    (code / "b.py").write_text("2\n")
    assert environment.git_state(code) == (commit, True)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_state(tmp_path) == (None, None)


def test_the_environment_names_what_computes():
    found = environment.environment(threads=3, device="some GPU")
    assert (found["threads"], found["device"]) == (3, "some GPU")
    assert {"python", "torch", "transformers", "numpy", "neuroprune"} <= set(found["versions"])
    assert found["cpu"]
    assert found["started"].endswith("+00:00")
    environment.Environment(**found, settings_sha256="0" * 64)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/b", "", ".x", 5, None, [1], {}])
def test_a_plan_names_runs_and_no_other_files(tmp_path, name):
    plan = {"runs": {name: {}}, "timed": []} if isinstance(name, str) else {"runs": {}, "timed": [name]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="is not a valid run name; plan the study again or delete the file"):
        records.read_plan(tmp_path)


def test_files_of_countless_brackets_are_no_json(tmp_path):
    for name in ("plan.json", "run.json"):
        (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as a plan"):
        records.read_plan(tmp_path)
    with pytest.raises(UserError, match="not a JSON file"):
        records.read_record(tmp_path / "run.json")


def test_a_table_without_permission_is_not_called_missing(monkeypatch, tmp_path):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pandas.read_csv", refuse)
    with pytest.raises(UserError, match=r"runs\.csv: Permission denied; ask the owner for access"):
        read_runs(tmp_path)


def test_files_without_permission_are_not_to_be_deleted(monkeypatch, tmp_path):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "plan.json").write_text("{}")
    monkeypatch.setattr(Path, "read_text", refuse)
    for read, name in ((records.read_record, "run.json"), (lambda path: records.read_plan(path.parent), "plan.json")):
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert str(error.value) == (
            f"{tmp_path / name}: Permission denied; ask the owner for access, or choose another folder."
        )
