"""Random structured removal, the baseline that every score has to exceed."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune import distributed
from neuroprune.config.methods import RandomUnitsSettings
from neuroprune.methods.callback import Method
from neuroprune.methods.components.unit_removal import UnitTarget
from neuroprune.methods.hooks import Run
from neuroprune.pruning.blocks import Block
from neuroprune.pruning.sparsity import unit_size


class RandomTarget(UnitTarget):
    """Strategy that removes randomly chosen heads and neurons at each event.

    Random numbers come from a separate generator, seeded with torch's seed, so that dropout is not affected.
    """

    def scores(self, run: Run) -> dict[Block, Tensor]:
        """Draw a random number per unit, scaled by the unit's size because units are ranked by score per weight."""
        generator = torch.Generator().manual_seed((torch.initial_seed() + run.step) % 2**63)
        drawn = {block: torch.rand(block.units, generator=generator) for block in run.blocks.all}
        distributed.copy_main(drawn.values())
        return {block: numbers * unit_size(block) for block, numbers in drawn.items()}


class RandomUnits(Method):
    """Random structured removal to a target: `RandomUnits(sparsity=0.8)`.

    Args:
        **fields: See `neuroprune.config.methods.RandomUnitsSettings`.
    """

    settings_class = RandomUnitsSettings

    def make_strategy(self) -> RandomTarget:
        """Return a new strategy."""
        return RandomTarget(self.settings)
