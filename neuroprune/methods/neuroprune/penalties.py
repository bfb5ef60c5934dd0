"""NeuroPrune by penalties, the paper's algorithm: Eq. 1, Eq. 2, and Algorithms 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from neuroprune.config.methods import NeuroPruneSettings
from neuroprune.methods.components.penalty import PenaltyForm
from neuroprune.methods.hooks import Run
from neuroprune.pruning import heads, penalties
from neuroprune.pruning.blocks import Attention
from neuroprune.pruning.surgery import kept_units, remove


class NeuroPrunePenalty(PenaltyForm):
    """The paper's strategy: penalties of Eq. 1 and 2 in every step, merging of redundant heads after every epoch."""

    def __init__(self, settings: NeuroPruneSettings) -> None:
        super().__init__(settings)
        self.alpha, self.beta = settings.alpha or 0.0, settings.beta or 0.0

    def add_gradients(self, run: Run) -> None:
        """Add the gradients of alpha x Eq. 1 and beta x Eq. 2."""
        eps, reading, kept = self.settings.eps, self.settings.degree_weight, kept_units(run.model)
        blocks = run.blocks.present
        for mlp in blocks.mlps if self.alpha else []:
            penalties.add_mlp_gradient(mlp, self.alpha, eps, reading, kept.of(mlp).dense)
        for attention in blocks.attentions if self.beta else []:
            penalties.add_attention_gradient(attention, self.beta)

    def shrink(self, run: Run, rates: Mapping[nn.Parameter, float]) -> None:
        """Take the proximal steps of learning rate x alpha x Eq. 1 and learning rate x beta x Eq. 2."""
        eps, reading, kept = self.settings.eps, self.settings.degree_weight, kept_units(run.model)
        blocks = run.blocks.present
        for mlp in blocks.mlps if self.alpha else []:
            penalties.shrink_mlp(mlp, self.alpha, eps, reading, kept.of(mlp).dense, rates)
        for attention in blocks.attentions if self.beta else []:
            penalties.shrink_attention(attention, self.beta, rates)

    def start(self, run: Run) -> None:
        """Check that the merge fits the model before an epoch is spent; start the penalties."""
        if self.settings.theta is not None and self.settings.merge == "mlp_in":
            kept = kept_units(run.model)
            for attention in run.blocks.present.attentions:
                heads.check_mlp_in(attention, heads.mlp_of(attention, run.blocks.mlps), kept.of(attention).dense)
        super().start(run)

    def epoch_end(self, run: Run) -> None:
        """Merge each redundant head into its dominating head and remove it (Algorithm 2)."""
        if self.merges(run):
            self.merge_heads(run)
        super().epoch_end(run)

    def merges(self, run: Run) -> bool:
        """Return whether heads are merged at the end of the current epoch."""
        return self.begun(run, run.step - 1)

    def merge_heads(self, run: Run) -> None:
        """Merge and remove every layer's redundant heads if a threshold is given."""
        if self.settings.theta is not None:
            gone = {attention.index: self._merge(run, attention) for attention in run.blocks.present.attentions}
            remove(run.model, gone, optimizer=run.optimizer)

    def _merge(self, run: Run, attention: Attention) -> list[int]:
        """Merge one layer's redundant heads according to the settings; return the query heads to remove."""
        dominating = heads.find_dominating(heads.similarity(attention, self.settings.theta))
        if self.settings.merge == "output":
            heads.merge_output(attention, dominating)
        elif self.settings.merge == "mlp_in":
            units, groups = kept_units(run.model).of(attention), attention.groups
            positions = [head // groups for head in units.left.tolist()[::groups]]
            mlp = heads.mlp_of(attention, run.blocks.mlps)
            heads.merge_mlp_in(attention, mlp, dominating, positions, units.dense // groups)
        replaced = [head for head, dominant in enumerate(dominating.tolist()) if head != dominant]
        return heads.query_heads(attention, replaced)
