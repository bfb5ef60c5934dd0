"""Sequential execution of tasks in forks of this process, which has already loaded the libraries.

A task may fail or be killed without affecting the others. Its output goes to its own log. No accelerator may be used
before the fork, because a CUDA context does not survive one.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuroprune.errors import UserError
from neuroprune.files import failures

_BAR = re.compile(r"\d%\|")  # progress bars of tqdm


@dataclass(frozen=True)
class ForkedTask:
    """A task for a fork.

    Args:
        name: Its name, for messages.
        log: File for its output; the folder is created.
        work: Function to call in the fork. For a `UserError`, only the message is printed.
        after: Function that the parent process calls after success.
    """

    name: str
    log: Path
    work: Callable[[], None]
    after: Callable[[], None]


def run_in_forks(forked_tasks: Sequence[ForkedTask]) -> list[ForkedTask]:
    """Run tasks one after another; print a line for each with its time and the total remaining time.

    Args:
        forked_tasks: The tasks, in order.

    Returns:
        The tasks that failed.
    """
    failed = []
    gc.freeze()  # the libraries' objects, or every fork's collections would walk through them and copy their memory
    start = time.monotonic()
    for number, task in enumerate(forked_tasks, start=1):
        begun = time.monotonic()
        code = _run_in_fork(task)
        if code:
            failed.append(task)
        else:
            task.after()
        now = time.monotonic()
        outcome = f"failed ({_last_line(task.log) or f'exit code {code}'})" if code else "done"
        left = (now - start) / number * (len(forked_tasks) - number)
        line = f"{number} of {len(forked_tasks)}: {task.name} {outcome} in {now - begun:.0f} s, about {left:.0f} s left"
        print(line, flush=True)
    return failed


def _run_in_fork(task: ForkedTask) -> int:
    """Run a task in a fork; return its exit code: 0 after success, negative if the fork was killed."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=[task])
    process.start()
    try:
        process.join()
    except BaseException:  # such as Ctrl-C
        with suppress(ProcessLookupError):
            os.killpg(process.ident or 0, signal.SIGKILL)
        raise
    return process.exitcode or 0


def _work(task: ForkedTask) -> None:
    """In the fork: redirect the output to the log, run the task, and end no later than the parent process."""
    from neuroprune import distributed  # imports torch, which the parent may not need

    os.setpgid(0, 0)
    distributed.end_with_parent(group=True)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    task.log.unlink(missing_ok=True)  # the log of an interrupted run may be kept under a second name
    with task.log.open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        task.work()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if (text := failures.sentence(error)) is None:
            raise
        print(text, file=sys.stderr)
        sys.exit(1)


def _last_line(log: Path) -> str:
    """Return the last line of a log that is neither empty nor a progress bar, such as an error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip() and not _BAR.search(line)), "")
