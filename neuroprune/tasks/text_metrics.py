"""The metrics of text, with the keys that the hub's `rouge` and `sacrebleu` metrics give."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 over rows of common words, word pairs, and longest common subsequences (Lin 2004).

    Words are lower case and stemmed, as in transformers' summarization example, whose figures the paper's agree with.
    ROUGE-Lsum compares sentence by sentence: where a text has no line breaks, a sentence ends at `.`, `!` or `?`.
    The hub's metric gives a bootstrap estimate of the same mean.

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
    """Return BLEU of the whole set (Papineni et al. 2002) as sacrebleu's defaults have it: cased, 13a words.

    Args:
        predictions: Written texts.
        references: What each is compared with, row by row.

    Returns:
        The score in percent, and the brevity penalty in [0, 1].
    """
    found = sacrebleu.corpus_bleu(list(predictions), [list(references)])
    return found.score, found.bp


def sentences(text: str) -> str:
    """Return a text with each sentence on a line of its own."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())
