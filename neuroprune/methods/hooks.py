"""Interface between methods and training: the run's state, and the five hooks that methods implement."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from neuroprune.errors import UserError
from neuroprune.pruning.blocks import Blocks, find_blocks, unwrapped

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""State of a method for resuming a run: tensors and JSON-serializable values by name."""

ASSUMED_BATCH = 32  # assumed rows per optimizer step if a bare loop does not set `batch_size`


@dataclass
class Run:
    """A training run and its progress.

    Args:
        model: The model being trained. A module around a single transformers model, such as a SentenceTransformer, is
            replaced by that model.
        optimizer: Its optimizer; accelerate's wrapper is removed.
        scheduler: The learning-rate schedule, or None for a constant rate; accelerate's wrapper is removed.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of one epoch.
        batch_size: Rows per optimizer step, those of all accumulated passes; 32 are assumed if it is not given.
        step: Completed optimizer steps; a bare loop increments it between `optimizer.step()` and `after_step`.
        loss_rows: Number of rows over which the loss of a pass is averaged, if different from the rows in the pass.
        training: An object that identifies the training, shared by all its methods; default: the optimizer.

    Attributes:
        wrapped: Whether the model is inside another module, which may call its `forward` directly.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any | None = None
    total_steps: int = 0
    steps_per_epoch: int = 0
    batch_size: int | None = None
    step: int = 0
    loss_rows: float | None = None
    training: Any | None = None
    wrapped: bool = field(init=False)
    _assumed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        model, self.model = self.model, unwrapped(self.model)
        self.wrapped = self.model is not model
        self.optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        self.scheduler = getattr(self.scheduler, "scheduler", self.scheduler)
        if self.total_steps < 1:
            raise UserError(
                f"Run(total_steps={self.total_steps}): the number of optimizer steps must be known and at least 1, "
                "because pruning events are planned as fractions of it. For a dataset without a length, set max_steps."
            )

    @cached_property
    def blocks(self) -> Blocks:
        """The model's attentions and MLPs; the views remain valid when units are removed."""
        return find_blocks(self.model)

    def steps_for(self, rows: int) -> int:
        """Return the smallest number of optimizer steps that read at least `rows` rows.

        Warn once if the number of rows per step has to be assumed.
        """
        if self.batch_size is None and not self._assumed:
            self._assumed = True
            logger.warning("Run(batch_size=…) is not given: %d rows per optimizer step are assumed.", ASSUMED_BATCH)
        return -(-rows // (self.batch_size or ASSUMED_BATCH))

    def learning_rates(self) -> dict[nn.Parameter, float]:
        """Return the current learning rate of every parameter in the optimizer that is not frozen."""
        return self._by_parameter([group["lr"] for group in self.optimizer.param_groups])

    def peak_rates(self) -> dict[nn.Parameter, float]:
        """Return the learning rates at the schedule's peak, or the current ones without a schedule."""
        return self._by_parameter(self.group_peaks())

    def group_peaks(self) -> list[float]:
        """Return each parameter group's largest rate: cyclic schedules name it, others start from it."""
        groups = self.optimizer.param_groups
        named = [group.get("max_lr", group.get("initial_lr", group["lr"])) for group in groups]  # OneCycleLR: max_lr
        return [float(peak) for peak in getattr(self.scheduler, "max_lrs", named)]  # CyclicLR: max_lrs

    def _by_parameter(self, rates: Sequence[float]) -> dict[nn.Parameter, float]:
        groups = zip(self.optimizer.param_groups, rates, strict=True)
        return {parameter: rate for group, rate in groups for parameter in group["params"] if parameter.requires_grad}

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate of a run with a `LambdaLR` schedule from now on.

        Args:
            factor: Applied to the optimizer's current rate and to the schedule's base rates, so that the order of this
                call and the schedule's step does not matter.
        """
        assert self.scheduler is not None
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        self.scheduler.base_lrs = [rate * factor for rate in self.scheduler.base_lrs]


class Hooks:
    """The five hooks of a training run, which do nothing by default.

    A bare PyTorch loop calls them itself::

        steps = len(loader)
        run = Run(model, optimizer, scheduler, steps * epochs, steps_per_epoch=steps, batch_size=loader.batch_size)
        method.start(run)
        model.train()
        for _ in range(epochs):
            for batch in loader:
                model(**batch).loss.backward()
                method.before_step(run)
                optimizer.step()
                run.step += 1
                method.after_step(run)
                scheduler.step()
                optimizer.zero_grad()
            method.epoch_end(run)
        method.finish(run)

    A run can be interrupted after any step and resumed in another process. `state_dict` returns the method's state, in
    addition to those of the model, the optimizer and the schedule. After restoring these, call `resume` instead of
    `start`.

    Args:
        settings: The method's settings.

    Attributes:
        report: Sparsity and removed units at each event, JSON-serializable.
        settles: Whether `settled` can become true during a run.
        heads_only: Whether the method removes only heads.
        adds_gradients: Whether `before_step` adds to the gradients.
    """

    settles: ClassVar[bool] = False
    heads_only: bool = False
    adds_gradients: bool = False

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.report: dict[str, Any] = {}

    @property
    def settled(self) -> bool:
        """Whether a checkpoint can already replace the final model: shapes and zeros no longer change."""
        return False

    def start(self, run: Run) -> None:
        """Act before the first step."""

    def state_dict(self) -> State:
        """Return the state for `resume` after a step: tensors and JSON-serializable values by name."""
        return {}

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Continue after `run.step` steps; called instead of `start`.

        Args:
            run: The restored run, with the model's shapes and weights and the optimizer state of its original
                parameters. A method restores the state of parameters that it adds.
            state: The result of `state_dict`, with tensors on the CPU.
        """
        self.start(run)

    def before_step(self, run: Run) -> None:
        """Act before the optimizer's step, when the gradients are complete and clipped."""

    def after_step(self, run: Run) -> None:
        """Act after the optimizer's step; `run.step` already includes it."""

    def epoch_end(self, run: Run) -> None:
        """Act after an epoch."""

    def finish(self, run: Run) -> None:
        """Act after the last step."""

    def abandon(self) -> None:
        """Remove hooks and unfreeze parameters; may be called at any time and repeatedly."""
