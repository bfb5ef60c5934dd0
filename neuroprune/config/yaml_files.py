"""Reading of YAML files, with every mistake reported in one sentence with line and column."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from neuroprune.config.messages import shown
from neuroprune.errors import ConfigError
from neuroprune.files import failures

DEEPEST = 40  # maximum nesting: far above any study, far below the interpreter's limit
LARGEST = 1_000_000  # maximum number of values with expanded aliases
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_NUMBER = re.compile(r"[-+]?0[0-7_]+|.*:.*")  # octal and sexagesimal
_OTHER_ENCODINGS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must contain a mapping.

    Args:
        path: The file.

    Returns:
        Its keys and values.

    Raises:
        ConfigError: If the file is missing, empty, not UTF-8, not YAML, not a mapping, or has a duplicate key.
    """
    text = _text(path)
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = error.problem or error.context
        raise ConfigError([f"{path}: {where}invalid YAML: {reason}"]) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError([f"{path}: {_odd_character(text, error)}"]) from error
    if content is None:
        raise ConfigError([f"{path}: the file is empty; config/README.md lists the keys that it may have"])
    return as_mapping(content, str(path))


def as_mapping(content: Any, source: str) -> dict[str, Any]:
    """Return a mapping as a dictionary.

    Args:
        content: Content of a file.
        source: Name of the file in error messages.

    Returns:
        Its keys and values.

    Raises:
        ConfigError: If it is not a mapping.
    """
    if not isinstance(content, Mapping):
        raise ConfigError([f"{source}: {shown(content)} is not allowed; it must be a mapping of keys to values"])
    return dict(content)


def _text(path: Path) -> str:
    """Return a file's text; reject files that are not UTF-8."""
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise ConfigError([str(failures.sentence(error))]) from error
    except OSError as error:
        raise ConfigError([f"{path}: the file cannot be read: {error.strerror or error}"]) from error
    except ValueError as error:
        raise ConfigError([f"{shown(str(path))}: the file cannot be read: {error}"]) from error
    for name, marks in _OTHER_ENCODINGS.items():
        if data.startswith(marks):
            raise ConfigError([f"{path}: the file is text in {name}; save it as UTF-8"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{path}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as text in UTF-8"]
        ) from error


def _odd_character(text: str, error: yaml.reader.ReaderError) -> str:
    """Describe a character that YAML does not allow."""
    place = int(error.position)
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    return (
        f"line {line}, column {column}: the character U+{ord(text[place]):04X} is not allowed in YAML; "
        "delete it, and save the file as text in UTF-8"
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that rejects duplicate keys, non-scalar keys, deep nesting, and recursive or huge aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[yaml.Event] = []
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node within the limits on depth and size."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and event.anchor in {self._anchor(outer) for outer in self._open}:
            raise _refused(f"*{event.anchor} is inside &{event.anchor}, to which it refers", event.start_mark)
        if len(self._open) > DEEPEST:
            raise _refused(f"more than {DEEPEST} nested lists and mappings", event.start_mark)
        self._open.append(event)
        node = super().compose_node(parent, index)
        self._open.pop()
        if node is not None and self._size(node) > LARGEST:
            raise _refused(f"its aliases expand to more than {LARGEST:,} values", event.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; reject invalid ones, such as the 99th of a month, and misleading ones, such as 010."""
        try:
            value = super().construct_object(node, deep)
        except ValueError as error:
            kind = node.tag.rpartition(":")[2]
            raise _refused(f"{shown(node.value)} is not a valid {kind}; put text in quotes", node.start_mark) from error
        if node.tag in _NUMBERS and _OTHER_NUMBER.fullmatch(node.value):
            raise _refused(f"YAML reads {node.value} as {value}; write this number, or text in quotes", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; reject duplicate keys, which YAML would silently replace."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused("a list or mapping can't be a key; write a name", key_node.start_mark)
            merges = key_node.tag == "tag:yaml.org,2002:merge"
            key = "<<" if merges else self.construct_object(key_node, deep=True)
            if key in seen:
                raise _refused(f"duplicate key {shown(key)}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def _size(self, node: yaml.Node) -> int:
        """Return the number of values below a node with all aliases expanded."""
        if id(node) not in self._sizes:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            nodes = [inner for part in parts for inner in (part if isinstance(part, tuple) else (part,))]
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(inner), 1) for inner in nodes)
        return self._sizes[id(node)]

    @staticmethod
    def _anchor(event: yaml.Event) -> str | None:
        return None if isinstance(event, yaml.AliasEvent) else getattr(event, "anchor", None)


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
