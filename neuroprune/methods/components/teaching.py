"""A teacher for methods that remove units at events: its predictions take the labels' place."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from neuroprune.methods.components.distillation import Distillation, copy_of, load_teacher, weights_of
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.hooks import Run, State

OWN = "run"


class Teaching:
    """Distils the predictions of a dense teacher until `detach`.

    Args:
        teacher: None for no teacher; `run`: the model as it is before its first removal; else a folder.
        temperature: What softens the predictions, > 0.
    """

    def __init__(self, teacher: str | None, temperature: float) -> None:
        self._teacher, self._temperature = teacher, temperature
        self._distillation: Distillation | None = None

    def start(self, run: Run) -> None:
        """Begin if the teacher is in a folder."""
        if self._teacher not in (None, OWN):
            self._learn_from(run, load_teacher(str(self._teacher), run.model))

    def before_removal(self, run: Run) -> None:
        """Begin if the teacher is the model itself, which is still whole."""
        if self._teacher == OWN and self._distillation is None:
            self._learn_from(run, copy_of(run.model, weights_of(run.model)))

    def state_dict(self) -> State:
        """Return whether there is a teacher at work, and its weights if they are in no folder."""
        found = self._distillation
        weights = nest("teacher", weights_of(found.teacher)) if found is not None and self._teacher == OWN else {}
        return {} if self._teacher is None else {"teaching": found is not None} | weights

    def resume(self, run: Run, state: Mapping[str, object]) -> None:
        """Restore `state_dict`."""
        if state.get("teaching") and self._teacher == OWN:
            self._learn_from(run, copy_of(run.model, unnest("teacher", state)))
        else:
            self.start(run)

    def detach(self) -> None:
        """Give the model its own loss back."""
        if self._distillation is not None:
            self._distillation.detach()
            self._distillation = None

    def _learn_from(self, run: Run, teacher: torch.nn.Module) -> None:
        nothing = torch.zeros(0, dtype=torch.bool)
        self._distillation = Distillation(run.model, teacher, 0.0, self._temperature, lambda: nothing)
