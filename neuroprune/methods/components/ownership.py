"""Ownership of a model by a method, stored on the model, so that leftovers of an interrupted run can be removed.

A run may end without notice to its method: by an exception, a keyboard interrupt, or a Trainer that starts again with a
smaller batch. Hooks and frozen parameters then stay on the model, which may continue with another method object.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from neuroprune.errors import UserError

HOLD = "_neuroprune_hold"
"""Attribute of a model that is held; not a dictionary of models, which would keep those of interrupted runs alive."""


class Holder(Protocol):
    """A method, which may hold a model."""

    def abandon(self) -> None:
        """Remove everything that belongs to the method from the model."""


class Hold:
    """A method's work on a model.

    Args:
        method: The method.
        run: Its run.
        training: An object that all methods of the same training share: the Trainer's state, or the optimizer.
    """

    def __init__(self, method: Holder, run: Any, training: Any) -> None:
        self.method, self.run, self.training, self.begun_at = method, run, training, run.step

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as None: a copy of the model is held by nobody."""
        return type(None), ()

    def forbids(self, method: Holder, training: Any) -> bool:
        """Return whether another method is refused: both belong to one training, which has just begun."""
        return method is not self.method and training is self.training and self.run.step == self.begun_at


def hold(model: nn.Module, method: Holder, run: Any, training: Any) -> None:
    """Let a method take over a model; leftovers of an interrupted run are removed first.

    Args:
        model: The model; it remembers who holds it.
        method: The method that begins.
        run: Its run.
        training: See `Hold`.

    Raises:
        UserError: If another method works on the model in the same training.
    """
    earlier = model.__dict__.get(HOLD)
    if earlier is not None and earlier.forbids(method, training):
        raise UserError(
            f"{type(earlier.method).__name__} and {type(method).__name__} would both prune the same model in one "
            "training; give the Trainer one of them (or call abandon() of the one whose training is over)."
        )
    abandon_earlier(model)
    model.__dict__[HOLD] = Hold(method, run, training)


def abandon_earlier(model: nn.Module) -> None:
    """Remove from a model what an interrupted run has left on it."""
    earlier = model.__dict__.pop(HOLD, None)
    if earlier is not None:
        earlier.method.abandon()


def release(model: nn.Module, method: Holder) -> None:
    """End a method's hold on a model, if it has one."""
    earlier = model.__dict__.get(HOLD)
    if earlier is not None and earlier.method is method:
        del model.__dict__[HOLD]
