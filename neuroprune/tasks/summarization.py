"""Summarization: a text in, its summary out, judged by ROUGE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuroprune.resources import RESOURCES
from neuroprune.settings import TaskSettings
from neuroprune.tasks import text_pairs


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> text_pairs.TextPairs:
    """Read a task's rows; see `neuroprune.tasks.load`."""
    return text_pairs.load(task, data_root, resources, judge)


def judge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return ROUGE-1, -2, -L and -Lsum of summaries, each in [0, 1].

    Args:
        predictions: What the model wrote.
        references: What people wrote, row by row.

    Returns:
        The values by the hub's keys.
    """
    from neuroprune.tasks.text_metrics import Rouge

    return Rouge().compute(predictions=list(predictions), references=list(references)) or {}
