"""A board goes into devices.yaml and every other line stays; where that cannot be, nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_tests.inventory import Board, load_inventory
from device_tests.inventory_edit import add_board, set_host_key, written
from edgesmith.errors import ConfigError

PIN, NEW_PIN = "SHA256:" + "A" * 43, "SHA256:" + "B" * 43
BOARD = Board(host="10.0.0.9", user="pi", labels=("lab", "arm64"), reboot=("sudo", "-n", "reboot"), host_key=PIN)
ENTRY = f"""\
  pi:
    host: 10.0.0.9
    user: pi
    host_key: {PIN}
    reboot: [sudo, -n, reboot]
    labels: [lab, arm64]
"""


def edited(folder: Path, text: str | None, name: str = "pi", board: Board = BOARD) -> str:
    path = folder / "devices.yaml"
    if text is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(text.encode())
    add_board(path, name, board)
    assert load_inventory(path).boards[name] == board
    return path.read_bytes().decode()


@pytest.mark.parametrize("text", [None, "", "devices:\n"])
def test_the_first_board(tmp_path: Path, text: str | None):
    assert edited(tmp_path, text) == f"devices:\n{ENTRY}"


def test_comments_and_order_stay(tmp_path: Path):
    head = "# our lab\ndevices:\n  # the old one\n  zero:   # on the shelf\n    host: a\n    # port: 2222\n"
    tail = "\n  # more to come\n# end\n"
    assert edited(tmp_path, head + tail) == head + ENTRY + tail


def test_a_file_of_comments_keeps_them(tmp_path: Path):
    assert edited(tmp_path, "# boards of the lab") == f"# boards of the lab\ndevices:\n{ENTRY}"


def test_indentation_and_line_ends_are_those_of_the_file(tmp_path: Path):
    text = edited(tmp_path, "devices:\r\n    zero: {host: a}")
    assert text == "devices:\r\n    zero: {host: a}\r\n" + "".join(f"  {line}\r\n" for line in ENTRY.splitlines())


@pytest.mark.parametrize(
    ("before", "start"),
    [
        ("devices: {}\n", "devices: {pi: {host: 10.0.0.9, "),
        ("devices: {zero: {host: a}}\n", "devices: {zero: {host: a}, pi: {host: 10.0.0.9, "),
        ("devices: {zero: {host: a},}\n", "devices: {zero: {host: a}, pi: {host: 10.0.0.9, "),
        ("devices: {zero: {host: a} # old\n  }\n", "devices: {zero: {host: a} # old\n  , pi: {host: 10.0.0.9, "),
    ],
)
def test_braces_stay_braces(tmp_path: Path, before: str, start: str):
    assert edited(tmp_path, before).startswith(start)


def test_lists_and_anchors_above_are_no_trouble(tmp_path: Path):
    text = "devices:\n  zero: &base\n    host: a\n    labels:\n    - x\n  one: {<<: *base, port: 3}\n"
    assert edited(tmp_path, text) == text + ENTRY


def test_what_lines_cannot_be_added_to_is_left_alone_and_told(tmp_path: Path):
    path = tmp_path / "devices.yaml"
    text = "devices: &all\n  zero: &zero {host: a}\n  one:\n    *zero\n"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        add_board(path, "pi", BOARD)
    assert "this change cannot be made without rewriting it; nothing was changed" in str(error.value)
    assert str(error.value).endswith(f"Add these lines below `devices:`:\n{ENTRY}")
    assert path.read_text() == text


def test_a_broken_file_is_told_and_left_alone(tmp_path: Path):
    path = tmp_path / "devices.yaml"
    path.write_text("devices:\n  pi: {host: a, usr: x}\n")
    with pytest.raises(ConfigError, match=r"devices\.yaml:2: unknown key 'devices\.pi\.usr'; did you mean 'user'\?"):
        add_board(path, "other", BOARD)
    path.write_text("devices: [\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        add_board(path, "other", BOARD)
    assert path.read_text() == "devices: [\n"


def test_a_name_that_is_there_is_not_replaced(tmp_path: Path):
    path = tmp_path / "devices.yaml"
    add_board(path, "pi", BOARD)
    with pytest.raises(ConfigError, match="'pi' is there already"):
        add_board(path, "pi", Board(host="b"))


def test_a_link_to_the_file_stays_a_link_and_the_mode_stays(tmp_path: Path):
    real = tmp_path / "dotfiles.yaml"
    real.touch(mode=0o600)
    link = tmp_path / "devices.yaml"
    link.symlink_to(real)
    add_board(link, "pi", BOARD)
    assert link.is_symlink()
    assert real.read_text() == f"devices:\n{ENTRY}"
    assert real.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"devices:\n  pi:\n    host_key: {PIN}   # old\n    host: a\n", f"    host_key: {NEW_PIN}   # old\n"),
        (f"devices: {{pi: {{host: a, host_key: '{PIN}', port: 3}}}}\n", f"host_key: {NEW_PIN}, port: 3"),
        ("devices:\n  pi:\n    host: a   # first\n\n  x: {host: b}\n", f"# first\n    host_key: {NEW_PIN}\n\n  x:"),
        ("devices: {pi: {host: a}}\n", f"host: a, host_key: '{NEW_PIN}'}}}}"),
    ],
)
def test_a_new_pin_changes_nothing_else(tmp_path: Path, before: str, after: str):
    path = tmp_path / "devices.yaml"
    path.write_text(before)
    set_host_key(path, "pi", NEW_PIN)
    assert after in path.read_text()
    assert load_inventory(path).get("pi").host_key == NEW_PIN


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True).filter(lambda name: name != "local")
plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
boards = st.builds(
    Board,
    host=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,9}", fullmatch=True),
    power=st.lists(plain, max_size=3).map(lambda words: ["pdu", *words]),
    labels=st.lists(names, max_size=3),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.dictionaries(names, boards, max_size=3), names, boards, st.booleans(), st.sampled_from([2, 4]))
def test_whatever_was_there_is_there_afterwards(
    tmp_path: Path, there: dict[str, Board], name: str, board: Board, braces: bool, indent: int
):
    there.pop(name, None)
    path = tmp_path / "devices.yaml"
    content = {"devices": {one: written(entry) for one, entry in there.items()}}
    text = yaml.safe_dump(content, default_flow_style=braces, indent=indent, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    add_board(path, name, board)
    assert load_inventory(path).boards == {**there, name: board}
    if not braces:
        assert path.read_text(encoding="utf-8").startswith(text.replace("{}\n", "")) or not there
