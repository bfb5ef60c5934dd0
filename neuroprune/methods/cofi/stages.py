"""Stages of a CoFi run: fine-tuning, mask learning under a rising target, and final fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuroprune import distributed
from neuroprune.config.methods import CoFiSettings
from neuroprune.methods.cofi.masked_model import MaskedModel
from neuroprune.methods.cofi.masks import MaskParameters, MaskValues, meet, sparsity_of
from neuroprune.methods.components.rewarm import RaisedRate
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.zero_mask import KeptZeros
from neuroprune.methods.hooks import Run, State
from neuroprune.pruning.residual_stream import Stream

# Tuned on the masks only, for the fair schedule: they reach a target of 0.8 within 80 steps without overshooting.
FASTEST = 1.0  # largest learning rate of the masks
FAIR_BETAS = (0.5, 0.95)  # Adam's betas for the masks, with averaging short enough to change direction
FAIR_LEAD = 8.0  # ratio of the multipliers' learning rate to that of the masks
FAIR_WARMUP = 0.6  # smallest fraction of the pruning stage for the rise of the target

ENTRIES = 50  # number of history entries in the report


@dataclass(frozen=True)
class Timetable:
    """Steps at which the stages of a run begin and end.

    Args:
        begin: Completed steps at the start of mask learning.
        end: Completed steps at which the masks are fixed.
        warmup: Number of steps, from `begin`, during which the target rises.
    """

    begin: int
    end: int
    warmup: int

    @classmethod
    def of(cls, settings: CoFiSettings, total_steps: int) -> Timetable:
        """Return the timetable of a run of `total_steps` steps."""
        begin, end = (min(total_steps - 1, round(share * total_steps)) for share in (settings.start, settings.end))
        end, warmup = max(end, begin + 1), max(1, round(settings.warmup * total_steps))
        if settings.schedule == "fair":
            warmup = max(warmup, round(FAIR_WARMUP * (end - begin)))
        return cls(begin, end, warmup)

    def state(self) -> list[int]:
        """Return the steps as a list, for the method's state."""
        return list(astuple(self))

    def target(self, sparsity: float, step: int) -> float:
        """Return the target sparsity after `step` steps."""
        return sparsity * min(1.0, (step - self.begin) / self.warmup)


