"""The adapter between a method's strategy and transformers' Trainer: settings, ownership of the model, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError
from torch import nn
from transformers import TrainerCallback

from neuroprune import distributed
from neuroprune.config.canonical import settings_hash
from neuroprune.config.fields import Settings
from neuroprune.config.messages import sentences
from neuroprune.config.versions import earlier_version, version_of
from neuroprune.errors import UserError
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.direct_calls import HookedForward
from neuroprune.methods.components.ownership import abandon_earlier, hold, release
from neuroprune.methods.components.state_files import checkpoint_folder, load_state, save_state
from neuroprune.methods.hooks import Hooks, Run, State
from neuroprune.models.reload_check import check_reloadable
from neuroprune.models.resumption import teach_trainer
from neuroprune.pruning.blocks import Block, unwrapped
from neuroprune.pruning.kept_units import own_configs, read_record
from neuroprune.pruning.plain_weights import check_no_adapters

logger = logging.getLogger(__name__)


@dataclass
class LastCalls:
    """Values of `run.step` at the last call of each hook, None before the first; a new run begins with a new record.

    Args:
        before_step: The first call also checks that the forward pass uses all attentions and MLPs.
        after_step: The first call also checks that the optimizer's state can be cut.
        epoch_end: Saved with a checkpoint, which the Trainer may write before or after the end of an epoch.
        compared_units: Number of units when gradients were last compared over processes: once after every cut.
    """

    before_step: int | None = None
    after_step: int | None = None
    epoch_end: int | None = None
    compared_units: int = 0


class Method(TrainerCallback):
    """A training method: a callback for transformers' Trainer, or five hooks for a bare loop (see `hooks.Hooks`).

    The hooks are those of `strategy`, which is created again when a run starts or resumes, so that a method can be used
    for several runs.

    Args:
        **fields: The method's settings, see `settings_class`.

    Raises:
        UserError: If a setting is unknown, missing or out of range.
    """

    settings_class: ClassVar[type[Settings]]
    cuts: ClassVar[bool] = True  # whether the shapes of the model's weights change
    learns_masks: ClassVar[bool] = False  # whether it trains parameters of its own by gradients of the model's loss

    def __init__(self, **fields: Any) -> None:
        try:
            self.settings = self.settings_class(**fields)
        except ValidationError as error:
            found = "; ".join(sentences(error, self.settings_class))
            raise UserError(f"{type(self).__name__}: {found}") from None
        teach_trainer()
        self.strategy = self.make_strategy()
        self.split_steps = False  # whether the caller averages gradients over processes; see `batches.SplitSteps`
        self._run: Run | None = None  # of a Trainer
        self._last = LastCalls()
        self._held: nn.Module | None = None
        self._direct: HookedForward | None = None

    @property
    def run(self) -> Run:
        """The run of the Trainer, available once training has begun."""
        if self._run is None:
            raise UserError(f"{type(self).__name__} has no run yet; start training with a Trainer first.")
        return self._run

    @classmethod
    def from_settings(cls, settings: Settings) -> Method:
        """Create the method from validated settings."""
        return cls(**settings.model_dump())

    def make_strategy(self) -> Hooks:
        """Return a new strategy for `settings`."""
        raise NotImplementedError

    @property
    def report(self) -> dict[str, Any]:
        """Report of the current or last run: sparsity and removed units at each event, JSON-serializable."""
        return self.strategy.report

    # ---- hooks

    def start(self, run: Run) -> None:
        """Take over the run's model and start the strategy.

        Args:
            run: The run. Hooks and frozen parameters left by an interrupted run are cleaned up first.

        Raises:
            UserError: If another method uses the model in the same training, the model is compiled or has frozen
                layers, or the strategy rejects the run. The model is then unchanged.
        """
        with self._taking_over(run):
            self.strategy.start(run)

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Take over the run's model and resume the strategy; see `start`."""
        with self._taking_over(run):
            self.strategy.resume(run, state)

    def state_dict(self) -> State:
        """Return the state required by `resume`."""
        return self.strategy.state_dict()

    def before_step(self, run: Run) -> None:
        """Call the strategy before the optimizer's step.

        Args:
            run: The run, with the gradients of the step.

        Raises:
            UserError: In the first step, if an attention or MLP is not used; after a cut, if gradients differ between
                processes.
        """
        if self.cuts and self._last.before_step is None:
            preconditions.check_used(run)
        if self.cuts and distributed.count() > 1:
            self._compare_gradients(run)
        self._last.before_step = run.step
        self.strategy.before_step(run)

    def after_step(self, run: Run) -> None:
        """Call the strategy after the optimizer's step.

        Args:
            run: The run, with `step` increased by 1 since `before_step`.

        Raises:
            UserError: After the first step, if the optimizer's state can't be cut; after any step, if `before_step` was
                not called, or the step not counted.
        """
        if self.cuts and (self._last.before_step is None or run.step != self._last.before_step + 1):
            raise UserError(
                f"after_step at step {run.step}: call before_step(run) before optimizer.step() in every step, and "
                "increase run.step by 1 after it, or nothing is measured and no event takes place."
            )
        if self.cuts and self._last.after_step is None:
            preconditions.check_can_cut(run.optimizer, self._cut_blocks(run))
        self._last.after_step = run.step
        self.strategy.after_step(run)

    def epoch_end(self, run: Run) -> None:
        """Call the strategy after an epoch."""
        self.strategy.epoch_end(run)
        self._last.epoch_end = run.step

    def finish(self, run: Run) -> None:
        """Call the strategy after the last step; release the model.

        Args:
            run: The run.

        Raises:
            UserError: If the cut model could be saved but not loaded again.
        """
        self.strategy.finish(run)
        self.abandon()
        if self.cuts:
            check_reloadable(run.model)
            preconditions.warn_if_not_finite(run.model)

    def abandon(self) -> None:
        """Remove hooks from the model, unfreeze its parameters, and release it."""
        self.strategy.abandon()
        if self._direct is not None:
            self._direct.detach()
            self._direct = None
        if self._held is not None:
            release(self._held, self)
        self._held = None

    def _cut_blocks(self, run: Run) -> Sequence[Block]:
        return run.blocks.attentions if self.strategy.heads_only else run.blocks.all

    def _compare_gradients(self, run: Run) -> None:
        left = sum(block.units for block in run.blocks.all)
        if left != self._last.compared_units:
            preconditions.check_same_gradients(run)
            self._last.compared_units = left

    @contextmanager
    def _taking_over(self, run: Run) -> Iterator[None]:
        self.abandon()
        self.strategy = self.make_strategy()
        self._last = LastCalls()
        try:
            if self.cuts:
                preconditions.check_not_compiled(run.model)
                check_no_adapters(run.model)
                preconditions.check_optimizer(run.optimizer)
                preconditions.check_weights(run.model, run.blocks)
                preconditions.check_can_cut(run.optimizer, self._cut_blocks(run))
                hold(run.model, self, run, run.training or run.optimizer)
                self._held = run.model
                preconditions.check_not_frozen(self._cut_blocks(run))  # an earlier holder has unfrozen what it froze
                own_configs(run.model)
                self._direct = HookedForward(run.model) if run.wrapped else None
            yield
        except BaseException:
            self.abandon()
            raise

    # ---- callbacks: the Trainer clips gradients before `on_pre_optimizer_step`, steps its schedule after
    # `on_optimizer_step`, and increments `state.global_step` after that.

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Unfreeze parameters left frozen by an interrupted run before the optimizer is created."""
        teach_trainer()  # the class may have been imported in the meantime
        if model is not None:
            abandon_earlier(unwrapped(model))

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
        """Build the run from the Trainer's arguments; start it, or resume it from a checkpoint."""
        if self.cuts:
            taught = getattr(self.settings, "teacher", None) is not None
            preconditions.check_trainer(args, self.split_steps, self.strategy.settles, taught)
        name, adds_gradients = type(self).__name__, self.strategy.adds_gradients
        preconditions.check_unscaled(optimizer, args, name, self.learns_masks, adds_gradients)
        self._run = Run(
            model=model,
            optimizer=optimizer,
            scheduler=lr_scheduler,
            total_steps=state.max_steps,
            steps_per_epoch=-(-state.max_steps // max(1, state.num_train_epochs)),
            batch_size=rows_per_pass(args, state) * args.gradient_accumulation_steps * args.world_size,
            step=state.global_step,
            training=state,
        )
        saved = self._load(checkpoint_folder(args, state)) if state.global_step else None
        if saved is None:
            self.start(self.run)
            return
        epoch_ended = saved.pop("epoch_ended", True)
        self.resume(self.run, saved)
        if not epoch_ended and float(state.epoch).is_integer():  # saved after the last step of an epoch, before its end
            self.on_epoch_end(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the method's state next to the Trainer's checkpoint."""
        folder, values = checkpoint_folder(args, state), self.state_dict()  # every process contributes to the state
        if args.should_save and folder.is_dir():  # a hyperparameter search stores checkpoints elsewhere
            values |= {"method": self._identity(), "epoch_ended": self._last.epoch_end == self.run.step}
            save_state(folder, values | ({"record": read_record(self.run.model)} if self.cuts else {}))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call `before_step`."""
        self.before_step(self.run)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step and call `after_step`; do not select a best checkpoint until the shapes are final."""
        self.run.step = state.global_step + 1
        settled = not self.cuts or self.strategy.settled
        self.after_step(self.run)
        if not settled:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call `epoch_end`."""
        self.epoch_end(self.run)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call `finish`."""
        self.finish(self.run)

    # ---- checkpoints

    def _identity(self) -> list[str]:
        return [getattr(self.settings, "name", type(self).__name__), settings_hash(self.settings)]

    def _load(self, folder: Path) -> State | None:
        """Read the state next to a checkpoint; warn if it is missing, reject the state of another method."""
        saved = load_state(folder)
        if saved is None:
            if self.cuts:
                logger.warning(
                    "no method state in %s: the Trainer's checkpoint of this step is expected there. Continuing "
                    "without the saved state; to restore it, set output_dir to the folder that holds the checkpoint.",
                    folder,
                )
            return None
        found, own = saved.pop("method"), self._identity()
        if found != own:
            raise UserError(
                f"{folder}: the saved method state is {self._difference(*found)}, or train from the beginning."
            )
        return saved

    def _difference(self, name: str, found: str) -> str:
        """Describe a saved state of another method or of other settings, and how to resume it."""
        own, with_original = self._identity()[0], "resume with the original method and settings"
        if name != own:
            return f"of {name}, not of {own}; {with_original}"
        version = earlier_version(self.settings, found)
        if version is None:
            return f"of {own} with other settings; {with_original}"
        return (
            f"of version {version} of {own}, not of version {version_of(self.settings)}; resume with version={version}"
        )


def rows_per_pass(args: Any, state: Any) -> int:
    """Return the rows of a forward pass; with `auto_find_batch_size` the state has the number in use.

    Otherwise, the state of a resumed run has the number from before.
    """
    found = state.train_batch_size if args.auto_find_batch_size else None
    return int(found or args.train_batch_size)
