"""Distillation for methods with removal events: a teacher's predictions and hidden states replace the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from neuroprune.methods.components.distillation import Distillation, copy_of, load_teacher, weights_of
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.hooks import Run, State
from neuroprune.pruning.kept_units import read_record

OWN = "run"


class Teaching:
    """Distil the predictions of a dense teacher, and optionally its hidden states, until `detach`.

    Args:
        teacher: None for no teacher, `run` for the model before its first removal, or a folder.
        temperature: Temperature of the softened predictions, > 0.
        layer_share: Weight of the hidden states in the loss, 0 to 1.
    """

    def __init__(self, teacher: str | None, temperature: float, layer_share: float = 0.0) -> None:
        self._teacher, self._temperature, self._layer_share = teacher, temperature, layer_share
        self._distillation: Distillation | None = None

    def start(self, run: Run) -> None:
        """Start distillation if the teacher is in a folder."""
        if self._teacher not in (None, OWN):
            self._learn_from(run, load_teacher(str(self._teacher), run.model))

    def before_removal(self, run: Run) -> None:
        """Start distillation if the teacher is the still uncut model itself."""
        if self._teacher == OWN and self._distillation is None:
            self._learn_from(run, copy_of(run.model, weights_of(run.model), read_record(run.model)))

    def step(self, run: Run) -> None:
        """Update the map between hidden states with the model's learning rate."""
        if self._distillation is not None and self._layer_share:
            self._distillation.step(run.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> State:
        """Return whether a teacher is active, its weights if they are not in a folder, and the map between layers."""
        found = self._distillation
        if self._teacher is None or found is None:
            return {} if self._teacher is None else {"teaching": False}
        weights: State = {}
        if self._teacher == OWN:
            weights = nest("teacher", weights_of(found.teacher)) | {"teacher_record": read_record(found.teacher)}
        layers = nest("layers", found.state_dict()) if self._layer_share else {}
        return {"teaching": True} | weights | layers

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        if state.get("teaching") and self._teacher == OWN:
            self._learn_from(run, copy_of(run.model, unnest("teacher", state), state.get("teacher_record")))
        else:
            self.start(run)
        if self._layer_share and self._distillation is not None and state.get("teaching"):
            self._distillation.load_state(unnest("layers", state))

    def detach(self) -> None:
        """Restore the model's own loss."""
        if self._distillation is not None:
            self._distillation.detach()
            self._distillation = None

    def _learn_from(self, run: Run, teacher: torch.nn.Module) -> None:
        def alive() -> torch.Tensor:
            return torch.tensor([mlp.units > 0 for mlp in run.blocks.mlps])

        self._distillation = Distillation(run.model, teacher, self._layer_share, self._temperature, alive)
