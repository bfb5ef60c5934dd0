"""Translation, evaluated by BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuroprune.config.settings import TaskSettings
from neuroprune.files.packages import RESOURCES
from neuroprune.tasks import text_pairs


def load(task: TaskSettings, data_root: Path, resources: Path = RESOURCES) -> text_pairs.TextPairs:
    """Read a task's rows; see `neuroprune.tasks.load`."""
    return text_pairs.load(task, data_root, resources, judge, copy)


def judge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return corpus BLEU as a fraction, like all recorded metrics, and its brevity penalty.

    Args:
        predictions: Generated translations.
        references: Reference translations, row by row.

    Returns:
        `bleu`, sacrebleu's score / 100, and `brevity_penalty`, both in [0, 1].
    """
    from neuroprune.tasks.text_metrics import bleu

    score, penalty = bleu(predictions, references)
    return {"bleu": score / 100, "brevity_penalty": penalty}


def copy(sources: Sequence[str], translations: Sequence[str]) -> list[str]:
    """Return the copying baseline, the unchanged sources: names, numbers and punctuation are often correct."""
    return list(sources)
