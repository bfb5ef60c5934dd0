"""Plain fine-tuning, the baseline of all comparisons."""

from __future__ import annotations

from neuroprune.config.methods import DenseSettings
from neuroprune.methods.callback import Method
from neuroprune.methods.hooks import Hooks


class Dense(Method):
    """Fine-tune the whole model and remove nothing."""

    settings_class = DenseSettings
    cuts = False

    def make_strategy(self) -> Hooks:
        """Return hooks that do nothing."""
        return Hooks(self.settings)
