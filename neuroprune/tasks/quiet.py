"""Logs without progress bars: they are for terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch the progress bars of `datasets` off, and on again if they were."""
    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()