class Stage:
    """A stage of a run; its hooks do nothing by default.

    Attributes:
        name: Its name in the method's state.
    """

    name: ClassVar[str]

    def state_dict(self) -> State:
        """Return the state that `load_state` restores."""
        raise NotImplementedError

    def load_state(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        raise NotImplementedError

    def before_step(self, run: Run) -> None:
        """Act before the optimizer's step."""

    def after_step(self, run: Run) -> None:
        """Act after the optimizer's step."""

    def alive(self) -> Tensor | None:
        """Mark the MLPs that contribute to the model's output, bool `[MLPs]`; None means all."""
        return None

    def detach(self) -> None:
        """Remove the stage's hooks from the model and the optimizer."""


class FineTuning(Stage):
    """First stage: the model trains without masks.

    Args:
        masks: The already initialised parameters of the masks.
        stream: The model's residual stream, None if there is no hidden mask.
    """

    name = "fine-tuning"

    def __init__(self, masks: MaskParameters, stream: Stream | None) -> None:
        self.masks, self.stream = masks, stream

    def state_dict(self) -> State:
        """Return log alpha of the masks."""
        return nest("log_alpha", self.masks.state_dict())

    def load_state(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore log alpha."""
        self.masks.load_state(unnest("log_alpha", state))


class MaskLearning(Stage):
    """Second stage: learn masks, drawn in each forward pass, together with the Lagrangian's multipliers.

    Args:
        run: The run; hooks stay on its model until `detach`.
        masks: The parameters of the masks.
        stream: The model's residual stream, None if there is no hidden mask.
        settings: CoFi's settings.
        timetable: Steps of the stages.
        history: Filled with about `ENTRIES` entries of expected sparsity, target and multipliers.
        total: Prunable weights of the dense model.
    """

    name = "mask learning"

    def __init__(
        self,
        run: Run,
        masks: MaskParameters,
        stream: Stream | None,
        settings: CoFiSettings,
        timetable: Timetable,
        history: list[dict[str, float]],
        total: int,
    ) -> None:
        self.masks, self.stream = masks, stream
        self._settings, self._timetable, self._history = settings, timetable, history
        self.updates = MaskUpdates(masks, settings, timetable.end - timetable.begin, total)
        self.masked_model = MaskedModel(run.model, run.blocks, stream, self._draw)

    def state_dict(self) -> State:
        """Return log alpha, the multipliers and their moments."""
        return self.updates.state_dict()

    def load_state(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.updates.load_state(state)

    def alive(self) -> Tensor:
        """Mark the MLPs that contributed to the last forward pass, bool `[MLPs]`."""
        return self.masked_model.masks.open_mlps()

    def before_step(self, run: Run) -> None:
        """Update masks and multipliers; add the step to the history."""
        target = self._timetable.target(self._settings.sparsity, run.step)
        self._note(run, self.updates.step(target), target)

    def detach(self) -> None:
        """Remove the masks from the model."""
        self.masked_model.detach()

    def final_masks(self, total: int) -> MaskValues:
        """Return the final masks."""
        if self._settings.schedule == "fair":
            return meet(self.masks, self._settings.sparsity, total)
        return self.masks.for_evaluation()

    def _draw(self, training: bool) -> MaskValues:
        return self.masks.draw() if training else self.masks.for_evaluation()

    def _note(self, run: Run, expected: float, target: float) -> None:
        begin, end = self._timetable.begin, self._timetable.end
        every = max(1, (end - begin) // ENTRIES)
        if (run.step - begin) % every == 0 or run.step == end - 1:
            first, second = self.updates.multipliers.tolist()
            entry = {"step": run.step, "expected": expected, "target": target, "lambda1": first, "lambda2": second}
            self._history.append(entry)


class FinalFineTuning(Stage):
    """Third stage: the compacted model is fine-tuned while its zeros are kept.

    Args:
        rate_factor: Factor of the learning rate after re-warming.
        zeros: The single weights that stay zero.
        alive: True for MLPs that contribute, bool `[MLPs]`.
    """

    name = "final fine-tuning"

    def __init__(self, rate_factor: float, zeros: KeptZeros, alive: Tensor) -> None:
        self._rate, self._zeros, self._alive = RaisedRate(rate_factor), zeros, alive

    def begin(self, run: Run) -> None:
        """Start to raise the learning rate."""
        self._rate.begin(run)

    def state_dict(self) -> State:
        """Return the zeros and the progress of the learning rate."""
        return nest("zeros", self._zeros.state_dict()) | nest("rate", self._rate.state_dict())

    def load_state(self, run: Run, state: Mapping[str, Any]) -> None:
        """Restore the progress of the learning rate; the zeros are passed to the constructor."""
        self._rate.load_state(run, unnest("rate", state))

    def detach(self) -> None:
        """Return control of the learning rate to its schedule."""
        self._rate.detach()

    def alive(self) -> Tensor:
        """Mark the MLPs that contribute, bool `[MLPs]`."""
        return self._alive

    def after_step(self, run: Run) -> None:
        """Restore the zeros and update the learning rate."""
        self.hold_zeros()
        self._rate.follow(run)

    def hold_zeros(self) -> None:
        """Reset the kept zeros to zero."""
        self._zeros.apply()


class MaskUpdates:
    """Gradient descent on the masks and ascent on the multipliers of the Lagrangian.

    Args:
        masks: The parameters of the masks, which are clamped after each update.
        settings: CoFi's settings.
        steps: Number of steps of mask learning.
        total: Prunable weights of the dense model.

    Attributes:
        multipliers: `[2]`, lambda1 and lambda2.
        optimizers: The optimizers of the masks and of the multipliers.
    """

    def __init__(self, masks: MaskParameters, settings: CoFiSettings, steps: int, total: int) -> None:
        masks.clamp()
        self._masks, self._total, self._fair = masks, total, settings.schedule == "fair"
        parameters = list(masks.log_alpha.values())
        self.multipliers = nn.Parameter(torch.zeros(2, device=parameters[0].device))
        rate = settings.reg_lr
        if self._fair:
            rate = min(FASTEST, rate * max(1.0, settings.mask_lr_steps / steps))
        memory, lead = (FAIR_BETAS, FAIR_LEAD) if self._fair else ((0.9, 0.999), 1.0)
        self.optimizers = [
            torch.optim.AdamW(parameters, lr=rate, betas=memory, weight_decay=0.0),
            torch.optim.AdamW([self.multipliers], lr=rate * lead, weight_decay=0.0, maximize=True),
        ]

    def step(self, target: float) -> float:
        """Update masks and multipliers; return the expected sparsity before the update."""
        expected = sparsity_of(self._masks.open_probability(), self._total)
        lagrangian(expected, target, self.multipliers).backward()
        distributed.average(p.grad for p in self._masks.log_alpha.values() if p.grad is not None)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._masks.clamp()
        if self._fair:
            unwind(self.multipliers, expected.item() - target)
        return expected.item()

    def state_dict(self) -> State:
        """Return log alpha, the multipliers, and their optimizer moments."""
        state = nest("log_alpha", self._masks.state_dict()) | {"multipliers": self.multipliers.detach()}
        for name, parameter, optimizer in self._learned():
            state |= nest(f"moments.{name}", optimizer.state[parameter])
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self._masks.load_state(unnest("log_alpha", state))
        self.multipliers.data.copy_(state["multipliers"])
        for name, parameter, optimizer in self._learned():
            moments = unnest(f"moments.{name}", state)
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in moments.items()}

    def _learned(self) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
        """Yield the name, parameter and optimizer of all masks and of the multipliers."""
        for kind, parameter in self._masks.log_alpha.items():
            yield kind, parameter, self.optimizers[0]
        yield "multipliers", self.multipliers, self.optimizers[1]


def lagrangian(expected: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """Return lambda1 (s - t) + lambda2 (s - t)^2: minimised over the masks, maximised over the multipliers.

    Args:
        expected: Expected sparsity s, a scalar.
        target: Its current target t.
        multipliers: `[2]`, lambda1 and lambda2.

    Returns:
        A scalar.
    """
    gap = expected - target
    return multipliers[0] * gap + multipliers[1] * gap.square()


@torch.no_grad()
def unwind(multipliers: Tensor, gap: float) -> None:
    """Halve lambda1, in place, if it still pushes away from a target that has already been crossed.

    Args:
        multipliers: `[2]`; the first is changed.
        gap: Expected sparsity minus its current target.
    """
    if gap * float(multipliers[0]) < 0:
        multipliers[0] *= 0.5
