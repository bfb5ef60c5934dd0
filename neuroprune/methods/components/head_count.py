"""A number of heads that is asked for: whether it can be had, how many go at an event, and which."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.methods.components.unit_removal import fewest_units, unit_sizes
from neuroprune.methods.components.unit_selection import choose_units
from neuroprune.methods.hooks import Run
from neuroprune.pruning.sparsity import prunable_weights
from neuroprune.pruning.surgery import kept_units


def check_head_count(run: Run, heads: int, sparsity: float | None, min_share: float) -> None:
    """Refuse a number of heads that the model can't be left with, or not together with the sparsity.

    Args:
        run: The run at its start.
        heads: Query heads that are to be left.
        sparsity: Share of the prunable weights that is to go, None if nothing but heads is.
        min_share: Share of its neurons that a layer keeps at least.

    Raises:
        UserError: If it can't be had; the sentence says what can.
    """
    blocks, kept = run.blocks, kept_units(run.model)
    groups, present = blocks.attentions[0].groups, sum(map(len, kept.heads))
    fewest = len(blocks.attentions) * groups
    if not fewest <= heads <= present or heads % groups:
        steps = f" in steps of {groups}, because so many share a key/value head" if groups > 1 else ""
        raise UserError(
            f"heads={heads}: the model has {present} heads in {len(blocks.attentions)} attentions, each of which keeps "
            f"at least one; ask for {fewest} to {present}{steps}."
        )
    if sparsity is not None:
        sizes, least = unit_sizes(blocks), fewest_units(blocks, kept, min_share)
        count, total = len(blocks.attentions), prunable_weights(run.model)
        gone = (sum(kept.dense_heads) - heads) // groups * sizes[0] / total
        neurons = sum(size * few for size, few in zip(sizes[count:], least[count:], strict=True))
        most = 1 - (heads // groups * sizes[0] + neurons) / total
        if not gone <= sparsity <= most:
            raise UserError(
                f"sparsity={sparsity:g} does not go together with heads={heads}: with so many heads left, between "
                f"{gone:.1%} and {most:.1%} of the weights can be gone."
            )


def heads_to_go(run: Run, heads: int, progress: float) -> int:
    """Return how many heads an event removes (with grouped queries: key/value heads with their queries).

    Args:
        run: The run.
        heads: Query heads that are left in the end.
        progress: Share of all removed heads that are gone after this event; 1 at the last.

    Returns:
        How many are to be chosen.
    """
    kept, groups = kept_units(run.model), run.blocks.attentions[0].groups
    dense = sum(kept.dense_heads)
    left = dense - round(progress * (dense - heads) / groups) * groups
    return max(0, sum(map(len, kept.heads)) - left) // groups


def choose_heads_first(
    scores: Sequence[Tensor], sizes: Sequence[int], fewest: Sequence[int], heads: int, room: int, attentions: int
) -> list[list[int]]:
    """Choose the weakest heads of all attentions by number, then the weakest neurons for what is left of the room.

    Fewer heads are a subset of more: with the same scores, asking for fewer heads takes the same ones away, and others.

    Args:
        scores: As for `choose_units`.
        sizes: Likewise.
        fewest: Likewise.
        heads: How many heads are to be chosen.
        room: Weights that may go, heads included.
        attentions: How many of the blocks, the first, are attentions.

    Returns:
        Positions of the chosen units, for each block, rising.
    """
    gone = choose_units(scores[:attentions], [1] * attentions, fewest[:attentions], heads)
    rest = room - sum(len(units) * size for units, size in zip(gone, sizes, strict=False))
    return gone + choose_units(scores[attentions:], sizes[attentions:], fewest[attentions:], max(0, rest))
