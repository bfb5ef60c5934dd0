"""Plain fine-tuning: what the other methods are compared with."""

from __future__ import annotations

from neuroprune.methods.base import Method
from neuroprune.settings import DenseSettings


class Dense(Method):
    """Fine-tune the whole model and remove nothing."""

    settings_class = DenseSettings
    cuts = False
