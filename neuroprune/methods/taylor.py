"""First-order structured pruning as a baseline: units are ranked by |w dL/dw|, the estimated loss change without w."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuroprune.config.methods import TaylorSettings
from neuroprune.errors import UserError
from neuroprune.methods.callback import Method
from neuroprune.methods.components.preconditions import may_skip
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.unit_removal import UnitTarget
from neuroprune.methods.hooks import Run, State
from neuroprune.pruning.blocks import Block, Projection


class TaylorTarget(UnitTarget):
    """Strategy that removes, at each event, the units with the smallest sum of |w dL/dw| per weight.

    Gradients are taken from the optimizer steps before the event, after clipping. Steps whose gradients overflow, as in
    fp16 training, do not count. If none counts, the event is postponed.
    """

    settings: TaylorSettings

    def __init__(self, settings: TaylorSettings) -> None:
        super().__init__(settings)
        self._sums: dict[Block, Tensor] | None = None
        self._checked = False

    def before_step(self, run: Run) -> None:
        """Add this step's |w dL/dw| to the scores if an event is near; check the gradients of the first step."""
        if not self._checked:
            self._checked = True
            check_gradients(run)
        if self.events and run.step >= min(self.events) - run.steps_for(self.settings.calibration_rows):
            self._add(taylor_scores(run))

    def ready(self) -> bool:
        """Return whether there are scores; not if the gradients of all steps have overflowed."""
        return self._sums is not None

    def state_dict(self) -> State:
        """Return the state of the target form and, if an event is near, the sums so far."""
        sums = {str(i): values for i, values in enumerate((self._sums or {}).values())}
        return super().state_dict() | {"summing": self._sums is not None} | nest("sums", sums)

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Resume with the same sums."""
        super().resume(run, state)
        if state["summing"]:
            sums, device = unnest("sums", state), next(run.model.parameters()).device
            self._sums = {block: sums[str(i)].to(device) for i, block in enumerate(run.blocks.all)}

    def scores(self, run: Run) -> dict[Block, Tensor]:
        """Return and reset the sums since the last event; blocks skipped in every step keep all units."""
        sums, self._sums = self._sums, None
        assert sums is not None, "before_step has run at least once before an event"
        return {
            block: found if bool(found.any()) else torch.full_like(found, torch.inf) for block, found in sums.items()
        }

    def _add(self, now: dict[Block, Tensor]) -> None:
        """Add a step's scores to the sums, unless the gradients have overflowed."""
        if bool(torch.cat([*now.values()]).isfinite().all()):
            self._sums = now if self._sums is None else {block: self._sums[block] + now[block] for block in now}


@torch.no_grad()
def taylor_scores(run: Run) -> dict[Block, Tensor]:
    """Sum |w dL/dw| over the weights of each unit, for the current gradients.

    Args:
        run: A run with the complete gradients of a step; layers skipped in this step have no gradients and score 0.

    Returns:
        For each block float32 `[units]`: heads (with grouped queries: key/value heads with their query heads) or
        neurons.
    """
    return {block: _sum(block) for block in run.blocks.all}


def check_gradients(run: Run) -> None:
    """Raise `UserError` if a matrix has no gradient, unless the block may be skipped."""
    for block in [] if may_skip(run) else run.blocks.all:
        if any(projection.grad is None for projection in (*block.inputs, block.output)):
            raise UserError(
                f"no gradient reached a matrix of {block.name}; Taylor needs the loss to depend on all of them and "
                "their weights to be trained: unfreeze them with requires_grad_(True)."
            )


def _sum(block: Block) -> Tensor:
    """Sum over each unit's rows of the input projections and columns of the output projection."""
    if not block.units:
        return torch.zeros(0, device=block.output.weight.device)
    found = [_products(projection).sum(dim=1) for projection in block.inputs]
    found.append(_products(block.output).sum(dim=0))
    return torch.stack([channels.view(block.units, -1).sum(dim=1) for channels in found]).sum(dim=0)


def _products(projection: Projection) -> Tensor:
    weight, grad = projection.weight.float(), projection.grad
    return torch.zeros_like(weight) if grad is None else (weight * grad.float()).abs()


class Taylor(Method):
    """First-order structured pruning to a target: `Taylor(sparsity=0.8)`.

    Args:
        **fields: See `neuroprune.config.methods.TaylorSettings`.
    """

    settings_class = TaylorSettings
    settings: TaylorSettings

    def make_strategy(self) -> TaylorTarget:
        """Return a new strategy."""
        return TaylorTarget(self.settings)
