"""Field types with ranges, and the base class of settings, which rejects unknown keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

TEXT = r"^[^\x00-\x1f]*$"
NAME, FOLDER_NAME, SHA256 = r"^[a-zA-Z0-9][a-zA-Z0-9_.]*$", r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", r"^[0-9a-f]{64}$"
PATTERNS = {
    NAME: "a name of letters, digits, '_' and '.' that begins with a letter or digit",
    FOLDER_NAME: "a name of letters, digits, '_', '.' and '-' that begins with a letter or digit",
    SHA256: "a SHA-256 of 64 hexadecimal digits",
    TEXT: "text on one line",
}
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
TargetSparsity = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Processes = Annotated[int, Field(ge=1, le=64)]  # all on one machine
Rows = Annotated[int, Field(ge=1, le=1_000_000)]  # of a batch
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]  # of a text
Beams = Annotated[int, Field(ge=1, le=1000)]
Passes = Annotated[int, Field(ge=0, le=10_000)]  # over the timed rows
Source = Annotated[str, Field(min_length=1, max_length=1000, pattern=TEXT)]
Label = Annotated[str, Field(min_length=1)]  # of a column or split
Epochs = Annotated[float, Field(gt=0.0, le=100_000.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
FolderName = Annotated[str, Field(pattern=FOLDER_NAME, max_length=200)]
Schedule = Annotated[float, Field(ge=0.0, le=1.0)]

KIND_METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews_correlation"),
    "language_modeling": ("token_accuracy",),
    "question_answering": ("f1", "exact_match"),
    "regression": ("spearmanr", "pearson"),
    "summarization": ("rougeLsum", "rouge1", "rouge2", "rougeL"),
    "token_classification": ("token_accuracy", "macro_f1"),
    "translation": ("bleu",),
}
"""Metrics of each kind of task; the first is the default."""
TASK_KINDS = tuple(KIND_METRICS)
ANSWER_START = "answer_start"  # column of question answering: the first character of the answer in the context
WRITTEN_KINDS = ("summarization", "translation")  # kinds with text answers


class Settings(BaseModel):
    """Immutable settings that reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, values: Any) -> Any:
        """Reject true and false, also in lists, where numbers belong; pydantic reads them as 1 and 0."""
        given = values.items() if isinstance(values, dict) else ()
        wrong = [
            (place, item)
            for name, value in given
            for place, item in _truth_values(name, value)
            if _takes_numbers_only(cls, name)
        ]
        if wrong:
            kind = PydanticCustomError("number", "Input should be a number")
            lines: list[InitErrorDetails] = [{"type": kind, "loc": place, "input": item} for place, item in wrong]
            raise ValidationError.from_exception_data(cls.__name__, lines)
        return values

    def default(self, name: str) -> Any:
        """Return the default value of a setting."""
        return type(self).model_fields[name].get_default()


def _truth_values(name: str, value: Any) -> Iterator[tuple[tuple[str | int, ...], bool]]:
    """Yield the place and the value of each truth value in a field."""
    if isinstance(value, bool):
        yield (name,), value
    elif isinstance(value, list | tuple):
        yield from (((name, place), item) for place, item in enumerate(value) if isinstance(item, bool))


def _takes_numbers_only(settings: type[BaseModel], name: str) -> bool:
    """Return whether a field takes numbers, or a list of them, and no truth value."""
    field = settings.model_fields.get(name)
    types = [*_types(field.annotation)] if field else []
    return (int in types or float in types) and bool not in types


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types in an annotation such as `tuple[int, ...] | None`."""
    if not (parts := get_args(annotation)):
        yield annotation
    for part in parts:
        yield from _types(part)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Reject a list with a repeated value."""
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice; list each value once")
    return values
