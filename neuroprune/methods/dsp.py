"""Differentiable subset pruning of heads (Li et al. 2021, arXiv 2108.04657) as a baseline, for every architecture.

The published constants and schedules are kept. Differences from the authors' code: noise is off in evaluation, `heads`
may equal the number of all heads, the end of the cooldown is a fraction of the steps, the gradient of the scores is
clipped separately, and unselected heads are removed physically at the end, so that inference times are comparable.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune import distributed
from neuroprune.config.methods import DSPSettings
from neuroprune.errors import UserError
from neuroprune.methods.callback import Method
from neuroprune.methods.components import preconditions
from neuroprune.methods.components.embeddings import FrozenParameters
from neuroprune.methods.components.gumbel_top_k import gumbel_top_k, log_linear, straight_through_top_k, top_k
from neuroprune.methods.components.head_count import in_steps
from neuroprune.methods.components.removal_report import head_distances, reached
from neuroprune.methods.components.state_files import nest, unnest
from neuroprune.methods.components.unit_masks import Gates, remove_closed
from neuroprune.methods.hooks import Hooks, Run, State
from neuroprune.pruning import heads
from neuroprune.pruning.blocks import Attention, Block

logger = logging.getLogger(__name__)

CLIP = 1.0  # maximum gradient norm of the scores


class HeadScores:
    """Learned scores of all heads, and masks drawn from the scores.

    The scores are float64 on the CPU and have a separate optimizer.

    Args:
        attentions: The attentions whose heads are scored.
        settings: DSP's settings.
        total_steps: Optimizer steps of the run.
        step: Completed optimizer steps.

    Attributes:
        scores: `[units]`, concatenated over all attentions; with grouped queries, a unit is a key/value head.
        step: Completed optimizer steps, which determine the temperature.
    """

    def __init__(self, attentions: Sequence[Attention], settings: DSPSettings, total_steps: int, step: int) -> None:
        self._attentions, self._settings, self._total_steps = attentions, settings, total_steps
        self._sizes = [attention.units for attention in attentions]
        self._kept = _units(settings.heads, sum(self._sizes), max(attention.groups for attention in attentions))
        self.step = step
        self.scores = nn.Parameter(xavier_scores(self._sizes))
        distributed.copy_main([self.scores])
        self._optimizer = torch.optim.AdamW([self.scores], lr=settings.score_lr, weight_decay=0.0)

    def state_dict(self) -> State:
        """Return the scores, their optimizer moments and the planned number of steps."""
        moments = nest("optimizer", self._optimizer.state[self.scores])
        return {"scores": self.scores.detach(), "total_steps": self._total_steps} | moments

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`, and with it the plan, even if the run's length has changed."""
        self._total_steps = state["total_steps"]
        self.scores.data.copy_(state["scores"])
        self._optimizer.state[self.scores] = unnest("optimizer", state)

    def update(self) -> None:
        """Update the scores, with a clipped gradient and a learning rate that decays linearly to 0."""
        if self.scores.grad is None:
            return
        distributed.average([self.scores.grad])
        self.scores.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        torch.nn.utils.clip_grad_norm_([self.scores], CLIP)
        self._optimizer.param_groups[0]["lr"] = self._settings.score_lr * max(0.0, 1 - self.step / self._total_steps)
        self._optimizer.step()
        self._optimizer.zero_grad()

    @property
    def cooled(self) -> int:
        """Step from which the temperature is constant."""
        return math.ceil(self._settings.cooldown * self._total_steps)

    @property
    def temperature(self) -> float:
        """Temperature of the next forward pass."""
        asked, steps = self._settings, self._settings.cooldown * self._total_steps
        return log_linear(self.step, steps, asked.start_temperature, asked.end_temperature)

    def draw(self, training: bool) -> dict[Block, Tensor]:
        """Return the masks of all attentions: random in training, the best heads in evaluation."""
        if not training:
            mask = top_k(self.scores, self._kept)
        elif self._settings.estimator == "gumbel":
            mask = gumbel_top_k(self.scores, self._kept, self.temperature)
        else:
            mask = straight_through_top_k(self.scores, self._kept)
        return self._by_attention(mask)

    def by_attention(self) -> list[list[float]]:
        """Return the scores of each attention."""
        return [scores.tolist() for scores in self._by_attention(self.scores.detach()).values()]

    def _by_attention(self, values: Tensor) -> dict[Block, Tensor]:
        return dict(zip(self._attentions, values.split(self._sizes), strict=True))


