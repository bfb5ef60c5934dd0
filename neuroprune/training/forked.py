"""Pieces of work one after another, each in a fork of this process, which has the libraries loaded.

A piece may fail or be killed without harm to the others; what it prints goes to a file of its own. No accelerator may
be touched before: a CUDA context does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuroprune.errors import UserError


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Args:
        name: What to call it.
        log: File for what it prints; its folder is made.
        work: What is to be done; a `UserError` is printed as its sentence.
        after: What this process does when the work is done.
    """

    name: str
    log: Path
    work: Callable[[], None]
    after: Callable[[], None]


def in_turn(pieces: Sequence[Piece]) -> list[Piece]:
    """Do all pieces, and print a line about each: its number, seconds and, by the mean so far, the time left.

    Args:
        pieces: In the order in which they are done.

    Returns:
        Those that failed.
    """
    failed = []
    start = time.monotonic()
    for number, piece in enumerate(pieces, start=1):
        begun = time.monotonic()
        code = _do_in_fork(piece)
        if code:
            failed.append(piece)
        else:
            piece.after()
        now = time.monotonic()
        outcome = f"failed ({_last_line(piece.log) or f'exit code {code}'})" if code else "done"
        left = (now - start) / number * (len(pieces) - number)
        line = f"{number} of {len(pieces)}: {piece.name} {outcome} in {now - begun:.0f} s, about {left:.0f} s left"
        print(line, flush=True)
    return failed


def _do_in_fork(piece: Piece) -> int:
    """Return the exit code: 0 if all went well, less than 0 if the fork was killed."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=[piece])
    process.start()
    try:
        process.join()
    except BaseException:  # such as Ctrl-C
        with suppress(ProcessLookupError):
            os.killpg(process.ident or 0, signal.SIGKILL)
        raise
    return process.exitcode or 0


def _work(piece: Piece) -> None:
    """In the fork: print to the piece's own file, do the work, and end with the process that started it."""
    from neuroprune import distributed  # imports torch: the process that forks need not have loaded it

    os.setpgid(0, 0)
    distributed.end_with_parent(group=True)
    piece.log.parent.mkdir(parents=True, exist_ok=True)
    piece.log.unlink(missing_ok=True)  # an earlier one may have a second name, under which it is kept
    with piece.log.open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        piece.work()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _last_line(log: Path) -> str:
    """Return the last words of a piece, such as those of an error."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
