"""YAML that remembers its lines, and pydantic errors told in the user's terms."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from edgesmith.errors import ConfigError

Keys = Sequence[str | int]
SectionT = TypeVar("SectionT", bound=BaseModel)


class Document:
    """A parsed YAML mapping with the line of every key."""

    def __init__(self, path: Path, value: dict[str, Any], lines: dict[tuple[str | int, ...], int]) -> None:
        self.path = path
        self.value = value
        self._lines = lines

    def where(self, keys: Keys) -> str:
        """`file:line` of the innermost of `keys` that the file has."""
        for size in range(len(keys), 0, -1):
            if line := self._lines.get(tuple(keys[:size])):
                return f"{self.path}:{line}"
        return str(self.path)

    def check(self, section: type[SectionT], value: object = None, at: Keys = ()) -> SectionT:
        """Validates `value` (default: the whole document), found under `at`, as `section`.

        Raises:
            ConfigError: every problem, one a line, each with file:line.
        """
        try:
            return section.model_validate(self.value if value is None else value)
        except ValidationError as error:
            raise ConfigError("\n".join(self._tell(section, at, e) for e in error.errors())) from None

    def _tell(self, section: type[BaseModel], at: Keys, error: Any) -> str:
        loc = [part for part in error["loc"] if not _is_tag(part)]
        where = self.where([*at, *loc])
        name = ".".join(str(part) for part in [*at, *loc])
        if error["type"] == "extra_forbidden":
            known = _fields(section, loc[:-1])
            close = difflib.get_close_matches(str(loc[-1]), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}."
            return f"{where}: unknown key '{name}'; {hint}"
        if error["type"] == "missing":
            return f"{where}: '{name}' is missing."
        message = error["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(error["input"], dict) else f" (it is {error['input']!r})"
        return f"{where}: '{name or section.__name__}': {message}{shown}."


def _is_tag(part: object) -> bool:
    return isinstance(part, str) and (part.startswith("function-") or part.endswith("]"))


def _fields(section: type[BaseModel], loc: Keys) -> list[str]:
    """Field names of the section that `loc` leads to."""
    for part in loc:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        found = _section_in(annotation)
        if found is None:
            return list(section.model_fields)
        section = found
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    for inner in typing.get_args(annotation):
        if found := _section_in(inner):
            return found
    return None


class _RepeatedKey(Exception):
    def __init__(self, key: str, first: int, line: int) -> None:
        self.key, self.first, self.line = key, first, line


def _index_lines(node: yaml.Node, at: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, key.value)
            line = key.start_mark.line + 1
            if path in lines:
                raise _RepeatedKey(key.value, lines[path], line)
            lines[path] = line
            _index_lines(value, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            path = (*at, index)
            lines[path] = value.start_mark.line + 1
            _index_lines(value, path, lines)


def read(path: Path, *, what: str, hint: str = "") -> Document:
    """Reads a YAML mapping.

    Args:
        path: the file.
        what: what it is, for messages: "config".
        hint: what to do where the file is not there.

    Raises:
        ConfigError: not there, not readable, not YAML, not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what} file.", next_step=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the {what} file cannot be read: {error}.") from None
    return parse(path, text, what=what)


def parse(path: Path, text: str, *, what: str) -> Document:
    """Reads a YAML mapping that is, or will be, the text of `path`.

    Raises:
        ConfigError: not YAML, not a mapping, or a key that is there twice: YAML would silently take the last.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
        if node is not None:
            _index_lines(node, (), lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    except (ValueError, RecursionError) as error:  # a date that does not exist; an alias of itself
        raise ConfigError(f"{path}: not valid YAML: {error}.") from None
    except _RepeatedKey as error:
        raise ConfigError(f"{path}:{error.line}: '{error.key}' is there twice, first in line {error.first}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the {what} file must hold keys and values, it holds {type(value).__name__}.")
    return Document(path, value, lines)
