"""Errors for users, with one sentence about the problem, its location and its solution."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can correct; the command line prints its text without a traceback."""


class ConfigError(UserError):
    """All mistakes in a configuration, with one sentence each.

    Args:
        problems: One sentence per mistake: file, key, value and allowed values.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known name, or an empty string."""
    close = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
