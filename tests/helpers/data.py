"""Tiny datasets in the hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from datasets import ClassLabel, Dataset, Features, Value

ROOT = Path(__file__).parents[2]

# Columns and classes of GLUE's eight classification tasks in `nyu-mll/glue`.
GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "sst2": (("sentence",), ("negative", "positive")),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
WORDS = ("a", "dull", "film", "great", "is", "long", "not", "of", "story", "the", "very", "warm")


def glue_features(name: str) -> Features:
    """The types of a GLUE task's columns."""
    columns, labels = GLUE[name]
    return Features(
        {column: Value("string") for column in columns}
        | {"label": ClassLabel(names=list(labels)), "idx": Value("int32")}
    )


def glue_rows(name: str, count: int, label: int | None = None) -> list[dict[str, Any]]:
    """Rows of a GLUE task with distinct texts and, by default, alternating classes."""
    columns, labels = GLUE[name]
    return [
        {column: sentence(17 * i + 5 * j) for j, column in enumerate(columns)}
        | {"label": i % len(labels) if label is None else label, "idx": i}
        for i in range(count)
    ]


def sentence(number: int) -> str:
    """Return a sentence of six words, determined by the number."""
    return " ".join(WORDS[(number // len(WORDS) ** i) % len(WORDS)] for i in range(6))


def write_glue(data_root: Path, *names: str, train: int = 12, evaluated: int = 6) -> Path:
    """Write tiny GLUE tasks; splits are named as on the hub, and `test` has no labels. Return `data_root`."""
    configs = {}
    for name in names:
        validation = "validation_matched" if name == "mnli" else "validation"
        splits = {
            "train": glue_rows(name, train),
            validation: glue_rows(name, evaluated),
            "test": glue_rows(name, 3, -1),
        }
        configs[name] = (glue_features(name), splits)
    write_hub(data_root / "nyu-mll" / "glue", configs)
    return data_root


def write_hub(folder: Path, configs: dict[str, tuple[Features, dict[str, list[dict[str, Any]]]]]) -> None:
    """Write a dataset in the hub's layout: parquet files per configuration, and a card that lists them."""
    infos, entries = [], []
    for config, (features, splits) in configs.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            Dataset.from_list(rows, features=features).to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
        sizes = [{"name": split, "num_bytes": 1, "num_examples": len(rows)} for split, rows in splits.items()]
        infos.append({"config_name": config, "features": features._to_yaml_list(), "splits": sizes})
        files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        entries.append({"config_name": config, "data_files": files})
    card = {"dataset_info": infos, "configs": entries}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n")
