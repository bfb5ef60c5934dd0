"""Statistics of a model's units, collected by hooks from training batches before a removal.

While a `Calibration` is attached, every backward pass of the model adds to its statistics; once detached, it adds no
cost. Statistics are computed in float32, outside autocast, from activations and their gradients. They are therefore
independent of gradient clipping, accumulation and the optimizer, but not of a loss scale that changes within a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroprune import distributed
from neuroprune.errors import UserError
from neuroprune.methods.components.batch import Batch
from neuroprune.methods.components.second_moments import Means, SecondMoments
from neuroprune.methods.hooks import State
from neuroprune.pruning.blocks import Block, Blocks, Projection, config_of

Kind = type[Means] | type[SecondMoments]
WEIGHT_FLOOR = 0.01  # weight of a token without influence on the loss, relative to a mean of 1


@dataclass
class UnitStatistics:
    """Statistics of the units before one output projection, computed from the projection's input.

    Args:
        projection: The output projection of an attention or MLP.
        channels: Input channels of one unit: the size of a head (times its query heads), or 1 for a neuron.
        gates: float32 `[units, n, n]`, sum over samples of g g^T, with the gradients g from `gate_gradients`: the
            unit's gate comes last, preceded by the unit's channels if connectivity is centred (n is 1 or channels + 1).
        samples: Number of samples.
        moments: Weighted means or second moments of the tokens in the projection's input; or None.
        finite: Whether a sample had only finite gradients since the statistics were created or restored.
    """

    projection: Projection
    channels: int
    gates: Tensor
    samples: int = 0
    moments: Means | SecondMoments | None = None
    finite: Tensor | bool = False

    @classmethod
    def empty(cls, block: Block, moments: Kind | None, centred: bool) -> UnitStatistics:
        """Return empty statistics; connectivity is centred only where the fold can absorb the mean into a bias."""
        projection, weight = block.output, block.output.weight
        width, channels = weight.shape[1], weight.shape[1] // block.units if block.units else 1
        size = channels + 1 if centred and moments is not None and projection.bias is not None else 1
        gates = torch.zeros(width // channels, size, size, device=weight.device)
        return cls(projection, channels, gates, 0, None if moments is None else moments(width, weight.device))

    def sums(self) -> list[Tensor]:
        """Return gates and second moments, to be changed in place."""
        return [self.gates, *(self.moments.sums if self.moments is not None else [])]

    def over_processes(self) -> tuple[list[Tensor], int]:
        """Return `sums` and the number of samples, summed over all processes."""
        if distributed.count() == 1:
            return self.sums(), self.samples
        sums, samples = [part.clone() for part in self.sums()], torch.tensor(self.samples, device=self.gates.device)
        distributed.add_up([*sums, samples])
        return sums, int(samples)

    def restore(self, sums: Sequence[Tensor], samples: int) -> None:
        """Take over the values of `over_processes`."""
        self.samples = samples
        for own, found in zip(self.sums(), sums, strict=True):
            own.copy_(found)

    def take_moments(self) -> Tensor:
        """Return the second moments in full (`SecondMoments.matrix`); free their sums, as the fold needs memory."""
        assert isinstance(self.moments, SecondMoments), "there is nothing to fold with"
        full, self.moments = self.moments.matrix(), None
        return full

    @property
    def connectivity(self) -> Tensor:
        """Functional connectivity C `[units]`: mean over samples of q², the Fisher information of the gate.

        If centred, the gate multiplies the deviation from the unit's mean: q = sum over tokens of (x - mean) dL/dx. The
        mean over tokens has the same weights as in the fold.
        """
        direction = torch.ones_like(self.gates[:, 0])
        if self.gates.shape[1] > 1 and self.moments is not None:
            direction[:, :-1] = -self.moments.means().unflatten(0, (-1, self.channels))
        squares = torch.einsum("ui,uij,uj->u", direction, self.gates, direction)
        return squares.clamp_min(0) / max(1, self.samples)

    def channels_of(self, units: Sequence[int]) -> Tensor:
        """Mark the input channels of these units: bool `[all channels]`."""
        marks = torch.zeros(len(self.gates), dtype=torch.bool, device=self.gates.device)
        marks[list(units)] = True
        return marks.repeat_interleave(self.channels)

    def add(
        self,
        x: Tensor,
        gradient: Tensor,
        output_gradient: Tensor | None,
        real: Tensor | None,
        loss_rows: float | None = None,
    ) -> None:
        """Add the statistics of one backward pass.

        Args:
            x: Input of the projection, `[samples, tokens, channels]`.
            gradient: Gradient of the loss by `x`.
            output_gradient: Gradient of the loss with respect to the projection's output `[samples, tokens, out]`; None
                for equal token weights.
            real: bool `[samples, tokens]`, false for padding; None without padding.
            loss_rows: Number of samples over which the loss is averaged; default: those given.
        """
        centred = self.gates.shape[1] > 1
        found = gate_gradients(x, gradient, self.channels, centred) * (len(x) if loss_rows is None else loss_rows)
        self.gates += torch.einsum("sui,suj->uij", found, found)
        self.samples += len(x)
        self.finite = self.finite | gradient.isfinite().flatten(1).all(dim=1).any()
        if self.moments is not None:
            tokens = x.flatten(0, 1) if real is None else x[real]
            weights = None
            if output_gradient is not None:
                weights = token_weights(output_gradient.flatten(0, 1) if real is None else output_gradient[real])
            self.moments.add(tokens, weights)


def gate_gradients(x: Tensor, gradient: Tensor, channels: int, by_channel: bool) -> Tensor:
    """Gradient of the loss by a gate on each unit, for each sample: q = sum over tokens and the unit's channels of x
    dL/dx.

    Args:
        x: Input of the output projection `[samples, tokens, units * channels]`.
        gradient: Gradient of the loss by `x`, same shape.
        channels: Number of channels of one unit.
        by_channel: Whether to return also the gradients with respect to a shift of each channel: sum over tokens of
            dL/dx.

    Returns:
        float32 `[samples, units, 1]`, or with `by_channel` `[samples, units, channels + 1]` with q last. After an
        overflow (non-finite values), a unit's gradients are set to 0.
    """
    gradient = gradient.float()
    found = (x.float() * gradient).sum(dim=1).unflatten(-1, (-1, channels)).sum(dim=-1, keepdim=True)
    if by_channel:
        found = torch.cat([gradient.sum(dim=1).unflatten(-1, (-1, channels)), found], dim=-1)
    return found.where(found.isfinite().all(dim=-1, keepdim=True), 0.0)


def token_weights(output_gradient: Tensor) -> Tensor:
    """Return token weights for the fold: squared norm of dL/d(output at the token) over its mean, plus a floor of .01.

    The mean is taken over the tokens of all processes.

    Args:
        output_gradient: Gradient of the loss with respect to the projection's output, `[tokens, out]`.

    Returns:
        float32 `[tokens]`.
    """
    squares = output_gradient.float().square().sum(dim=-1)
    mean = squares.mean()
    if distributed.count() > 1:
        distributed.average([total := torch.stack([squares.sum(), squares.new_tensor(len(squares))])])
        mean = total[0] / total[1]
    squares = torch.nan_to_num(squares / mean.clamp_min(torch.finfo(torch.float32).tiny), posinf=0.0)
    return squares + WEIGHT_FLOOR


class Calibration:
    """Hooks on all output projections of a model that collect statistics until `detach`.

    Args:
        model: A model; its weights must keep their shapes while the hooks are attached.
        blocks: Its attentions and MLPs.
        moments: Class of the moments collected for the fold; None for none.
        weigh_tokens: Whether to weight tokens in these moments by their influence on the loss.
        centred: Whether connectivity excludes a unit's mean where the fold can absorb it into a bias.
        loss_rows: Function that returns, before a pass, the number of samples over which its loss is averaged; None for
            the samples of the pass.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Blocks,
        moments: Kind | None = SecondMoments,
        weigh_tokens: bool = True,
        centred: bool = True,
        loss_rows: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.statistics = {block: UnitStatistics.empty(block, moments, centred) for block in blocks.all}
        self._weigh_tokens, self._loss_rows = moments is not None and weigh_tokens, loss_rows
        self._batch = Batch()
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._see_batch, with_kwargs=True)]
        seq2seq = bool(getattr(config_of(model), "is_encoder_decoder", False))
        for block, statistics in self.statistics.items():
            if not block.units:
                continue
            decodes = seq2seq and "decoder" in block.name.split(".")
            hook = partial(self._see_projection, statistics, block.name, decodes)
            self._handles.append(statistics.projection.module.register_forward_hook(hook))

    def state_dict(self) -> State:
        """Return sums over all processes: for block n, `n.samples`, and `n.sums.0`, … (`UnitStatistics.sums`)."""
        state: State = {}
        for i, statistics in enumerate(self.statistics.values()):
            sums, samples = statistics.over_processes()
            state |= {f"{i}.samples": samples} | {f"{i}.sums.{k}": part for k, part in enumerate(sums)}
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; the main process takes over the statistics of all processes.

        Args:
            state: The state.

        Raises:
            UserError: If another version of the library has written the state.
        """
        for i, statistics in enumerate(self.statistics.values() if distributed.is_main() else []):
            names = [f"{i}.sums.{k}" for k in range(len(statistics.sums()))]
            if not state.keys() >= {*names}:
                raise UserError(
                    "the checkpoint contains an event's statistics in the form of another version of neuroprune; "
                    "resume with that version, or from a checkpoint outside the steps before an event."
                )
            statistics.restore([state[name] for name in names], state[f"{i}.samples"])

    def detach(self) -> None:
        """Remove the hooks; the statistics are kept."""
        while self._handles:
            self._handles.pop().remove()

    def check_seen(self) -> None:
        """Raise `UserError` if no gradient has reached a block since the hooks were attached."""
        unseen = [block.name for block, found in self.statistics.items() if block.units and not found.samples]
        if unseen:
            raise no_gradient(unseen)

    def informative(self) -> bool:
        """Return whether the gradients of any sample, in any process, were finite; otherwise all units rank equally."""
        seen = torch.tensor(float(any(bool(found.finite) for found in self.statistics.values())))
        distributed.add_up([seen])
        return bool(seen)

    def gather(self) -> None:
        """Replace the statistics with the sum over all processes."""
        for statistics in self.statistics.values():
            statistics.restore(*statistics.over_processes())

    def _see_batch(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the batch's size and padding before a forward pass."""
        if torch.is_grad_enabled():
            batch = Batch.from_call(type(model).forward, model, args, kwargs)
            self._batch = replace(batch, loss_rows=self._loss_rows())

    def _see_projection(
        self,
        statistics: UnitStatistics,
        name: str,
        decodes: bool,
        module: nn.Module,
        inputs: tuple[Tensor, ...],
        output: Tensor,
    ) -> None:
        """Register hooks for the gradients of a projection's input and output."""
        x, batch = inputs[0], self._batch
        if not torch.is_grad_enabled():
            return
        if not x.requires_grad:
            if module.training:
                raise no_gradient([name])
            return
        held, seen = [x.detach()], list[Tensor]()
        if self._weigh_tokens:
            output.register_hook(lambda gradient: seen.append(gradient.detach()))
        x.register_hook(partial(_gather, statistics, held, seen, batch, decodes))


