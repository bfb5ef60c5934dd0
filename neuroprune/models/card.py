"""Model cards: the README.md of a saved model, with metadata for the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from neuroprune.pruning.blocks import find_blocks
from neuroprune.pruning.kept_units import kept_units
from neuroprune.pruning.sparsity import Sparsity, measure_sparsity

MARK = "<!-- Written by neuroprune. Delete this line, and saving a model will leave your card alone. -->"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PIPELINES = {
    "SequenceClassification": "text-classification",
    "QuestionAnswering": "question-answering",
    "TokenClassification": "token-classification",
    "CausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "MTModel": "translation",
}


@dataclass(frozen=True)
class Facts:
    """Information for a card that is not contained in the model.

    Args:
        metrics: Name -> value, as returned by `Trainer.evaluate`; times and non-numbers are left out.
        base_model: The fine-tuned model: a hub id, or any text.
        dataset: The dataset of the fine-tuning: a hub id, or any text.
        task: Name of the task; default: the dataset.
        labels: Class names in order; default: those in the model's configuration.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    dataset: str | None = None
    task: str | None = None
    labels: Sequence[str] = ()


def write_card(model: nn.Module, folder: Path, name: str, facts: Facts, load: str | None = None) -> None:
    """Write `README.md` with the model's remaining size, its metrics, and instructions for loading it.

    Args:
        model: A transformers model of a known type, cut or not.
        folder: The folder for the card.
        name: The model's name, the card's title.
        facts: Information that is not in the model.
        load: A line of Python that loads the model; default: `load_line`.
    """
    text = _text(model, name, facts, load or load_line(model))
    card = ModelCard(f"---\n{_metadata(model, name, facts).to_yaml()}\n---\n\n{text}\n")
    card.save(folder / "README.md")


def is_ours(card: Path) -> bool:
    """Return whether a card may be replaced because it does not exist or was written by this package."""
    return not card.exists() or MARK in card.read_text(encoding="utf-8", errors="replace")


def read_facts(folder: Path) -> Facts:
    """Read information that is not in the model from a folder's card, if this package wrote the card."""
    card = folder / "README.md"
    if not card.exists() or not is_ours(card):
        return Facts()
    data = ModelCard.load(card).data
    results = data.eval_results or []
    return Facts(
        {result.metric_type: result.metric_value for result in results},
        data.get("base_model"),
        results[0].dataset_type if results else None,
        results[0].dataset_name if results else None,
    )


def load_line(model: nn.Module) -> str:
    """Return the line of Python that loads this model from `path/to/this/folder`."""
    cut = getattr(model.config, "quantization_config", None) is not None
    return (
        f"import {'neuroprune, ' if cut else ''}transformers; "
        f'model = transformers.{type(model).__name__}.from_pretrained("path/to/this/folder")'
    )


def _metadata(model: nn.Module, name: str, facts: Facts) -> ModelCardData:
    """Return the metadata for the hub, without invalid ids, which it rejects."""
    task = next((task for part, task in PIPELINES.items() if type(model).__name__.endswith(part)), None)
    results = [
        EvalResult(task or "text2text-generation", facts.dataset, facts.task or facts.dataset, metric, value)
        for metric, value in _metrics(facts).items()
        if facts.dataset
    ]
    dataset = hub_id(facts.dataset)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["neuroprune", "pruned"] if measure_sparsity(model).weights else ["neuroprune"],
        base_model=hub_id(facts.base_model or getattr(model.config, "_name_or_path", None)),
        datasets=[dataset] if dataset else None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _text(model: nn.Module, name: str, facts: Facts, load: str) -> str:
    """Return the card's text below the metadata."""
    found = measure_sparsity(model)
    parts = [
        MARK,
        f"# {_plain(name)}",
        _origin(model, found, facts),
        _sizes(model, found),
        "## Load it",
        f"```python\n{load}\n```",
    ]
    if metrics := _metrics(facts):
        rows = [(_plain(metric), f"{value:.4g}") for metric, value in metrics.items()]
        parts += ["## Results", _table(("metric", "value"), rows)]
    if labels := _labels(model, facts):
        parts += ["## Labels, in order", "\n".join(f"{number}. {_plain(label)}" for number, label in enumerate(labels))]
    return "\n\n".join([*parts, "## Layers", _layers(model, found)])


def _origin(model: nn.Module, found: Sparsity, facts: Facts) -> str:
    """Describe the model's origin in one or two sentences."""
    base = facts.base_model or hub_id(getattr(model.config, "_name_or_path", None))
    made = f" made from `{_code(base)}`" if base else ""
    named = facts.task and facts.dataset not in (None, facts.task)
    data = f"{facts.task} ({facts.dataset})" if named else facts.task or facts.dataset
    on = f", fine-tuned on {_plain(data)}" if data else ""
    return f"A `{type(model).__name__}`{made}{on}. " + (
        f"Pruned with [NeuroPrune](https://arxiv.org/abs/2404.01306): {found.weights:.1%} of the dense model's weights "
        "in attentions and MLPs are removed or zero."
        if found.weights
        else "Nothing was pruned."
    )


def _sizes(model: nn.Module, found: Sparsity) -> str:
    """Return the table of total sizes."""
    kept = kept_units(model)
    rows = [
        ("parameters", f"{found.dense_parameters:,}", f"{found.parameters:,}"),
        ("attention heads", f"{sum(kept.dense_heads):,}", f"{sum(found.heads_per_layer):,}"),
        ("MLP neurons", f"{sum(kept.dense_neurons):,}", f"{sum(found.neurons_per_layer):,}"),
    ]
    return _table(("", "dense model", "this model"), rows)


def _layers(model: nn.Module, found: Sparsity) -> str:
    """Return the table of remaining heads and neurons per layer."""
    blocks, kept = find_blocks(model), kept_units(model)
    rows = [(f"`{a.name}`", f"{found.heads_per_layer[a.index]} of {kept.of(a).dense} heads") for a in blocks.attentions]
    rows += [(f"`{m.name}`", f"{found.neurons_per_layer[m.index]} of {kept.of(m).dense} neurons") for m in blocks.mlps]
    return _table(("layer", "left"), rows)


def _labels(model: nn.Module, facts: Facts) -> Sequence[str]:
    """Return a classifier's class names."""
    if getattr(model.config, "problem_type", None) == "regression":
        return ()
    if facts.labels or not type(model).__name__.endswith("Classification"):
        return facts.labels
    names: Mapping[int, str] = model.config.id2label  # type: ignore[assignment, union-attr]
    return [names[number] for number in sorted(names)]


def _metrics(facts: Facts) -> dict[str, float]:
    """Return the numeric metrics, without the Trainer's prefix, times and counts."""
    plain = {name.removeprefix("eval_"): _number(value) for name, value in facts.metrics.items()}
    return {
        name: value
        for name, value in plain.items()
        if value is not None and name != "epoch" and not name.endswith(("runtime", "_per_second"))
    }


def _number(value: Any) -> float | None:
    """Convert a number to a Python number; return None for anything else, such as tables by class."""
    if getattr(value, "ndim", None) == 0:  # scalars of NumPy and torch
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def hub_id(name: Any) -> str | None:
    """Return a name if it has the form of a hub id and is not a local folder; otherwise nothing."""
    return name if isinstance(name, str) and HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _plain(text: Any) -> str:
    """Return a text on one line, with Markdown and HTML escaped except underscores inside words."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|#~!]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def _code(text: Any) -> str:
    """Return a text on one line without backquotes, for inline code."""
    return " ".join(str(text).split()).replace("`", "'")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
