"""Truncation of inputs and text answers, with room for text beside the special tokens."""

from __future__ import annotations

from typing import Any

from neuroprune.config.settings import TaskSettings
from neuroprune.errors import UserError


def longest_input(task: TaskSettings, tokenizer: Any, texts: int = 1, prefix: str = "") -> int:
    """Return the number of tokens to which the inputs of a task are truncated.

    Args:
        task: The task.
        tokenizer: The model's tokenizer.
        texts: Number of texts that are encoded together, 1 or 2.
        prefix: Text put before every input.

    Returns:
        The smaller one of the task's `max_length` and the tokenizer's limit.

    Raises:
        UserError: If special tokens and prefix leave no room for a token of each text.
    """
    longest = min(task.max_length, tokenizer.model_max_length)
    fixed = tokenizer.num_special_tokens_to_add(pair=texts > 1) + _tokens(prefix.rstrip(), tokenizer)
    key = "max_length" if longest == task.max_length else "the tokenizer's model_max_length"
    _check_room(task, key, longest, fixed, texts)
    return int(longest)


def longest_answer(task: TaskSettings, tokenizer: Any) -> int:
    """Return the number of tokens to which text answers are truncated.

    Args:
        task: The task.
        tokenizer: The model's tokenizer.

    Returns:
        The task's `answer_length`.

    Raises:
        UserError: If special tokens leave no room for text.
    """
    _check_room(task, "answer_length", task.answer_length, len(tokenizer(text_target="")["input_ids"]), 1)
    return task.answer_length


def _tokens(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0


def _check_room(task: TaskSettings, key: str, longest: int, fixed: int, texts: int) -> None:
    if longest < fixed + texts:
        room = "both texts" if texts > 1 else "text"
        raise UserError(
            f"task {task.name}: {key} is {longest}, which leaves no room for {room} beside the {fixed} special and "
            f"prefix tokens of each row; set it to at least {fixed + texts}"
        )
