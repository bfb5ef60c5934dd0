"""Rows and padding of a batch, determined from the arguments of a model's forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuroprune.errors import UserError
from neuroprune.pruning.defaults import IGNORED

ALLOWED = -1.0  # additive masks above this value allow attention


@dataclass(frozen=True)
class Batch:
    """Rows and padding of the current batch of a model.

    A row is one term of the loss's mean. All choices of a multiple-choice question form one row, with their tokens
    concatenated. Sequences packed into one row count as separate rows.

    Args:
        size: Number of rows before unpacking, None if unknown.
        mask: bool `[size, tokens]` of the input, None without padding.
        decoder_mask: The same for the decoder of an encoder-decoder.
        loss_rows: Number of rows over which the loss is averaged; None if equal to `size`.
        packed: Layout of packed sequences; None if no row contains several.
    """

    size: int | None = None
    mask: Tensor | None = None
    decoder_mask: Tensor | None = None
    loss_rows: float | None = None
    packed: Packed | None = None

    @classmethod
    def from_call(cls, forward: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> Batch:
        """Create a batch description from the arguments of a model call.

        Args:
            forward: The unbound forward function of the model's class.
            model: The model.
            args: Positional arguments of the call.
            kwargs: Keyword arguments of the call.

        Returns:
            The batch. Without a decoder mask, decoder padding is taken from labels of -100 or, without labels, from the
            padding of the decoder's input.
        """
        given = inspect.signature(forward).bind_partial(model, *args, **kwargs).arguments
        given = given | given.get("kwargs", {})
        if isinstance(given.get("attention_mask"), Mapping):
            raise UserError(
                "attention_mask is a dictionary of masks, which does not mark the padding; pass one mask "
                "[rows, tokens]."
            )
        given = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        names = ("input_ids", "inputs_embeds", "attention_mask", "decoder_input_ids", "labels")
        size = next((len(given[name]) for name in names if name in given), None)
        mask = token_mask(given.get("attention_mask"), _token_shape(given))
        batch = cls(size, mask, _decoder_mask(given, mask, model))
        return replace(batch, packed=Packed.found(given))

    def split(self, tensor: Tensor) -> Tensor:
        """Reshape a tensor, possibly flattened or with one sequence per choice, to `[rows, tokens, channels]`."""
        rows = self.size or (len(tensor) if tensor.dim() == 3 else 1)
        if tensor.dim() != 3 or len(tensor) != rows:
            if tensor[..., 0].numel() % rows:
                raise UserError(
                    f"a layer reads {len(tensor)} sequences, which is not a multiple of the batch's {rows} rows; pass "
                    "one row of input_ids for each row of the loss."
                )
            tensor = tensor.reshape(rows, -1, tensor.shape[-1])
        return self.packed.split(tensor) if self.packed is not None else tensor

    def real(self, decodes: bool, shape: torch.Size) -> Tensor | None:
        """Mark the tokens that are not padding.

        Args:
            decodes: Whether the tokens belong to the decoder of an encoder-decoder model.
            shape: Rows, tokens and channels as returned by `split`.

        Returns:
            bool `[rows, tokens]`, None if no token is padding.

        Raises:
            UserError: If the mask does not match the tokens.
        """
        mask = self.decoder_mask if decodes else self.mask
        if self.packed is not None:
            return self.packed.real(mask)
        if mask is not None and mask.shape != shape[:2]:
            raise UserError(
                f"the attention mask has {list(mask.shape)} rows and tokens, but a layer reads {list(shape[:2])}, so "
                "padding can't be identified; pass a mask for the tokens that the layers read."
            )
        return mask


@dataclass(frozen=True)
class Packed:
    """Layout of several sequences per row, determined from restarting position ids.

    Args:
        sequence: int64 `[rows * tokens]`, sequence number of each token.
        place: int64 `[rows * tokens]`, position of each token in its sequence.
    """

    sequence: Tensor
    place: Tensor

    @classmethod
    def found(cls, given: Mapping[str, Tensor]) -> Packed | None:
        """Return the layout; None if no row contains several sequences or a token mask marks the padding."""
        positions, mask, shape = given.get("position_ids"), given.get("attention_mask"), _token_shape(given)
        if positions is None or positions.dim() != 2 or shape is None or (mask is not None and mask.dim() == 2):
            return None
        starts = torch.ones(shape, dtype=torch.bool, device=positions.device).flatten(0, -2)
        starts[:, 1:] = (positions.diff(dim=1) <= 0).expand(len(starts), -1)
        if bool((starts.sum(dim=1) == 1).all()):
            return None
        first = starts.flatten().nonzero().flatten()
        sequence = starts.flatten().cumsum(0) - 1
        return cls(sequence, torch.arange(len(sequence), device=first.device) - first[sequence])

    def split(self, tensor: Tensor) -> Tensor:
        """Return `[sequences, tokens, channels]` with one sequence per row, padded with zeros."""
        rows = tensor.new_zeros(*self._shape, tensor.shape[-1])
        rows[self.sequence, self.place] = tensor.flatten(0, 1)
        return rows

    def real(self, mask: Tensor | None) -> Tensor:
        """Mark the unpacked tokens that come from the batch and are allowed by a mask of the packed tokens."""
        real = torch.zeros(self._shape, dtype=torch.bool, device=self.place.device)
        real[self.sequence, self.place] = True if mask is None else mask.flatten()
        return real

    @property
    def _shape(self) -> tuple[int, int]:
        return int(self.sequence[-1]) + 1, int(self.place.max()) + 1


def token_mask(mask: Tensor | None, tokens: torch.Size | None) -> Tensor | None:
    """Mark the tokens that are not padding, for every form of mask that models accept.

    Args:
        mask: `[rows, tokens]`, `[rows, choices, tokens]`, or a pairwise mask `[rows, tokens, tokens]` or `[rows, heads,
            tokens, tokens]`: bool, 0 and 1 or, with four dimensions, additive.
        tokens: `[rows, tokens]` or `[rows, choices, tokens]`; None if unknown.

    Returns:
        bool `[rows, tokens]`, with choices concatenated; None without a mask. A token that no token attends to is
        padding.
    """
    if mask is None:
        return None
    if mask.dim() == 2 or mask.shape == tokens:
        return mask.flatten(1) != 0
    additive = mask.dim() == 4 and mask.is_floating_point()
    attended = (mask > ALLOWED if additive else mask > 0).any(dim=-2)
    attended = attended.any(dim=1) if attended.dim() == 3 else attended
    return attended if tokens is None else attended.expand(tokens[0], -1)


def _token_shape(given: Mapping[str, Tensor]) -> torch.Size | None:
    """Return the shape of the input's tokens."""
    if "input_ids" in given:
        return given["input_ids"].shape
    return given["inputs_embeds"].shape[:-1] if "inputs_embeds" in given else None


def _decoder_mask(given: Mapping[str, Tensor], mask: Tensor | None, model: Any) -> Tensor | None:
    """Mark the tokens of an encoder-decoder's decoder that are not padding."""
    decoder, labels = given.get("decoder_input_ids"), given.get("labels")
    if "decoder_attention_mask" in given:
        return token_mask(given["decoder_attention_mask"], None if decoder is None else decoder.shape)
    if labels is not None and labels.dim() > 1 and (decoder is None or decoder.shape == labels.shape):
        return labels.flatten(1) != IGNORED
    if decoder is None and "decoder_inputs_embeds" not in given:
        return mask  # the decoder reads the input as well, shifted by one token
    config = getattr(model, "config", None)
    ends = [end for name in _ENDS if isinstance(end := getattr(config, name, None), int)]
    return None if decoder is None or not ends else _before_end(decoder, ends)


_ENDS = ("pad_token_id", "eos_token_id")


def _before_end(decoder: Tensor, ends: list[int]) -> Tensor:
    """Mark the positions before the end of each row's text; the first token may itself be an end token."""
    text = (decoder[..., None] != torch.tensor(ends, device=decoder.device)).all(dim=-1)
    text[:, 0] = True
    return text.flip(1).cumsum(1).flip(1) > 0
