"""Ownership of a model by a method, stored on the model, so that leftovers of an interrupted run can be cleaned up.

A run may end without notifying its method: through an exception, a keyboard interrupt, or a Trainer that restarts with
a smaller batch. Hooks and frozen parameters then remain on the model, which may be reused with another method object.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from neuroprune.errors import UserError

HOLD = "_neuroprune_hold"
"""Attribute of an owned model. A dictionary of models would keep the models of interrupted runs alive."""


class Holder(Protocol):
    """A method that can own a model."""

    def abandon(self) -> None:
        """Remove all of the method's changes from the model."""


class Hold:
    """A method's ownership of a model.

    Args:
        method: The method.
        run: Its run.
        training: An object shared by all methods of the same training: the Trainer's state or the optimizer.
    """

    def __init__(self, method: Holder, run: Any, training: Any) -> None:
        self.method, self.run, self.training, self.begun_at = method, run, training, run.step

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as None, because a copy of the model has no owner."""
        return type(None), ()

    def forbids(self, method: Holder, training: Any) -> bool:
        """Return whether another method must be rejected: both belong to the same training, which has just begun."""
        return method is not self.method and training is self.training and self.run.step == self.begun_at


def hold(model: nn.Module, method: Holder, run: Any, training: Any) -> None:
    """Make a method the owner of a model after removing leftovers of an interrupted run.

    Args:
        model: The model, which stores its owner.
        method: The starting method.
        run: Its run.
        training: See `Hold`.

    Raises:
        UserError: If another method owns the model in the same training.
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
    """Remove leftovers of an interrupted run from a model."""
    earlier = model.__dict__.pop(HOLD, None)
    if earlier is not None:
        earlier.method.abandon()


def release(model: nn.Module, method: Holder) -> None:
    """End a method's ownership of a model, if it has one."""
    earlier = model.__dict__.get(HOLD)
    if earlier is not None and earlier.method is method:
        del model.__dict__[HOLD]