class SubsetPruning(Hooks):
    """DSP's strategy: learn a score for each head, mask heads by score, keep the highest-scoring heads at the end.

    Args:
        settings: DSP's settings.

    Attributes:
        learned: The scores; None before `start`.
    """

    heads_only = True
    settings: DSPSettings

    def __init__(self, settings: DSPSettings) -> None:
        super().__init__(settings)
        self.learned: HeadScores | None = None
        self._gates: Gates | None = None
        self._frozen = FrozenParameters()

    def start(self, run: Run) -> None:
        """Draw the scores and attach the gates."""
        if run.step:
            raise UserError(f"DSP can't start at step {run.step}: the model contains no scores; train from step 0.")
        self._attach(run)

    def state_dict(self) -> State:
        """Return the scores, their optimizer moments and the report."""
        assert self.learned is not None
        return {"report": self.report} | self.learned.state_dict()

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Continue with the same scores."""
        self._attach(run).load_state(state)
        self.report.update(state["report"])

    def before_step(self, run: Run) -> None:
        """Update the scores."""
        assert self.learned is not None
        preconditions.check_training_mode(run.model, "DSP")
        self.learned.step = run.step
        self.learned.update()

    def after_step(self, run: Run) -> None:
        """Lower the temperature."""
        assert self.learned is not None
        self.learned.step = run.step

    def finish(self, run: Run) -> None:
        """Keep the heads with the highest scores and remove the others; warn if the scores were hardly trained."""
        self.abandon()
        assert self.learned is not None
        if run.step < (planned := self.learned.cooled):
            logger.warning(
                "training ended at step %d, before the masks of DSP settled at step %d; the choice of heads is partly "
                "random",
                run.step,
                planned,
            )
        chosen = self.learned.draw(training=False)
        self.report["removed_heads"] = [
            heads.query_heads(attention, (chosen[attention] == 0).nonzero().flatten().tolist())
            if attention in chosen
            else []
            for attention in run.blocks.attentions
        ]
        self.report["silent"] = remove_closed(run, chosen)
        self.report["scores"] = self.learned.by_attention()
        self.report["events"].append({"step": run.step} | reached(run.model))

    def abandon(self) -> None:
        """Remove the gates; unfreeze parameters."""
        if self._gates is not None:
            self._gates.detach()
            self._gates = None
        self._frozen.release()

    def _attach(self, run: Run) -> HeadScores:
        """Draw the scores, attach the masks, and freeze the model if only the scores are learned."""
        preconditions.check_not_reentrant(run.model, "DSP")
        attentions = run.blocks.present.attentions
        self.learned = HeadScores(attentions, self.settings, run.total_steps, run.step)
        self._gates = Gates(run.model, attentions, self.learned.draw)
        if self.settings.stage == "pipelined":
            self._frozen = FrozenParameters.freeze(run.model, run.model.parameters())
        self.report |= {"heads": self.settings.heads, "events": [], "head_distances": head_distances(run.blocks)}
        return self.learned


class DSP(Method):
    """Differentiable subset pruning: `DSP(heads=50)`.

    Args:
        **fields: See `neuroprune.config.methods.DSPSettings`.
    """

    settings_class = DSPSettings
    learns_masks = True
    settings: DSPSettings

    def make_strategy(self) -> SubsetPruning:
        """Return a new strategy."""
        return SubsetPruning(self.settings)


def xavier_scores(counts: list[int]) -> Tensor:
    """Draw initial scores with Xavier's uniform distribution for a matrix of layers x heads.

    Args:
        counts: Numbers of heads of the layers.

    Returns:
        float64 `[all heads]`.
    """
    bound = math.sqrt(6 / (len(counts) + sum(counts) / len(counts)))
    return (torch.rand(sum(counts), dtype=torch.float64) * 2 - 1) * bound


def _units(heads: int, units: int, groups: int) -> int:
    """Return the number of units to keep; reject an impossible number."""
    if heads > units * groups or heads % groups:
        raise UserError(
            f"heads={heads}: the model has {units * groups} heads; choose a number from {groups} to "
            f"{units * groups}{in_steps(groups)}."
        )
    return heads // groups
