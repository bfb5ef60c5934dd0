"""The metrics of text, with the keys that the hub's `rouge` and `sacrebleu` metrics give.

They are `evaluate.Metric`s of our own, so that `add_batch`, `compute`, `combine` and `save` work without the hub.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
import sacrebleu
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer


class TextMetric(evaluate.Metric):
    """A metric that compares a written text with one reference, row by row."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions and references: texts",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )


class Rouge(TextMetric):
    """Mean F1 over rows of common words, word pairs, and longest common subsequences (Lin 2004).

    Words are lower case and stemmed, as in transformers' summarization example, whose figures the paper's agree with.
    ROUGE-Lsum compares sentence by sentence: where a text has no line breaks, a sentence ends at `.`, `!` or `?`.
    The hub's metric gives a bootstrap estimate of the same mean.
    """

    KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        scorer = RougeScorer(self.KINDS, use_stemmer=True)
        pairs = zip(references, predictions, strict=True)
        rows = [scorer.score(sentences(truth), sentences(written)) for truth, written in pairs]
        return {kind: float(np.mean([row[kind].fmeasure for row in rows])) for kind in self.KINDS}


class SacreBleu(TextMetric):
    """BLEU of the whole set (Papineni et al. 2002) as sacrebleu's defaults have it: cased, 13a words, in percent."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        found = sacrebleu.corpus_bleu(list(predictions), [list(references)])
        names = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")
        return {name: getattr(found, name) for name in names}


def sentences(text: str) -> str:
    """Return a text with each sentence on a line of its own."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())
