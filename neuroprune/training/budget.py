"""Training budget in floating-point operations, equal to the cost of dense fine-tuning.

A step of a pruned model takes fewer operations than a dense one. With `budget: dense_flops`, the saved operations are
spent on more steps. Removal events keep their steps, and the learning rate is unchanged up to the first event. From
there, it decays linearly to 0 at the new end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback

MOST = 100  # largest factor on the number of epochs

Cost = Sequence[Any]  # first step, and operations per forward pass from that step on


@dataclass
class EqualCost:
    """Length and learning rates of a run that costs as much as a number of dense steps.

    Args:
        steps: Number of dense steps.
        warmup: Steps in which the learning rate rises.
        costs: Costs so far; each change of the model's size appends one.
    """

    steps: int
    warmup: int
    costs: list[Cost]

    @property
    def end(self) -> int:
        """The last step."""
        return self.ends()[-1]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step as a fraction of its peak: linear warm-up, then linear decay to the end.

        Args:
            step: Number of preceding steps.

        Returns:
            The fraction; without a change of the model's size, equal to transformers' linear schedule.
        """
        if step < self.warmup:
            return step / max(1, self.warmup)
        begin, peak, last = self.warmup, 1.0, 0
        for (start, _), end in zip(self.costs, self.ends(), strict=True):
            change = max(start, self.warmup)
            if step < change:
                break
            peak *= (last - change) / max(1, last - begin) if change > begin else 1.0
            begin, last = change, end
        return max(0.0, peak * (last - step) / max(1, last - begin))

    def ends(self) -> list[int]:
        """Return the last step according to the first cost, the first two costs, and so on."""
        ends, left, (before, dense) = [], float(self.steps), self.costs[0]
        now = dense
        for start, cost in self.costs:
            left -= (start - before) * now / dense
            ends.append(max(start, start + int(left * (dense / cost))))
            before, now = start, cost
        return ends


class DenseBudget(TrainerCallback):
    """Callback that ends training when its steps have cost as much as the planned number of dense steps.

    It must precede the method in the Trainer's callbacks, so that the method plans its events for the dense steps. The
    Trainer's number of epochs must be multiplied by `MOST`.

    Args:
        epochs: Epochs of dense fine-tuning.
        costs: Costs so far, initially empty; each change of the model's size appends one.
        measure: Function that returns the operations per forward pass of the current model.
    """

    def __init__(self, epochs: float, costs: list[Cost], measure: Callable[[], int]) -> None:
        self._epochs, self._measure, self._size = epochs, measure, 0
        self._plan = EqualCost(0, 0, costs)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        lr_scheduler: Any = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Pass the number of dense steps to the method; replace the learning-rate schedule."""
        state.max_steps = math.ceil(self._epochs * -(-len(train_dataloader) // args.gradient_accumulation_steps))
        state.num_train_epochs = math.ceil(self._epochs)
        state.compute_steps(args, state.max_steps)
        self._plan.steps, self._plan.warmup = state.max_steps, args.get_warmup_steps(state.max_steps)
        schedule = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate's wrapper is removed
        schedule.lr_lambdas = [self._plan.rate] * len(schedule.lr_lambdas)
        self._size = model_size(model)
        if not self._plan.costs:
            self._plan.costs.append([0, self._measure()])

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the end of training, which a resumed run needs before its first step."""
        state.max_steps = self._plan.end

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure the cost again if the model's size has changed."""
        if model_size(model) != self._size:
            self._size = model_size(model)
            self._plan.costs.append([state.global_step, self._measure()])


def forward_flops(trainer: Trainer) -> int:
    """Count the floating-point operations of a forward pass of a Trainer's model, without side effects.

    Args:
        trainer: A Trainer, whose first training rows are used, as many as in one pass of a step.

    Returns:
        The operations of matrix products.
    """
    rows: Any = trainer._remove_unused_columns(trainer.train_dataset, description="training")
    count = min(len(rows), trainer.args.train_batch_size)
    batch = trainer._prepare_inputs(trainer.data_collator([rows[row] for row in range(count)]))
    model: Any = trainer.model
    return count_flops(model, lambda: trainer.compute_loss(model, batch))


def count_flops(model: Any, forward: Callable[[], Any]) -> int:
    """Count the floating-point operations of matrix products in a forward pass, without side effects.

    Args:
        model: A model; evaluated without dropout.
        forward: Function that runs it.

    Returns:
        The operations.
    """
    training = model.training
    model.eval()
    with torch.random.fork_rng(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    model.train(training)
    return counter.get_total_flops()


def model_size(model: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
