"""Truncation keeps at least one token of each text, or the task is rejected before training."""

import pytest
from datasets import Dataset

from helpers.data import sentence
from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError
from neuroprune.models.sources import train_text_tokenizer, train_tokenizer
from neuroprune.tasks.class_head import ClassHead
from neuroprune.tasks.generation import Generation
from neuroprune.tasks.label_words import LabelWords
from neuroprune.tasks.span_head import SpanHead
from neuroprune.tasks.token_head import TokenHead

TEXTS = [sentence(number) for number in range(40)]
ROWS = {
    "text": ["a warm film", "dull"],
    "other": ["the story", "long"],
    "words": [["a", "film"], ["dull"]],
    "tags": [[0, 1], [1]],
    "label": [0, 1],
    "answer": ["warm", "dull"],
    "found": [["warm"], ["long"]],
    "answer_start": [[2], [0]],
}


def task(**changes):
    return TaskSettings(**({"name": "t", "source": "me/t", "inputs": ["text"]} | changes))


def single(**changes):
    return ClassHead(task(**changes), train_tokenizer(TEXTS, 60))


def pair(**changes):
    return ClassHead(task(inputs=["text", "other"], **changes), train_tokenizer(TEXTS, 60))


def words(**changes):
    kind = {"kind": "token_classification", "metric": "token_accuracy", "inputs": ["words"], "label": "tags"}
    return TokenHead(task(**kind, **changes), train_tokenizer(TEXTS, 60))


def question(**changes):
    kind = {"kind": "question_answering", "metric": "f1", "inputs": ["other", "text"], "label": "found"}
    return SpanHead(task(**kind, **changes), train_tokenizer(TEXTS, 60), rows=Dataset.from_dict(ROWS))


def names(**changes):
    return LabelWords(task(**changes), ("no", "yes"), train_text_tokenizer(TEXTS, 300))


def summary(**changes):
    kind = {"kind": "summarization", "metric": "rouge1", "label": "answer"}
    return Generation(task(**kind, **changes), [], None, None, train_text_tokenizer(TEXTS, 300))


@pytest.mark.parametrize(
    ("objective", "key", "fewest", "changes"),
    [
        (single, "max_length", 3, {}),
        (pair, "max_length", 5, {}),
        (words, "max_length", 3, {}),
        (question, "max_length", 5, {}),
        (names, "max_length", 10, {}),
        (summary, "max_length", 2, {}),
        (summary, "max_length", 10, {"prefix": "sum up: "}),
        (summary, "answer_length", 2, {}),
    ],
)
def test_a_length_without_room_for_text_is_refused_and_one_token_more_is_not(objective, key, fewest, changes):
    rows = Dataset.from_dict(ROWS)
    assert len(objective(**changes, **{key: fewest}).encode(rows)) == 2
    with pytest.raises(UserError, match=rf"^task t: {key} is {fewest - 1}, .*; set it to at least {fewest}$"):
        objective(**changes, **{key: fewest - 1}).encode(rows)


def test_a_tokenizer_limit_without_room_for_text_is_refused():
    head = single()
    head.tokenizer.model_max_length = 2
    with pytest.raises(UserError, match="the tokenizer's model_max_length is 2, which leaves no room for text"):
        head.encode(Dataset.from_dict(ROWS))
