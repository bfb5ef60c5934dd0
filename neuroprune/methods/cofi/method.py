"""CoFi (Xia et al. 2022, arXiv 2204.00408) as a baseline, on every architecture.

One run consists of fine-tuning, pruning under a rising target sparsity, and fine-tuning of the compacted model. The
published constants are kept. Differences from the authors' code: the whole run has one optimizer and one learning-rate
schedule; the stages are fractions of its steps; the fold of hidden masks is exact (see `masked_model`); and sparsity is
counted over matrices without biases, as for all other methods.

The published schedule needs thousands of steps: masks and multipliers change by about .01 per step. In a short run, the
expected sparsity lags behind its target, the multiplier accumulates, and pruning overshoots the target by whole layers.
The fair schedule uses the same loss, but a higher learning rate and shorter averaging for masks and multipliers, and a
longer rise of the target.

Without a `teacher`, the loss is the task's, as in the comparison of NeuroPrune's paper. With a teacher, see
`distillation`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune import distributed
from neuroprune.config.methods import CoFiSettings
from neuroprune.errors import UserError
from neuroprune.methods.callback import Method
from neuroprune.methods.cofi.masked_model import compact
from neuroprune.methods.cofi.masks import MaskParameters, Sizes, opened, sparsity_of
from neuroprune.methods.cofi.stages import FinalFineTuning, FineTuning, MaskLearning, Stage, Timetable
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.distillation import Distillation, copy_of, load_teacher, weights_of
from neuroprune.methods.components.embeddings import FrozenParameters, freeze_embeddings
from neuroprune.methods.components.removal_report import head_distances, reached, removed_heads
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.zero_mask import KeptZeros, zero_smallest
from neuroprune.methods.hooks import Hooks, Run, State
from neuroprune.pruning.blocks import Blocks, base_of
from neuroprune.pruning.kept_units import read_record
from neuroprune.pruning.residual_stream import Stream, StreamError, find_stream
from neuroprune.pruning.sparsity import prunable_weights

logger = logging.getLogger(__name__)


class MaskedPruning(Hooks):
    """CoFi's strategy: fine-tune, learn masks under a rising target, compact the model, fine-tune again.

    Masks and multipliers are not part of the model and have separate optimizers.

    Args:
        settings: CoFi's settings.

    Attributes:
        stage: The current stage; None before `start`.
        distillation: The distillation loss; None without a teacher.
    """

    settles = True
    settings: CoFiSettings

    def __init__(self, settings: CoFiSettings) -> None:
        super().__init__(settings)
        self.stage: Stage | None = None
        self.distillation: Distillation | None = None
        self._timetable = Timetable.of(settings, 1)
        self._frozen = FrozenParameters()
        self.report |= {"form": "target", "sparsity": settings.sparsity, "schedule": settings.schedule}

    @property
    def settled(self) -> bool:
        """Whether the model is compacted."""
        return isinstance(self.stage, FinalFineTuning)

    def start(self, run: Run) -> None:
        """Plan the stages and determine the masks that the model supports."""
        if run.step:
            raise UserError(f"CoFi can't start at step {run.step}: the model contains no masks; train from step 0.")
        asked = self.settings
        preconditions.check_rate(run, "final_lr", asked.final_lr)
        preconditions.check_target(run.model, asked.sparsity)
        self._prepare(run, Timetable.of(asked, run.total_steps))
        stream, left_out = _stream(run, asked.masks)
        kinds = [kind for kind in asked.masks if kind not in left_out]
        masks = _mask_parameters(run, kinds)
        distributed.copy_main(masks.log_alpha.values())
        self.stage = FineTuning(masks, stream)
        self.report |= {"masks": kinds, "left_out": left_out, "events": [], "history": []}
        self.report |= {"head_distances": head_distances(run.blocks)}
        if asked.teacher is not None and asked.teacher != "run":
            self._learn_from(run, load_teacher(asked.teacher, run.model))
        if self._timetable.begin == 0:
            self.stage = self._mask_learning(run, self.stage)

    def state_dict(self) -> State:
        """Return the report, the timetable, and the states of the current stage and the distillation."""
        assert self.stage is not None
        state: State = {"report": self.report, "timetable": self._timetable.state(), "stage": self.stage.name}
        state |= {"distilling": self.distillation is not None} | nest("stage", self.stage.state_dict())
        if self.distillation is not None:
            state |= nest("distillation", self.distillation.state_dict())
            if self.settings.teacher == "run":
                teacher = self.distillation.teacher
                state |= nest("teacher", weights_of(teacher)) | {"teacher_record": read_record(teacher)}
        return state

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Continue in the same stage with the original timetable, even if the run is now longer."""
        self._prepare(run, Timetable(*map(int, state["timetable"])))
        self.report.update(state["report"])
        if state["distilling"]:
            own = self.settings.teacher == "run"
            folder = str(self.settings.teacher)
            weights, record = unnest("teacher", state), state.get("teacher_record")
            teacher = copy_of(run.model, weights, record) if own else load_teacher(folder, run.model)
            self._learn_from(run, teacher).load_state(unnest("distillation", state))
        self.stage = self._restored_stage(run, state["stage"], unnest("stage", state))

    def before_step(self, run: Run) -> None:
        """Update the distillation's linear map and the stage."""
        assert self.stage is not None
        if isinstance(self.stage, MaskLearning):
            preconditions.check_training_mode(run.model, "CoFi")
        if self.distillation is not None:
            self.distillation.step(run.optimizer.param_groups[0]["lr"])
        self.stage.before_step(run)

    def after_step(self, run: Run) -> None:
        """Start the next stage if it is due; call the current one."""
        stage = self.stage
        if isinstance(stage, FineTuning) and run.step == self._timetable.begin:
            if self.settings.teacher == "run":
                self._learn_from(run, copy_of(run.model, weights_of(run.model), read_record(run.model)))
            self.stage = self._mask_learning(run, stage)
        elif isinstance(stage, MaskLearning) and run.step == self._timetable.end:
            self._compact(run, stage)
        assert self.stage is not None
        self.stage.after_step(run)

    def finish(self, run: Run) -> None:
        """Complete the report; compact the model now if the run ended early, or warn if it has learned no masks."""
        if isinstance(self.stage, MaskLearning):
            self._compact(run, self.stage)
        elif isinstance(self.stage, FineTuning):
            begin = self._timetable.begin
            logger.warning("training ended at step %d, before masks are learned from step %d on", run.step, begin)
        final = self.stage
        self.abandon()
        if isinstance(final, FinalFineTuning):
            final.hold_zeros()
        self.report["removed_heads"] = removed_heads(run.model)

    def abandon(self) -> None:
        """Remove masks and teacher from the model; unfreeze the embeddings."""
        for attached in (self.stage, self.distillation):
            if attached is not None:
                attached.detach()
        self.stage, self.distillation = None, None
        self._frozen.release()

    def _prepare(self, run: Run, timetable: Timetable) -> None:
        """Store the timetable and freeze the embeddings."""
        preconditions.check_not_reentrant(run.model, "CoFi")
        self._timetable = timetable
        if self.settings.freeze_embeddings:
            self._frozen = freeze_embeddings(run)

    def _restored_stage(self, run: Run, name: str, state: Mapping[str, Any]) -> Stage:
        """Return the stage of this name with its saved state."""
        if name == FinalFineTuning.name:
            zeros = KeptZeros.from_state(run.blocks, unnest("zeros", state))
            stage: Stage = FinalFineTuning(self.settings.final_lr, zeros, self._alive(run.blocks))
        else:
            stage = FineTuning(_mask_parameters(run, self.report["masks"]), _stream(run, self.settings.masks)[0])
            if name == MaskLearning.name:
                stage = self._mask_learning(run, stage)
        stage.load_state(run, state)
        return stage

    def _mask_learning(self, run: Run, before: FineTuning) -> MaskLearning:
        history, total = self.report["history"], prunable_weights(run.model)
        return MaskLearning(run, before.masks, before.stream, self.settings, self._timetable, history, total)

    def _learn_from(self, run: Run, teacher: nn.Module) -> Distillation:
        share, temperature = self.settings.layer_share, self.settings.teacher_temperature
        everywhere = torch.ones(len(run.blocks.mlps), dtype=torch.bool)

        def alive() -> Tensor:
            found = None if self.stage is None else self.stage.alive()
            return everywhere if found is None else found

        self.distillation = Distillation(run.model, teacher, share, temperature, alive)
        return self.distillation

    def _alive(self, blocks: Blocks) -> Tensor:
        """Mark the MLPs that remain under the final masks, bool `[MLPs]`."""
        return torch.tensor([mlp.name not in self.report["silent"] for mlp in blocks.mlps])

    def _compact(self, run: Run, stage: MaskLearning) -> None:
        """Fix the masks, remove closed units, and start the last stage."""
        stage.detach()
        total = prunable_weights(run.model)
        masks = stage.final_masks(total)
        if not bool(masks.hidden.any()):
            masks.hidden[stage.masks.log_alpha["hidden"].argmax()] = 1.0
        self.report["masks_sparsity"] = float(sparsity_of(opened(masks), total))
        self.report["hidden_left"] = int((masks.hidden != 0).sum())
        self.report["silent"] = compact(run, stage.stream, masks)
        if self.distillation is not None and stage.stream is not None:
            self.distillation.cut(masks.hidden.nonzero().flatten())
        goal, fair = round(self.settings.sparsity * total), self.settings.schedule == "fair"
        zeros = zero_smallest(run, goal, remove_idle=False) if fair else KeptZeros.of(run.blocks)
        self.stage = FinalFineTuning(self.settings.final_lr, zeros, self._alive(run.blocks))
        self.report["events"].append({"step": run.step, "asked": self.settings.sparsity} | reached(run.model))
        self.stage.begin(run)


class CoFi(Method):
    """CoFi: `CoFi(sparsity=0.8)`.

    Args:
        **fields: See `neuroprune.config.methods.CoFiSettings`.
    """

    settings_class = CoFiSettings
    learns_masks = True
    settings: CoFiSettings

    def make_strategy(self) -> MaskedPruning:
        """Return a new strategy."""
        return MaskedPruning(self.settings)


def _mask_parameters(run: Run, kinds: Sequence[str]) -> MaskParameters:
    return MaskParameters(Sizes.of(run.blocks), kinds, next(run.model.parameters()).device)


def _stream(run: Run, kinds: tuple[str, ...]) -> tuple[Stream | None, dict[str, str]]:
    """Find the residual stream for a hidden mask; return the reason if the model does not support one."""
    if "hidden" not in kinds:
        return None, {}
    if run.wrapped and base_of(run.model) is run.model:
        return None, {"hidden": "the module that wraps the model expects hidden states of the full width"}
    try:
        return find_stream(run.model), {}
    except StreamError as error:
        return None, {"hidden": str(error)}
