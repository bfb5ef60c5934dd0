"""Target number of heads: feasibility check, schedule, and selection of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neuroprune.errors import UserError
from neuroprune.methods.components.unit_selection import Chosen, UnitGroup, choose_units, fewest_units
from neuroprune.methods.hooks import Run
from neuroprune.pruning.sparsity import prunable_weights, unit_size
from neuroprune.pruning.surgery import kept_units


def check_head_count(run: Run, heads: int, sparsity: float | None, min_share: float) -> None:
    """Reject a number of heads that is impossible for the model, by itself or at the target sparsity.

    Args:
        run: The run at its start.
        heads: Target number of query heads.
        sparsity: Target sparsity, None if only heads are removed.
        min_share: Fraction of its neurons that each MLP keeps.

    Raises:
        UserError: If it can't be met; the message gives the possible range.
    """
    attentions, present = run.blocks.attentions, sum(map(len, kept_units(run.model).heads))
    groups, needed = run.blocks.groups, fewest_units(run, min_share)
    fewest = max(1, sum(needed[attention] for attention in attentions)) * groups
    if not fewest <= heads <= present or heads % groups:
        raise UserError(
            f"heads={heads}: the model has {present} heads in {len(attentions)} attentions, and each attention keeps "
            f"at least one unless min_share is 0; choose a number from {fewest} to {present}{in_steps(groups)}."
        )
    if sparsity is not None:
        least, most = _possible_sparsity(run, heads, min_share)
        if not least <= sparsity <= most:
            raise UserError(
                f"sparsity={sparsity:g} can't be met with heads={heads}; choose a sparsity from {least:.1%} to "
                f"{most:.1%}, or another number of heads."
            )


def in_steps(groups: int) -> str:
    """Return the end of a sentence on possible numbers of heads, given the query heads per key/value head."""
    return f" in steps of {groups}, because {groups} query heads share a key/value head" if groups > 1 else ""


def _possible_sparsity(run: Run, heads: int, min_share: float) -> tuple[float, float]:
    """Return the lowest and the highest sparsity of a model with this number of heads."""
    dense, total = sum(kept_units(run.model).dense_heads), prunable_weights(run.model)
    groups, fewest = run.blocks.groups, fewest_units(run, min_share)
    size = max(unit_size(attention) for attention in run.blocks.attentions)
    neurons = sum(unit_size(mlp) * fewest[mlp] for mlp in run.blocks.mlps)
    return (dense - heads) // groups * size / total, 1 - (heads // groups * size + neurons) / total


def heads_to_remove(run: Run, heads: int, progress: float) -> int:
    """Return the number of heads that an event removes (with grouped queries: key/value heads with their query heads).

    Args:
        run: The run.
        heads: Target number of query heads.
        progress: Fraction of the removals that is complete after this event; 1 at the last.

    Returns:
        Number of heads.
    """
    kept, groups = kept_units(run.model), run.blocks.groups
    dense = sum(kept.dense_heads)
    left = dense - round(progress * (dense - heads) / groups) * groups
    return max(0, sum(map(len, kept.heads)) - left) // groups


def choose_heads_first(heads: Sequence[UnitGroup], neurons: Sequence[UnitGroup], count: int, room: int) -> Chosen:
    """Choose the `count` weakest heads of all attentions, then the weakest neurons within the remaining budget.

    With the same scores, a larger `count` chooses a superset of the heads.

    Args:
        heads: The units of the attentions.
        neurons: The units of the MLPs.
        count: Number of heads to choose.
        room: Number of weights that may be removed, including those of the heads.

    Returns:
        The chosen units of every block.
    """
    chosen = choose_units([replace(group, size=1) for group in heads], count)
    rest = room - sum(len(chosen[group.block]) * group.size for group in heads)
    return chosen | choose_units(neurons, max(0, rest))
