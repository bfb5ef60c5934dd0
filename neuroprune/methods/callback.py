"""The adapter between a method's hooks and transformers' Trainer: settings, ownership of the model, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from neuroprune.config.canonical import settings_hash
from neuroprune.config.messages import sentences
from neuroprune.config.settings import Settings
from neuroprune.errors import UserError
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.ownership import abandon_earlier, hold, release
from neuroprune.methods.components.state_files import load_state, save_state
from neuroprune.methods.hooks import Hooks, Run, State

logger = logging.getLogger(__name__)


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
