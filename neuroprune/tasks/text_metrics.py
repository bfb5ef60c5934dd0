"""Metrics of generated text, with the keys of the hub's `rouge` and `sacrebleu` metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 over rows of common words, word pairs, and longest common subsequences (Lin 2004).

    Words are lower-cased and stemmed, as in transformers' summarization example, with which the paper's numbers agree.
    ROUGE-Lsum compares sentence by sentence; in a text without line breaks, sentences end at `.`, `!` or `?`. The hub's
    metric gives a bootstrap estimate of the same mean.

    Args:
        predictions: Written texts.
        references: What each is compared with, row by row.

    Returns:
        The values of `ROUGE`, each in [0, 1].
    """
    scorer = RougeScorer(ROUGE, use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    rows = [scorer.score(sentences(truth), sentences(written)) for truth, written in pairs]
    return {kind: float(np.mean([row[kind].fmeasure for row in rows])) for kind in ROUGE}


def bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """Return corpus BLEU (Papineni et al. 2002) with sacrebleu's defaults: cased, 13a tokenization.

    Args:
        predictions: Written texts.
        references: What each is compared with, row by row.

    Returns:
        The score in percent, and the brevity penalty in [0, 1].
    """
    found = sacrebleu.corpus_bleu(list(predictions), [list(references)])
    return found.score, found.bp


def sentences(text: str) -> str:
    """Return a text with each sentence on a separate line."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())
