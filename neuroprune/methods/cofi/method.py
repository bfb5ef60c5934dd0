"""CoFi (Xia et al. 2022, arXiv 2204.00408) as a baseline, on every architecture.

In one run: fine-tuning, pruning under a target that rises, then fine-tuning of the compacted model. The published
constants are kept. What differs from the authors' code: there is one optimizer and one learning rate schedule for the
whole run; the stages are shares of its steps; the fold of hidden masks is exact (see `cofi_gates`); and the sparsity is
that of matrices without biases, so that it means the same as for other methods.

The fair schedule exists because the published one takes thousands of steps: masks and multipliers move about .01 a
step, so in a short run the expected sparsity lags behind its target, the multiplier winds up, and whole layers vanish
past it. The fair one has the same loss; masks and multipliers move faster, forget faster, and the target rises longer.

Without a `teacher` the loss is the task's, as NeuroPrune's paper compares; see `distillation` for the loss with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune import distributed
from neuroprune.config.settings import CoFiSettings
from neuroprune.errors import UserError
from neuroprune.methods.callback import Method
from neuroprune.methods.cofi.distillation import Distillation, copy_of, load_teacher, weights_of
from neuroprune.methods.cofi.masked_model import MaskedModel, compact
from neuroprune.methods.cofi.masks import MaskParameters, MaskValues, Sizes, meet, opened, sparsity_of
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.embeddings import freeze_embeddings
from neuroprune.methods.components.removal_report import head_distances, reached, removed_heads
from neuroprune.methods.components.rewarm import RaisedRate
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.zero_mask import KeptZeros
from neuroprune.methods.hooks import Hooks, Run, State
from neuroprune.pruning.residual_stream import Stream, StreamError, find_stream
from neuroprune.pruning.sparsity import prunable_projections, prunable_weights, removed_weights, smallest

# The fair schedule, found on a model of the masks alone: 80 steps follow a target of .8 without passing it.
FASTEST = 1.0  # largest learning rate of the masks
FAIR_BETAS = (0.5, 0.95)  # Adam's memory for the masks, short enough to turn round
FAIR_LEAD = 8.0  # learning rate of the multipliers over that of the masks
FAIR_WARMUP = 0.6  # least share of the pruning stage over which the target rises

ENTRIES = 50  # of the history in the report


class MaskedPruning(Hooks):
    """Fine-tune, learn masks under a rising target, compact the model, fine-tune it.

    Masks and multipliers are not part of the model and have optimizers of their own.

    Args:
        settings: All are read here.
    """

    _masked: MaskedModel | None = None
    _rate: RaisedRate | None = None
    _distillation: Distillation | None = None
    _frozen: Sequence[str] = ()

    def start(self, run: Run) -> None:
        """Plan the stages; find out which masks the model can have."""
        if run.step:
            raise UserError(f"CoFi can't begin at step {run.step}: its masks are not in the model; train from step 0.")
        asked = self.settings
        preconditions.check_rate(run.optimizer, "final_lr", asked.final_lr)
        preconditions.check_target(run.model, asked.sparsity)
        self._plan(run)
        self._stream, left_out = _stream(run.model, asked.masks)
        kinds = [kind for kind in asked.masks if kind not in left_out]
        self.masks = MaskParameters(Sizes.of(run.blocks), kinds, self._device)
        distributed.copy_main(self.masks.log_alpha.values())
        self.report |= {"form": "target", "sparsity": asked.sparsity, "schedule": asked.schedule, "masks": kinds}
        self.report |= {"left_out": left_out, "events": [], "history": [], "head_distances": head_distances(run.blocks)}
        if asked.teacher is not None and asked.teacher != "run":
            self._learn_from(load_teacher(asked.teacher, run.model))
        if self.begin == 0:
            self._begin_pruning(run)

    def state_dict(self) -> State:
        """Return the report, log alpha, multipliers and their moments while there are masks, and what is held after."""
        state: State = {"report": self.report, "stages": [self.begin, self.end, self.warmup]}
        state |= nest("zeros", self._zeros.state_dict(self._blocks))
        if self._rate is not None:
            state |= nest("rate", self._rate.state_dict())
        if self._distillation is not None:
            state |= nest("distillation", self._distillation.state_dict())
            own = self.settings.teacher == "run"
            state |= nest("teacher", weights_of(self._distillation.teacher) if own else {})
        if not self.report["events"]:
            state |= nest("log_alpha", {kind: p.detach() for kind, p in self.masks.log_alpha.items()})
        if self._masked is not None:
            state["multipliers"] = self.multipliers.detach()
            for name, parameter, optimizer in self._learned():
                state |= nest(f"moments.{name}", optimizer.state[parameter])
        return state

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Go on in the same stage."""
        self._plan(run)
        if "stages" in state:  # as they were planned, in a longer run too
            self.begin, self.end, self.warmup = (int(step) for step in state["stages"])
        self.report.update(state["report"])
        self._zeros = KeptZeros.from_state(run.blocks, unnest("zeros", state))
        if rate := unnest("rate", state):
            self._rate = RaisedRate(self.settings.final_lr, run)
            self._rate.load_state(rate)
        if distillation := unnest("distillation", state):
            own = unnest("teacher", state)
            teacher = copy_of(run.model, own) if own else load_teacher(str(self.settings.teacher), run.model)
            self._learn_from(teacher).load_state(distillation)
        if log_alpha := unnest("log_alpha", state):
            self._stream, _ = _stream(run.model, self.settings.masks)
            self.masks = MaskParameters(Sizes.of(run.blocks), self.report["masks"], self._device)
            for kind, parameter in self.masks.log_alpha.items():
                parameter.data.copy_(log_alpha[kind])
        if "multipliers" in state:
            self._begin_pruning(run)
            self.multipliers.data.copy_(state["multipliers"])
            for name, parameter, optimizer in self._learned():
                moments = unnest(f"moments.{name}", state)
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter) for key, value in moments.items()
                }

    def before_step(self, run: Run) -> None:
        """Pruning: a step of the masks down and of the multipliers up the Lagrangian."""
        if self._distillation is not None:
            self._distillation.step(run.optimizer.param_groups[0]["lr"])
        if self._masked is None:
            return
        expected = sparsity_of(self.masks.open_probability(), self.masks.sizes, self._total)
        target = self.settings.sparsity * min(1.0, (run.step - self.begin) / self.warmup)
        lagrangian(expected, target, self.multipliers).backward()
        distributed.average(p.grad for p in self.masks.log_alpha.values() if p.grad is not None)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.masks.clamp()
        if self.settings.schedule == "fair":
            unwind(self.multipliers, expected.item() - target)
        self._note(run, expected.item(), target)

    def after_step(self, run: Run) -> None:
        """Go from stage to stage; hold zeros after the last."""
        self._zeros.apply()
        if run.step == self.begin:
            if self.settings.teacher == "run":
                self._learn_from(copy_of(run.model, weights_of(run.model)))
            self._begin_pruning(run)
        if run.step == self.end and self._masked is not None:
            self._end_pruning(run)
        if self._rate is not None:
            self._rate.follow(run)

    def finish(self, run: Run) -> None:
        """Complete the report; a run that ends early is compacted now."""
        if self._masked is not None:
            self._end_pruning(run)
        self.abandon()
        self._zeros.apply()
        self.report["removed_heads"] = removed_heads(run.model)

    def abandon(self) -> None:
        """Take masks and teacher off; set embeddings free again."""
        for attached in (self._masked, self._distillation):
            if attached is not None:
                attached.detach()
        for name in self._frozen:  # the parameters themselves may have been replaced by narrower ones
            self._model.get_parameter(name).requires_grad_(True)
        self._masked, self._distillation, self._frozen = None, None, ()

    def final_masks(self) -> MaskValues:
        """Return the masks that would be taken now."""
        if self.settings.schedule == "fair":
            return meet(self.masks, self.settings.sparsity, self._total)
        return self.masks.for_evaluation()

    def _plan(self, run: Run) -> None:
        """Find the steps of the stages; freeze the embeddings."""
        asked, last = self.settings, run.total_steps - 1
        self.begin, self.end = (min(last, round(share * run.total_steps)) for share in (asked.start, asked.end))
        self.end = max(self.end, self.begin + 1)
        self.warmup = max(1, round(asked.warmup * run.total_steps))
        if asked.schedule == "fair":
            self.warmup = max(self.warmup, round(FAIR_WARMUP * (self.end - self.begin)))
        self._model, self._blocks, self._device = run.model, run.blocks, next(run.model.parameters()).device
        self._total = prunable_weights(run.model)
        self._rate = None
        self._zeros = KeptZeros()
        frozen = {id(parameter) for parameter in freeze_embeddings(run)}
        self._frozen = [name for name, parameter in run.model.named_parameters() if id(parameter) in frozen]

    def _learned(self) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
        """Yield name, parameter and optimizer of everything that is learned beside the model."""
        for kind, parameter in self.masks.log_alpha.items():
            yield kind, parameter, self._optimizers[0]
        yield "multipliers", self.multipliers, self._optimizers[1]

    def _begin_pruning(self, run: Run) -> None:
        self.masks.clamp()
        self.multipliers = nn.Parameter(torch.zeros(2, device=self._device))
        masks, rate, fair = list(self.masks.log_alpha.values()), self.settings.reg_lr, self.settings.schedule == "fair"
        if fair:
            rate = min(FASTEST, rate * max(1.0, self.settings.mask_lr_steps / (self.end - self.begin)))
        memory, lead = (FAIR_BETAS, FAIR_LEAD) if fair else ((0.9, 0.999), 1.0)
        self._optimizers = [
            torch.optim.AdamW(masks, lr=rate, betas=memory, weight_decay=0.0),
            torch.optim.AdamW([self.multipliers], lr=rate * lead, weight_decay=0.0, maximize=True),
        ]
        self._masked = MaskedModel(run.model, run.blocks, self._stream, self._draw)

    def _learn_from(self, teacher: nn.Module) -> Distillation:
        share, temperature = self.settings.layer_share, self.settings.teacher_temperature
        self._distillation = Distillation(self._model, teacher, share, temperature, self._alive)
        return self._distillation

    def _alive(self) -> Tensor:
        """Return which MLPs pass something on now."""
        if self._masked is not None:
            return self._masked.masks.mlps != 0
        silent = self.report.get("silent", ())
        return torch.tensor([mlp.name not in silent for mlp in self._blocks.mlps])

    def _draw(self, training: bool) -> MaskValues:
        return self.masks.draw() if training else self.masks.for_evaluation()

    def _end_pruning(self, run: Run) -> None:
        assert self._masked is not None
        self._masked.detach()
        self._masked = None
        masks = self.final_masks()
        if not bool(masks.hidden.any()):
            masks.hidden[self.masks.log_alpha["hidden"].argmax()] = 1.0
        self.report["masks_sparsity"] = float(sparsity_of(opened(masks), self.masks.sizes, self._total))
        self.report["hidden_left"] = int((masks.hidden != 0).sum())
        self.report["silent"] = compact(run, self._stream, masks)
        if self._distillation is not None and self._stream is not None:
            self._distillation.cut(masks.hidden.nonzero().flatten())
        if self.settings.schedule == "fair":
            top_up(run, round(self.settings.sparsity * self._total))
        self._zeros = KeptZeros.of(run.blocks)
        self.report["events"].append({"step": run.step, "asked": self.settings.sparsity} | reached(run.model))
        if self.settings.final_lr != 1:
            self._rate = RaisedRate(self.settings.final_lr, run)

    def _note(self, run: Run, expected: float, target: float) -> None:
        every = max(1, (self.end - self.begin) // ENTRIES)
        if (run.step - self.begin) % every == 0 or run.step == self.end - 1:
            first, second = self.multipliers.tolist()
            entry = {"step": run.step, "expected": expected, "target": target, "lambda1": first, "lambda2": second}
            self.report["history"].append(entry)


class CoFi(Method):
    """CoFi: `CoFi(sparsity=0.8)`.

    Args:
        **fields: See `neuroprune.config.settings.CoFiSettings`.
    """

    settings_class = CoFiSettings

    def make_strategy(self) -> MaskedPruning:
        """Return a new strategy."""
        return MaskedPruning(self.settings)


def lagrangian(expected: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """Return lambda1 (s - t) + lambda2 (s - t)^2: minimised over the masks, maximised over the multipliers.

    Args:
        expected: Expected sparsity s, a scalar.
        target: Its target t now.
        multipliers: `[2]`, lambda1 and lambda2.

    Returns:
        A scalar.
    """
    gap = expected - target
    return multipliers[0] * gap + multipliers[1] * gap.square()


@torch.no_grad()
def top_up(run: Run, goal: int) -> None:
    """Set the smallest single weights to zero until so many of the dense model's are zero or removed; cut nothing.

    Args:
        run: Its model is changed in place, unless more is removed already.
        goal: Number of weights.
    """
    weights = [projection.weight for projection in prunable_projections(run.blocks)]
    marks = smallest(weights, max(0, goal - removed_weights(run.model)))
    for weight, mark in zip(weights, marks, strict=True):
        weight.masked_fill_(mark, 0)


@torch.no_grad()
def unwind(multipliers: Tensor, gap: float) -> None:
    """Halve lambda1, in place, if it still pushes away from the target on the other side of it.

    Args:
        multipliers: `[2]`; the first is changed.
        gap: Expected sparsity less its target now.
    """
    if gap * float(multipliers[0]) < 0:
        multipliers[0] *= 0.5


def _stream(model: nn.Module, kinds: tuple[str, ...]) -> tuple[Stream | None, dict[str, str]]:
    """Find the residual stream if a hidden mask is wanted; say why if the model can't have one."""
    if "hidden" not in kinds:
        return None, {}
    try:
        return find_stream(model), {}
    except StreamError as error:
        return None, {"hidden": str(error)}
