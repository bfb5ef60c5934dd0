"""Distillation for methods with removal events: a teacher's predictions replace the labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from neuroprune.methods.components.distillation import Distillation, copy_of, load_teacher, weights_of
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.hooks import Run, State

OWN = "run"


class Teaching:
    """Distil the predictions of a dense teacher until `detach`.

    Args:
        teacher: None for no teacher, `run` for the model before its first removal, or a folder.
        temperature: Temperature of the softened predictions, > 0.
    """

    def __init__(self, teacher: str | None, temperature: float) -> None:
        self._teacher, self._temperature = teacher, temperature
        self._distillation: Distillation | None = None

    def start(self, run: Run) -> None:
        """Start distillation if the teacher is in a folder."""
        if self._teacher not in (None, OWN):
            self._learn_from(run, load_teacher(str(self._teacher), run.model))

    def before_removal(self, run: Run) -> None:
        """Start distillation if the teacher is the still uncut model itself."""
        if self._teacher == OWN and self._distillation is None:
            self._learn_from(run, copy_of(run.model, weights_of(run.model)))

    def state_dict(self) -> State:
        """Return whether a teacher is active, with its weights if they are not in a folder."""
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
        """Restore the model's own loss."""
        if self._distillation is not None:
            self._distillation.detach()
            self._distillation = None

    def _learn_from(self, run: Run, teacher: torch.nn.Module) -> None:
        nothing = torch.zeros(0, dtype=torch.bool)
        self._distillation = Distillation(run.model, teacher, 0.0, self._temperature, lambda: nothing)
