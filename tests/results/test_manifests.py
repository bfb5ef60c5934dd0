"""Manifests of prepared data and models."""

from functools import cached_property
from types import SimpleNamespace

import pytest
from datasets import Dataset
from test_text_pairs import own, pairs

from neuroprune import tasks
from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json
from neuroprune.results.manifests import Prepared


class Counted:
    """Data that counts how often the copying metric is computed."""

    sha256 = "a"
    judged = 0

    @cached_property
    def copied(self):
        self.judged += 1
        return 0.25


def test_manifests_are_read(tmp_path):
    for split in ("train", "validation"):
        Dataset.from_list(pairs(4)).to_json(tmp_path / f"{split}.json")
    data = tasks.load(own(tmp_path), tmp_path)
    write_json(tmp_path / "data-manifest.json", tasks.prepare(own(tmp_path), tmp_path))
    write_json(tmp_path / "model-manifest.json", {"sha256": "b"})
    read = Prepared.read(tmp_path / "data-manifest.json", tmp_path / "model-manifest.json")
    assert read == Prepared(data.sha256, "b", data.copied)


def test_copies_are_judged_once_for_all_runs_unless_their_rows_changed():
    data = Counted()
    assert Prepared("a", "b", 0.5).value_of_copying(data) == 0.5
    assert data.judged == 0
    assert Prepared("another", "b", 0.5).value_of_copying(data) == 0.25
    assert data.judged == 1


def test_classes_can_t_be_copied():
    assert Prepared("a", "b").value_of_copying(SimpleNamespace(sha256="a", copied=None)) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"sha256": 5, "copied": null}', '{"sha256": "a"}', '{"sha256": "a", "copied": "0.5"}']
)
def test_a_damaged_manifest_is_named(content, tmp_path):
    write_json(tmp_path / "model.json", {"sha256": "b"})
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(UserError, match=r"data\.json is damaged; delete it and start the study again"):
        Prepared.read(tmp_path / "data.json", tmp_path / "model.json")
