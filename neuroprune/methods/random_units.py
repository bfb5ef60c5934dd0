"""Random structured removal, as a baseline: the level that any score has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.config.settings import RandomUnitsSettings
from neuroprune.methods.callback import Method
from neuroprune.methods.components.unit_removal import UnitTarget, unit_sizes
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import find_blocks


class RandomTarget(UnitTarget):
    """At each event remove heads and neurons by lot.

    The lots come from a generator of their own, seeded with torch's seed, so that dropout is drawn as without them.
    """

    def scores(self, run: Run) -> list[Tensor]:
        """Draw a number for each unit; in proportion to its size, because the budget's order is by score and size."""
        blocks = find_blocks(run.model)
        counts = [a.heads // a.groups for a in blocks.attentions] + [mlp.width for mlp in blocks.mlps]
        generator = torch.Generator().manual_seed((torch.initial_seed() + run.step) % 2**63)
        sizes = unit_sizes(blocks)
        return [torch.rand(n, generator=generator) * size for n, size in zip(counts, sizes, strict=True)]


class RandomUnits(Method):
    """Random structured removal to a target: `RandomUnits(sparsity=0.8)`.

    Args:
        **fields: See `neuroprune.config.settings.RandomUnitsSettings`.
    """

    settings_class = RandomUnitsSettings

    def make_strategy(self) -> RandomTarget:
        """Return a new strategy."""
        return RandomTarget(self.settings)
