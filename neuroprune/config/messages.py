"""User-readable messages for pydantic's validation errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from neuroprune.config.fields import PATTERNS
from neuroprune.config.methods import METHOD_SETTINGS
from neuroprune.errors import did_you_mean

Location = tuple[int | str, ...]
EXPLAINED = "explained"


def sentences(error: ValidationError, model: type[BaseModel], above: Location = ()) -> list[str]:
    """Convert all errors of a validation to sentences that begin with the key.

    Args:
        error: pydantic's error.
        model: The class that was validated; unknown keys are compared with its fields.
        above: Location of the validated data in its file.

    Returns:
        Sentences such as ``experiments.sweep.methods[1].sparsity: 1.2 is not allowed; it must be less than 1``.
    """
    lines = [line for line in error.errors() if not _follows(line)]
    found = (f"{path((*above, *_place(line)))}: {explain(line, model)}".removeprefix(": ") for line in lines)
    return list(dict.fromkeys(found))


def _follows(line: ErrorDetails) -> bool:
    """Return whether a list is reported as too short only because its invalid items do not count."""
    return line["type"] == "too_short" and len(line["input"]) >= line["ctx"]["min_length"]


def _place(line: ErrorDetails) -> Location:
    """Return the location of an error: of a key that is not text, that of its mapping."""
    return line["loc"][:-2] if _is_odd_key(line) else line["loc"]


def _is_odd_key(line: ErrorDetails) -> bool:
    return line["loc"][-1:] == ("[key]",) and line["type"] == "string_type"


def path(location: Location) -> str:
    """Return a location as a path: ``("methods", 1, "sparsity")`` is ``methods[1].sparsity``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]")
    return "".join(parts).removeprefix(".")


def explain(line: ErrorDetails, model: type[BaseModel]) -> str:
    """Describe the problem of one value and the allowed values, without the location."""
    if _is_odd_key(line):
        return f"the key {shown(line['input'])} is not text; put it in quotes, or choose another name"
    speak = _WORDS.get(line["type"], _not_allowed)
    return speak(line, model)


def explained(text: str, location: Location, value: Any) -> InitErrorDetails:
    """Wrap a sentence so that it can be raised in another validation."""
    return {"type": PydanticCustomError(EXPLAINED, "{text}", {"text": text}), "loc": location, "input": value}


def raise_explained(title: str, lines: Iterable[InitErrorDetails]) -> None:
    """Raise sentences as one ValidationError; do nothing if there are none."""
    if lines := list(lines):
        raise ValidationError.from_exception_data(title, lines)


def shown(value: Any) -> str:
    """Return a value as it was written, truncated to about 60 characters."""
    text = "nothing (null)" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(value: float) -> str:
    """Format a bound for reading: 0.5, 4096, 1,000,000."""
    return f"{value:,.0f}" if value >= 10_000 else f"{value:g}"


def _missing(line: ErrorDetails, model: type[BaseModel]) -> str:
    owner = _model_at(model, line["loc"][:-1])
    field = owner.model_fields.get(str(line["loc"][-1])) if owner else None
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    return f"this key is missing{meaning}"


def _unknown_key(line: ErrorDetails, model: type[BaseModel]) -> str:
    key, owner = str(line["loc"][-1]), _model_at(model, line["loc"][:-1])
    known = list(owner.model_fields) if owner else []
    return f"unknown key{did_you_mean(key, known)}; known: {', '.join(known)}"


def _literal(line: ErrorDetails, _: type[BaseModel]) -> str:
    allowed = line["ctx"]["expected"]
    names = allowed.replace(" or ", ", ").replace("'", "").split(", ")
    near = "" if str(line["input"]) in names else did_you_mean(line["input"], names)  # not the text '2' for the number
    return f"{shown(line['input'])} is not allowed{near}; allowed: {allowed}"


def _tag(line: ErrorDetails, _: type[BaseModel]) -> str:
    allowed = line["ctx"].get("expected_tags", ", ".join(METHOD_SETTINGS)).replace("'", "")
    name = line["ctx"].get("tag")
    what = f"unknown method {name!r}{did_you_mean(name, allowed.split(', '))}" if name else "the name is missing"
    return f"{what}; known: {allowed}"


def _pattern(line: ErrorDetails, _: type[BaseModel]) -> str:
    return f"{shown(line['input'])} is not allowed; it must be {PATTERNS[line['ctx']['pattern']]}"


def _mapping(line: ErrorDetails, _: type[BaseModel]) -> str:
    return f"{shown(line['input'])} is not allowed; it must be a mapping of keys to values"


def _list(line: ErrorDetails, _: type[BaseModel]) -> str:
    example = f", such as [{line['input']}]" if isinstance(line["input"], str | int | float) else ""
    return f"{shown(line['input'])} is not allowed; it must be a list{example}"


def _own_words(line: ErrorDetails, _: type[BaseModel]) -> str:
    return str(line["ctx"].get("error") or line["ctx"].get("text"))


def _bound(line: ErrorDetails, model: type[BaseModel]) -> str:
    """Describe both ends of the allowed range, not only the violated one."""
    owner = _model_at(model, line["loc"][:-1])
    field = owner.model_fields.get(str(line["loc"][-1])) if owner else None
    known = ((getattr(end, name, None), words) for end in _metadata(field) for name, words in _ENDS)
    ends = [f"{words} {number(end)}" for end, words in known if end is not None]
    if not ends:
        return _not_allowed(line, model)
    return f"{shown(line['input'])} is not allowed; it must be {' and '.join(ends)}"


_ENDS = (("gt", "greater than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most"))


def _metadata(field: FieldInfo | None) -> list[Any]:
    """Return the constraints of a field, including those of `T | None`."""
    if field is None:
        return []
    inner = [part for argument in get_args(field.annotation) for part in get_args(argument)[1:]]
    return [end for part in [*field.metadata, *inner] for end in getattr(part, "metadata", [part])]


def _not_allowed(line: ErrorDetails, _: type[BaseModel]) -> str:
    """Rephrase pydantic's message: "Input should be less than 1" becomes "it must be less than 1"."""
    message = line["msg"].partition(",")[0].removesuffix(" after validation")
    subject, _should, demand = message.partition(" should ")
    need = f"it must {demand}" if demand else subject
    return f"{shown(line['input'])} is not allowed; {need.replace('a valid string', 'text')}"


_WORDS: dict[str, Callable[[ErrorDetails, type[BaseModel]], str]] = {
    "missing": _missing,
    "extra_forbidden": _unknown_key,
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), _bound),
    **dict.fromkeys(("union_tag_invalid", "union_tag_not_found"), _tag),
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "dict_type": _mapping,
    "tuple_type": _list,
    "value_error": _own_words,
    EXPLAINED: _own_words,
}


def _model_at(model: Any, location: Location) -> type[BaseModel] | None:
    """Return the class at the end of a location through fields, mappings and lists."""
    for part in location:
        model = _within(model, part)
    return model if _is_model(model) else None


def _within(annotation: Any, part: int | str) -> Any:
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return arguments[-1] if arguments else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
