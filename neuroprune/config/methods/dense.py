"""Settings of dense fine-tuning."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from neuroprune.config.fields import TASK_KINDS, Settings


class DenseSettings(Settings):
    """Plain fine-tuning, the baseline of all other methods."""

    task_kinds: ClassVar[tuple[str, ...]] = TASK_KINDS
    name: Literal["dense"] = Field(default="dense", description="The method.")
