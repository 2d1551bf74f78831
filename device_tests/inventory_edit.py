"""Changes `devices.yaml` as a careful person would: a few lines go in, every other line stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from device_tests.inventory import Board, Inventory
from edgesmith import yaml_lines
from edgesmith.errors import ConfigError
from edgesmith.files import write_bytes

_INDENT = 2


def open_inventory(path: Path) -> Inventory:
    """The inventory at `path`, empty where it is not there yet.

    Raises:
        ConfigError: it is there and broken.
    """
    old = _read(path)
    return Inventory(yaml_lines.Document(path, {"devices": {}}, {}) if old is None else old[1])


def add_board(path: Path, name: str, board: Board) -> None:
    """Writes a new entry at the end of `devices:`; makes the file where there is none.

    Raises:
        ConfigError: the file is broken, has the name already, or is written in a way that lines cannot be added to:
            says which lines to add by hand. Nothing is written then.
    """
    entry = written(board)
    boards = dict(open_inventory(path).boards)
    if name in boards:
        raise ConfigError(f"{path}: '{name}' is there already.")
    old = _read(path)
    by_hand = f"Add these lines below `devices:`:\n{_block({name: entry}, _INDENT)}"
    text = "" if old is None else old[0]
    new = _edited(lambda: _with_entry(text, name, entry), path, by_hand)
    _replace(path, new, {**boards, name: board}, by_hand)


def set_host_key(path: Path, name: str, fingerprint: str) -> None:
    """Pins another key for a board that is there.

    Raises:
        ConfigError: as in `add_board`.
    """
    old = _read(path)
    if old is None:
        raise ConfigError(f"{path}: no such inventory file.")
    boards = dict(Inventory(old[1]).boards)
    board = Board.model_validate({**boards[name].model_dump(exclude_unset=True), "host_key": fingerprint})
    by_hand = f"Write this for '{name}': `host_key: {fingerprint}`."
    new = _edited(lambda: _with_key(old[0], name, fingerprint), path, by_hand)
    _replace(path, new, {**boards, name: board}, by_hand)


def written(board: Board) -> dict[str, Any]:
    """An entry as it stands in the file: only what was said, in the order of the documentation."""
    said = board.model_dump(mode="json", exclude_unset=True)
    return {key: said[key] for key in Board.model_fields if key in said}


def _read(path: Path) -> tuple[str, yaml_lines.Document] | None:
    """Text and content; None where there is no file, or only comments. Line ends are kept as they are."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the inventory file cannot be read: {error}.") from None
    if _compose(text) is None:
        return text, yaml_lines.Document(path, {"devices": {}}, {})
    return text, yaml_lines.parse(path, text, what="inventory")


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return yaml.ScalarNode("", "")  # told with its line by whoever parses it next


def _edited(edit: Callable[[], str], path: Path, by_hand: str) -> str:
    try:
        return edit()
    except (KeyError, ValueError):
        raise _not_by_text(path, by_hand) from None


def _replace(path: Path, text: str, expected: Mapping[str, Board], by_hand: str) -> None:
    """Writes the text if it says exactly what it should."""
    try:
        found = Inventory(yaml_lines.parse(path, text, what="inventory")).boards
    except ConfigError:
        raise _not_by_text(path, by_hand) from None
    if found != expected:
        raise _not_by_text(path, by_hand)
    write_bytes(path.resolve(), text.encode())


def _not_by_text(path: Path, by_hand: str) -> ConfigError:
    what = f"{path}: is written in a way that this change cannot be made without rewriting it; nothing was changed."
    return ConfigError(what, next_step=by_hand)


def _with_entry(text: str, name: str, entry: Mapping[str, Any]) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    newline = _newline(text)
    if root is None:
        return _joined(text, _block({"devices": {name: entry}}, 0), newline)
    boards = _value(root, "devices")
    if isinstance(boards, yaml.ScalarNode):  # `devices:` and nothing yet
        at = _line_end(text, _key(root, "devices").end_mark.index)
        return _inserted(text, at, _block({name: entry}, _INDENT), newline)
    return _with_pair(text, boards, name, entry)


def _with_key(text: str, name: str, fingerprint: str) -> str:
    board = _value(_value(yaml.compose(text, Loader=yaml.SafeLoader), "devices"), name)
    try:
        old = _value(board, "host_key")
    except KeyError:
        return _with_pair(text, board, "host_key", fingerprint)
    return f"{text[: old.start_mark.index]}{fingerprint}{text[old.end_mark.index :]}"


def _with_pair(text: str, mapping: yaml.Node, key: str, value: Any) -> str:
    """`mapping` with one more key at its end."""
    if not isinstance(mapping, yaml.MappingNode):
        raise ValueError("not a mapping")  # noqa: TRY004 - of the file, not of the caller
    if mapping.flow_style:
        close = mapping.end_mark.index - 1
        before = text[:close].rstrip()
        comma = ", " if mapping.value and not before.endswith(",") else " " if mapping.value else ""
        pair = yaml.safe_dump({key: value}, default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]
        kept = before if "\n" not in text[len(before) : close] else text[:close]
        return f"{kept}{comma}{pair}{text[close:]}"
    indent = int(mapping.value[0][0].start_mark.column)
    at = _line_end(text, _last_index(text, mapping))
    return _inserted(text, _past_comments(text, at, indent), _block({key: value}, indent), _newline(text))


def _value(node: yaml.Node | None, key: str) -> yaml.Node:
    return _pair(node, key)[1]


def _key(node: yaml.Node, key: str) -> yaml.Node:
    return _pair(node, key)[0]


def _pair(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node]:
    pairs: list[tuple[yaml.Node, yaml.Node]] = node.value if isinstance(node, yaml.MappingNode) else []
    return {known.value: (known, value) for known, value in pairs}[key]


def _last_index(text: str, node: yaml.Node) -> int:
    """Where the last thing written inside `node` ends. A block's own end is that of the comments after it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return max(max(int(k.end_mark.index), _last_index(text, v)) for k, v in node.value)
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return max(_last_index(text, item) for item in node.value)
    end: int = node.end_mark.index
    return len(text[:end].rstrip())


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _past_comments(text: str, at: int, indent: int) -> int:
    """Past the comments that belong to what was before: those indented deeper than its key."""
    end = here = at
    while here < len(text):
        after = _line_end(text, here)
        line = text[here:after]
        shown = line.lstrip(" \t")
        if shown.startswith("#") and len(line) - len(shown) > indent:
            end = after
        elif shown.strip():
            break
        here = after
    return end


def _inserted(text: str, at: int, block: str, newline: str) -> str:
    return _joined(text[:at], block, newline) + text[at:]


def _joined(head: str, block: str, newline: str) -> str:
    gap = "" if not head or head.endswith("\n") else newline
    return head + gap + block.replace("\n", newline)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _block(value: Mapping[str, Any], indent: int) -> str:
    """Block style, lists of words on one line; indented, with a line end."""
    text = yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    return "".join(f"{' ' * indent}{line}\n" for line in text.splitlines())


class _Dumper(yaml.SafeDumper):
    """Lists on one line: `[lab, arm64]`."""


def _flow_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(list, _flow_list)
