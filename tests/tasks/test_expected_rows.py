"""A dataset of unexpected size is rejected during preparation."""

import pytest

from neuroprune import tasks
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError


def settings(folder, **changes):
    row = {"name": "t", "source": str(folder), "inputs": ["text"], "eval_split": "test"}
    return TaskSettings.model_validate(row | changes)


@pytest.fixture
def folder(tmp_path):
    rows = "text,label\n" + "".join(f"word {n},{n % 2}\n" for n in range(6))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(rows)
    return tmp_path


def test_the_rows_of_the_training_split_are_compared_with_the_expected_number(folder, tmp_path):
    assert tasks.prepare(settings(folder, expected_rows=6, train_rows=4), tmp_path)["splits"]["train"] == 4
    with pytest.raises(UserError, match="has 6 rows, but expected_rows is 7"):
        tasks.prepare(settings(folder, expected_rows=7), tmp_path)


def test_settings_without_an_expected_number_are_what_they_were(folder):
    assert "expected_rows" not in settings(folder).model_dump()
    assert settings(folder, expected_rows=6).model_dump()["expected_rows"] == 6
