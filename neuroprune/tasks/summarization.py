"""Summarization, evaluated by ROUGE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuroprune.config.settings import TaskSettings
from neuroprune.files.packages import RESOURCES
from neuroprune.tasks import text_pairs


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> text_pairs.TextPairs:
    """Read a task's rows; see `neuroprune.tasks.load`."""
    return text_pairs.load(task, data_root, resources, judge, lead)


def judge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return ROUGE-1, -2, -L and -Lsum of summaries, each in [0, 1].

    Args:
        predictions: Generated summaries.
        references: Reference summaries, row by row.

    Returns:
        The values, with the keys of the hub's metric.
    """
    from neuroprune.tasks.text_metrics import rouge

    return rouge(predictions, references)


def lead(sources: Sequence[str], summaries: Sequence[str]) -> list[str]:
    """Return the lead baseline: each source's first words, as many as summaries have on average.

    Args:
        sources: Texts to summarize.
        summaries: The training rows' summaries, at least one.

    Returns:
        The beginning of each source, with single spaces between words.
    """
    words = round(sum(len(summary.split()) for summary in summaries) / len(summaries))
    return [" ".join(source.split()[:words]) for source in sources]
