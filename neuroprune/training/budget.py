"""Training budget in floating-point operations, equal to the cost of dense fine-tuning.

A step of a pruned model takes fewer operations than a dense one. At equal cost, the saved operations are spent on more
steps. Removal events keep their steps, and the learning rate is unchanged up to the first event. From there, it decays
linearly to 0 at the new end.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SchedulerType, has_length

from neuroprune.errors import UserError
from neuroprune.files.atomic import write_json
from neuroprune.methods.callback import Method, rows_per_pass
from neuroprune.methods.components.state_files import checkpoint_folder
from neuroprune.pruning.kept_units import is_cut, read_record

MOST = 100
"""Largest factor on the length of a run."""
COSTS = "dense_cost.json"

Cost = Sequence[Any]  # first step, and operations per forward pass from that step on
AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)


def at_dense_cost(trainer: AnyTrainer) -> AnyTrainer:
    """Let a Trainer train on until its run has cost as much as dense fine-tuning for its epochs or steps.

    The operations of forward passes are counted for the first training rows. Pruning events take place at the same
    steps as without this function. To resume an interrupted run, build the Trainer in the same way::

        trainer = at_dense_cost(Trainer(..., callbacks=[NeuroPrune(sparsity=0.8)]))

    Args:
        trainer: A Trainer with a linear learning-rate schedule. It gets a copy of its arguments, in which the number of
            epochs or steps is only an upper bound. Change that number before this call.

    Returns:
        The Trainer.

    Raises:
        UserError: If the schedule is not linear, or the Trainer has been given to this function before. Training raises
            it if a method has a teacher, whose forward passes are not counted.
    """
    args, callbacks = copy.copy(trainer.args), trainer.callback_handler.callbacks
    if any(isinstance(callback, DenseBudget) for callback in callbacks):
        raise UserError("at_dense_cost: this Trainer trains at the cost of dense fine-tuning already.")
    schedule = SchedulerType(args.lr_scheduler_type)
    if schedule is not SchedulerType.LINEAR:
        raise UserError(
            f"at_dense_cost: the learning rate must decay linearly, but lr_scheduler_type is {schedule.value}; leave "
            "it out of the arguments."
        )
    steps = args.max_steps if args.max_steps > 0 else None
    epochs = args.num_train_epochs
    args.num_train_epochs *= MOST
    args.max_steps *= 1 if steps is None else MOST
    trainer.args = args
    callbacks.insert(0, DenseBudget(trainer, epochs, steps))  # methods plan their events for the dense steps
    return trainer


@dataclass
class EqualCost:
    """Length and learning rates of a run that costs as much as a number of dense steps.

    Args:
        steps: Number of dense steps.
        warmup: Steps in which the learning rate rises.
        costs: Costs so far; each change of the model's size appends one.
        size: Number of the model's parameters at the last of these costs.
    """

    steps: int
    warmup: int
    costs: list[Cost]
    size: int = 0

    @property
    def end(self) -> int:
        """The last step."""
        return self.ends()[-1]

    def follow(self, step: int, model: torch.nn.Module, measure: Callable[[], int]) -> None:
        """Measure the cost again if the model's size has changed.

        Args:
            step: Number of steps taken.
            model: The model.
            measure: Function that returns the operations per forward pass.
        """
        if (size := model_size(model)) != self.size:
            self.size = size
            self.costs.append([step, measure()])

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
    """Callback that ends training when its steps have cost as much as dense steps; see `at_dense_cost`.

    Args:
        trainer: Its Trainer, whose arguments allow for `MOST` times the length.
        epochs: Epochs of dense fine-tuning.
        steps: Steps of dense fine-tuning; None: those of the epochs.
    """

    def __init__(self, trainer: Trainer, epochs: float, steps: int | None) -> None:
        self._trainer, self._epochs, self._steps = trainer, epochs, steps
        self._longest = _length(trainer.args)
        self._plan = EqualCost(0, 0, [])
        self._batch: Any = None
        self._first = 0

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
        """Pass the number of dense steps to the methods; replace the learning-rate schedule."""
        _check_untaught(self._trainer.callback_handler.callbacks)
        if _length(args) != self._longest:
            raise UserError(
                "at_dense_cost: num_train_epochs or max_steps has changed since; set it first (a hyperparameter search "
                "can't choose it)."
            )
        self._set_length(args, state, train_dataloader)
        schedule = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate's wrapper is removed
        if not isinstance(schedule, LambdaLR):
            raise UserError(
                "at_dense_cost: the learning rate must decay linearly, but the Trainer was given a "
                f"{type(schedule).__name__}; leave it out."
            )
        warmup, self._first = args.get_warmup_steps(state.max_steps), state.global_step
        self._batch = _first_rows(train_dataloader, rows_per_pass(args, state))
        self._plan = EqualCost(state.max_steps, warmup, self._earlier_costs(args, state, model), model_size(model))
        schedule.lr_lambdas = [self._plan.rate] * len(schedule.lr_lambdas)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the end of training, which a resumed run needs before its first step."""
        state.max_steps = self._plan.end

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure the cost again if the model's size has changed."""
        self._plan.follow(state.global_step, model, partial(self._measure, model))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the costs next to the Trainer's checkpoint."""
        folder = checkpoint_folder(args, state)
        if args.should_save and folder.is_dir():  # a hyperparameter search stores checkpoints elsewhere
            write_json(folder / COSTS, {"costs": self._plan.costs})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Correct the rows per second at the end, which the Trainer derives from the upper bound of the length."""
        if logs and (name := "train_samples_per_second") in logs:
            passes = (state.global_step - self._first) * args.gradient_accumulation_steps * args.world_size
            rate = passes * rows_per_pass(args, state) / logs["train_runtime"]
            logs[name] = state.log_history[-1][name] = round(rate, 3)

    def _set_length(self, args: Any, state: Any, loader: Any) -> None:
        """Set the number of steps, and of epochs if it can be known, to those of dense fine-tuning."""
        if self._steps is None:
            state.max_steps = math.ceil(self._epochs * -(-len(loader) // args.gradient_accumulation_steps))
            state.num_train_epochs = math.ceil(self._epochs)
        else:
            state.max_steps = self._steps
            state.num_train_epochs = max(1, math.ceil(state.num_train_epochs / MOST))
        state.compute_steps(args, state.max_steps)

    def _earlier_costs(self, args: Any, state: Any, model: Any) -> list[Cost]:
        """Return the costs in the checkpoint of a resumed run, or that of the dense model."""
        found = checkpoint_folder(args, state) / COSTS
        if state.global_step and found.exists():
            return _read_costs(found)
        if state.global_step and is_cut(read_record(model)):
            raise UserError(
                f"{found}: not found, so the cost of the steps before this checkpoint is unknown; resume without "
                "at_dense_cost, or train from the beginning."
            )
        return [[0, self._measure(model)]]

    def _measure(self, model: Any) -> int:
        trainer = self._trainer
        (batch,), items = Trainer.get_batch_samples(trainer, iter([self._batch]), 1, trainer.args.device)
        inputs: Any = trainer._prepare_inputs(batch)
        try:
            return count_flops(model, lambda: trainer.compute_loss(model, inputs, num_items_in_batch=items))
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise UserError(
                "at_dense_cost counts the operations of the loss without gradients, but this Trainer's compute_loss "
                "needs them; leave out at_dense_cost."
            ) from error


def _check_untaught(callbacks: Sequence[TrainerCallback]) -> None:
    """Reject methods with a teacher."""
    for callback in callbacks:
        if isinstance(callback, Method) and getattr(callback.settings, "teacher", None) is not None:
            raise UserError(
                f"{type(callback).__name__} has a teacher, whose forward passes at_dense_cost does not count; leave "
                "out at_dense_cost or teacher."
            )


def _length(args: Any) -> tuple[float, int]:
    return args.num_train_epochs, args.max_steps


def _read_costs(path: Path) -> list[Cost]:
    """Return the costs in a checkpoint's file; raise `UserError` if it is damaged."""
    try:
        costs: list[Cost] = json.loads(path.read_text(encoding="utf-8"))["costs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the file can't be read ({error}); resume from another checkpoint.") from error
    return costs


def _first_rows(loader: Any, rows: int) -> Any:
    """Return the first training rows as a batch, without reading from the loader."""
    data: Any = loader.dataset
    stored: bool = has_length(data)
    few = (data[row] for row in range(min(len(data), rows))) if stored else islice(data, rows)
    return loader.collate_fn(list(few))


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