def no_gradient(names: Sequence[str]) -> UserError:
    """Return the error for attentions and MLPs without a gradient."""
    return UserError(
        f"no gradient reaches {', '.join(names)}, so the effect of its units on the loss can't be measured. Either the "
        "loss does not depend on it (the forward pass may not use it), or the model is frozen up to that layer. "
        "Unfreeze it with requires_grad_(True)."
    )


@torch.no_grad()
def _gather(
    statistics: UnitStatistics, held: list[Tensor], seen: list[Tensor], batch: Batch, decodes: bool, gradient: Tensor
) -> None:
    """Add one projection's activations and gradients in float32, regardless of the precision of the pass.

    Args:
        statistics: Sums to add to.
        held: The projection's input. Emptied, because the hook lives as long as the graph, and inputs held until the
            end of the pass would raise its peak memory.
        seen: The gradient of the projection's output; empty for equal token weights. Emptied.
        batch: Size and padding of the batch.
        decodes: Whether the projection belongs to the decoder of an encoder-decoder model.
        gradient: Gradient of the loss with respect to the projection's input.

    Raises:
        UserError: On a second backward pass through the same graph.
    """
    if not held:
        raise UserError(
            "backward() ran twice through one forward pass (retain_graph=True) while statistics for an event were "
            "collected; add the losses up and call backward() once."
        )
    x = held.pop()
    with torch.autocast(x.device.type, enabled=False):
        x = batch.split(x)
        output_gradient = batch.split(seen.pop()) if seen else None
        real = batch.real(decodes, x.shape)
        statistics.add(x, batch.split(gradient), output_gradient, real, batch.loss_rows)
