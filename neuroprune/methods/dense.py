"""Plain fine-tuning: what the other methods are compared with."""

from __future__ import annotations

from neuroprune.config.settings import DenseSettings
from neuroprune.methods.callback import Method


class Dense(Method):
    """Fine-tune the whole model and remove nothing."""

    settings_class = DenseSettings
    cuts = False
