"""A training run as methods see it, the five hooks that they implement, and the one link to transformers' Trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from neuroprune.config.canonical import settings_hash
from neuroprune.config.messages import sentences
from neuroprune.config.settings import Settings
from neuroprune.errors import UserError
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.ownership import abandon_earlier, hold, release
from neuroprune.methods.components.state_files import State, load_state, save_state

logger = logging.getLogger(__name__)

ASSUMED_BATCH = 32  # rows of an optimizer step where a bare loop does not say


@dataclass
class Run:
    """What a method may know of a training run, and how far it has come.

    Args:
        model: The model that is trained, not wrapped.
        optimizer: Its optimizer; accelerate's wrapper is taken off.
        scheduler: The learning rate's schedule, or None if it is constant; accelerate's wrapper is taken off.
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of one epoch.
        batch_size: Rows of an optimizer step, if known.
        step: Completed optimizer steps; a bare loop counts it up between `optimizer.step()` and `after_step`.
        accumulation: Forward and backward passes of one optimizer step.
        loss_rows: Rows over which the loss of a pass is a mean, where those are not the rows that the pass reads.
        training: What all methods of the same training share, and no other training has; default: the optimizer.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any | None = None
    total_steps: int = 0
    steps_per_epoch: int = 0
    batch_size: int | None = None
    step: int = 0
    accumulation: int = 1
    loss_rows: float | None = None
    training: Any | None = None

    def __post_init__(self) -> None:
        self.optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        self.scheduler = getattr(self.scheduler, "scheduler", self.scheduler)
        if self.total_steps < 1:
            raise UserError(
                f"Run(total_steps={self.total_steps}): the number of optimizer steps must be known and at least 1, "
                "because events are planned as shares of it; with a dataset without length set max_steps."
            )

    def steps_for(self, rows: int) -> int:
        """Return the number of optimizer steps that read at least so many rows."""
        return -(-rows // (self.batch_size or ASSUMED_BATCH))

    def learning_rates(self) -> dict[nn.Parameter, float]:
        """Return the present learning rate of every parameter that the optimizer has."""
        return {parameter: group["lr"] for group in self.optimizer.param_groups for parameter in group["params"]}

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate from now on, whatever the schedule goes on to do with it.

        Args:
            factor: Applied to the optimizer's present rate and to the schedule's base rates, so that it does not matter
                whether the schedule steps before or after.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        if self.scheduler is not None and hasattr(self.scheduler, "base_lrs"):
            self.scheduler.base_lrs = [rate * factor for rate in self.scheduler.base_lrs]


class Hooks:
    """The five moments at which a method may act; each does nothing unless a method says otherwise.

    A bare PyTorch loop calls them itself::

        run = Run(model, optimizer, scheduler, total_steps=len(loader) * epochs, steps_per_epoch=len(loader))
        method.start(run)
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

    A run can be stopped after any step and go on in another process: `state_dict` says what the method has to remember
    beside the model, the optimizer and the schedule; once these are as they were, `resume` takes the place of `start`.
    """

    def start(self, run: Run) -> None:
        """Act before the first step."""

    def state_dict(self) -> State:
        """Return what `resume` needs: tensors and JSON-able values by name, as they stand after a step."""
        return {}

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Go on after `run.step` steps; called in place of `start`.

        Args:
            run: The run as it was: the model with its shapes and weights, the optimizer with its state (that of the
                parameters it was made with; parameters that a method adds are the method's to restore).
            state: What `state_dict` returned then; tensors are on the CPU.
        """
        self.start(run)

    def before_step(self, run: Run) -> None:
        """Act when the gradients of a step are complete (and clipped), before the optimizer takes it."""

    def after_step(self, run: Run) -> None:
        """Act after the optimizer's step; `run.step` counts it already."""

    def epoch_end(self, run: Run) -> None:
        """Act after an epoch."""

    def finish(self, run: Run) -> None:
        """Act when training is over."""

    def abandon(self) -> None:
        """Take off the model what a run that was interrupted has left on it; may be called at any time, and again."""


class Method(TrainerCallback, Hooks):
    """A way to train: for its user a callback of transformers' Trainer, for its author five hooks.

    Args:
        **fields: The method's settings, see `settings_class`.

    Raises:
        UserError: If a setting is unknown, missing or out of range.
    """

    settings_class: ClassVar[type[Settings]]
    cuts: ClassVar[bool] = True  # whether the shapes of the model's weights change
    split_steps: bool = False  # whether who calls averages gradients over processes; see `batches.SplitSteps`
    report: dict[str, Any]
    _held: nn.Module | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            self.settings = self.settings_class(**fields)
        except ValidationError as error:
            found = "; ".join(sentences(error, self.settings_class))
            raise UserError(f"{type(self).__name__}: {found}") from None
        self.report = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Method:
        """Make the method from settings that are already validated."""
        return cls(**settings.model_dump())

    def hold(self, run: Run) -> None:
        """Begin to work on the run's model; a method that leaves something on it calls this first, in every run.

        Args:
            run: The run. What an earlier one that was interrupted has left on its model is taken off.

        Raises:
            UserError: If another method works on the model in the same training, or the model is compiled.
        """
        preconditions.check_not_compiled(run.model)
        hold(run.model, self, run, run.training or run.optimizer)
        self._held = run.model

    def abandon(self) -> None:
        """Take off the model what a run that was interrupted has left on it."""
        if self._held is not None:
            release(self._held, self)
        self._held = None

    # The Trainer clips gradients before `on_pre_optimizer_step`, steps its schedule after `on_optimizer_step`, and
    # counts the step (`state.global_step`) later still.

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Set free what an interrupted run has frozen, before an optimizer is made of what trains."""
        if model is not None:
            abandon_earlier(model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        """Begin: build the run from what the Trainer knows."""
        if self.cuts:
            preconditions.check_trainer(args, self.split_steps)
        self.run = Run(
            model=model,
            optimizer=optimizer,
            scheduler=lr_scheduler,
            total_steps=state.max_steps,
            steps_per_epoch=-(-state.max_steps // max(1, state.num_train_epochs)),
            batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            step=state.global_step,
            accumulation=args.gradient_accumulation_steps,
            training=state,
        )
        saved = self._load(_checkpoint(args, state)) if state.global_step else None
        if saved is None:
            self.start(self.run)
        else:
            self.resume(self.run, saved)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the method's state beside the Trainer's checkpoint."""
        folder, values = _checkpoint(args, state), self.state_dict()  # to which all processes contribute
        if args.should_save and folder.is_dir():  # a search over hyperparameters has them elsewhere
            save_state(folder, values | {"method": self._identity()})

    def _identity(self) -> list[str]:
        return [getattr(self.settings, "name", type(self).__name__), settings_hash(self.settings)]

    def _load(self, folder: Path) -> State | None:
        """Read the state beside a checkpoint; say so if there is none, refuse another method's."""
        saved = load_state(folder)
        if saved is None:
            if self.cuts:
                logger.warning(
                    "no state of the method in %s, where the Trainer's checkpoint of this step would be: the method "
                    "goes on without what it knew; put the checkpoint there (output_dir) to go on with it",
                    folder,
                )
            return None
        found, own = saved.pop("method", None), self._identity()
        if found is not None and found != own:
            what = f"of {found[0]}, not of {own[0]}" if found[0] != own[0] else f"of {own[0]} with other settings"
            raise UserError(f"{folder}: the method's state is {what}; go on with the method as it was, or begin anew.")
        return saved

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Pass on: the gradients are complete."""
        self.before_step(self.run)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Pass on: the optimizer has taken a step."""
        self.run.step = state.global_step + 1
        self.after_step(self.run)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Pass on: an epoch is over."""
        self.epoch_end(self.run)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Pass on: training is over."""
        self.finish(self.run)


class TwoForms(Method):
    """A method in two forms, of which its settings pick one; the hooks are the form's."""

    forms: ClassVar[dict[str, type[Any]]]
    form: Any = None

    def start(self, run: Run) -> None:
        """Begin anew with the form that the settings ask for."""
        self._begin(run)
        self.form.start(run)

    def state_dict(self) -> State:
        """Return the form's state."""
        return self.form.state_dict()

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Go on with the form that the settings ask for."""
        self._begin(run)
        self.form.resume(run, state)

    def before_step(self, run: Run) -> None:
        """Pass on to the form."""
        self.form.before_step(run)

    def after_step(self, run: Run) -> None:
        """Pass on to the form."""
        self.form.after_step(run)

    def epoch_end(self, run: Run) -> None:
        """Pass on to the form."""
        self.form.epoch_end(run)

    def finish(self, run: Run) -> None:
        """Pass on to the form."""
        self.form.finish(run)
        self.abandon()

    def abandon(self) -> None:
        """Pass on to the form."""
        super().abandon()
        if self.form is not None:
            self.form.abandon()

    def _begin(self, run: Run) -> None:
        self.hold(run)
        preconditions.check_trained(run.model)
        self.form = self.forms[self.settings.form](self.settings)  # type: ignore[attr-defined]
        self.report = self.form.report


def _checkpoint(args: Any, state: Any) -> Path:
    """Return the Trainer's folder for a checkpoint after the present step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
