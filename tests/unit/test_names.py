"""Names of devices, labels, paths and models: refused where they enter, or harmless wherever they go."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_tests.inventory import LOCAL, load_inventory
from device_tests.inventory_fields import parse_address
from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith.errors import ConfigError
from edgesmith.files import safe_name
from edgesmith.measure_one import measure_artifact
from edgesmith.pipeline import run_folder
from edgesmith.progress import Silent
from edgesmith.types import Device
from tests.tiny_artifacts import DATA

AWKWARD = (
    "..", ".", "/", "../../etc/passwd", "a/../../b", "/etc/passwd", "a\0b", "a\nb", "a\rb", "\x1b[2J", "-rf", "--help",
    "-oProxyCommand=touch pwned", "$(touch pwned)", "`touch pwned`", "a;touch pwned", "a&&b", "a|b", "a>b", "a'b",
    'a"b', "a b", "~", "~root", "*", "?", "%h", "\\", "a\\", "null", "true", "1", "", " ", "\u202eexe", "a" * 64,
    "a" * 300, "CON", "{a,b}", "!x", "#x", "\uff41", "é", "\u2028",
)  # fmt: skip
SHELL = re.compile(r"[\s;&|<>()$`\\\"'*?\[\]{}!#~\x00-\x1f\x7f]")
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

text = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.text("abc./-_~ ;$(){}'\"\\\n\0|&%", max_size=20),
)
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def device(folder: Path, name: str, entry: dict[str, object]) -> Device | None:
    """The device of an inventory with this one entry; None where it is refused, with its place in the file."""
    path = folder / "devices.yaml"
    path.write_text(yaml.safe_dump({"devices": {name: entry}}, allow_unicode=True), encoding="utf-8")
    try:
        return load_inventory(path).get(name)
    except ConfigError as error:
        told = error.what
    assert re.match(rf"{re.escape(str(path))}:\d+: ", told), told
    assert not any(sign in told for sign in "\0\x1b\r"), told
    return None


@quick
@given(text)
def test_a_device_name_is_refused_or_stays_in_its_folder(tmp_path: Path, name: str):
    found = device(tmp_path, name, {"host": "a"})
    if name == LOCAL or found is None:
        return
    assert SAFE.fullmatch(found.name)
    assert safe_name(found.name) == found.name
    assert (tmp_path / found.name).parent == tmp_path
    assert safe_name(f"measure-{found.name}") == f"measure-{found.name}"


@quick
@given(text)
def test_a_label_is_refused_or_plain(tmp_path: Path, label: str):
    found = device(tmp_path, "pi", {"host": "a", "labels": [label]})
    assert found is None or SAFE.fullmatch(found.labels[0])


@quick
@given(text, st.sampled_from(["host", "user"]))
@example("-oProxyCommand=touch pwned", "host")
@example("$(touch pwned)", "host")
@example("`x`", "user")
def test_an_address_means_nothing_to_a_shell_or_a_program(tmp_path: Path, value: str, key: str):
    found = device(tmp_path, "pi", {"host": "a", key: value})
    if found is not None:
        got = found.host if key == "host" else found.user
        assert got == value
        assert not SHELL.search(got)
        assert not got.startswith("-")


@quick
@given(text)
def test_a_jump_host_is_refused_or_an_address(tmp_path: Path, value: str):
    found = device(tmp_path, "pi", {"host": "a", "jump": value})
    if found is not None and found.jump:
        assert isinstance(found.jump, str)
        user, host, port = parse_address(found.jump)
        assert not SHELL.search(user + host)
        assert not host.startswith("-")
        assert port is None or 1 <= port <= 65535


@quick
@given(text, st.sampled_from(["workdir", "releases", "lease_dir", "python"]))
@example("../../etc", "workdir")
@example("~/../x", "releases")
@example("/run/../etc", "lease_dir")
@example("-c", "python")
def test_a_path_on_the_board_stays_where_it_says(tmp_path: Path, value: str, key: str):
    found = device(tmp_path, "pi", {"host": "a", key: value})
    if found is not None:
        got = getattr(found, key)
        assert ".." not in PurePosixPath(got).parts
        assert got[0] not in "-~"
        assert got.isprintable() or not any(ord(sign) < 32 or ord(sign) == 127 for sign in got)
        assert key == "python" or PurePosixPath(got) not in (PurePosixPath("."), PurePosixPath("/"))


@quick
@given(st.one_of(text, st.lists(text, max_size=3)), st.sampled_from(["power", "reboot"]))
def test_a_command_is_a_list_that_no_shell_takes_apart(tmp_path: Path, value: str | list[str], key: str):
    found = device(tmp_path, "pi", {"host": "a", key: value})
    if found is not None:
        assert isinstance(value, list)
        assert list(getattr(found, key)) == value
        assert not any("\0" in word or "\n" in word for word in value)


@given(text)
@example("")
@example("\ud800")
def test_any_text_as_a_file_name(value: str):
    name = safe_name(value)
    assert SAFE.fullmatch(name) or re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert name not in (".", "..")
    assert not name.startswith(("-", "."))
    assert len(name) <= 100
    assert safe_name(name) == name
    assert Path("folder", name).parent == Path("folder")


@given(text, text)
def test_two_texts_never_share_a_file(one: str, other: str):
    assert (safe_name(one) == safe_name(other)) == (one == other)


@quick
@given(text)
def test_a_step_and_a_log_stay_in_the_run(tmp_path: Path, label: str):
    folder = run_folder.RunFolder(tmp_path)
    step = folder.step(label, ["edgesmith", "run", label])
    log = folder.board_log(Device(name=label, transport="ssh"))
    assert step.parent == tmp_path
    assert step.resolve().is_relative_to(tmp_path.resolve())
    assert log.parent == tmp_path / "logs"


EVIL = "$(touch pwned);`touch pwned`;touch pwned& touch pwned|#'\"\\\n -rf ~ *.onnx"


def test_a_model_with_an_evil_name_reaches_no_shell(
    tmp_path: Path, nobodys_ssh_setup: None, monkeypatch: pytest.MonkeyPatch
):
    """The file, its folder and the run folder are all named so that any shell on the way would leave a trace."""
    folder = tmp_path / "$(touch pwned)" / "..;touch pwned"
    folder.mkdir(parents=True)
    model = folder / EVIL
    model.write_bytes((DATA / "dense.onnx").read_bytes())
    np.savez(folder / "'; touch pwned.npz", x=np.random.default_rng(0).random((200, 4), np.float32))
    monkeypatch.chdir(folder)
    with folder_for_boards() as place, InProcessBoard(place / "board") as board:
        known = board.device("pi")
        entry = {
            "host": known.host,
            "port": known.port,
            "user": known.user,
            "identity_file": str(known.identity_file),
            "host_key": board.fingerprint,
            "python": sys.executable,
            "workdir": "work $(touch pwned)'",
            "lease_dir": known.lease_dir,
        }
        (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": {"pi": entry}}))
        (row,) = measure_artifact(
            model,
            folder / "'; touch pwned.npz",
            devices=["pi"],
            inventory=folder / "devices.yaml",
            runs_dir=folder / "runs",
            metric="top1",
            samples=None,
            threads=1,
            progress=Silent(),
        )
        assert row.latency_ms is not None
        assert not list(tmp_path.rglob("pwned")) + list(place.rglob("pwned"))
        assert {path.name for path in board.home.iterdir()} == {"work $(touch pwned)'"}
        assert not [
            path for path in board.home.rglob("*") if path.is_file() and not SAFE.fullmatch(path.name.strip("."))
        ]


def test_the_evil_name_would_have_shown(tmp_path: Path):
    """The test above can fail: a shell that sees the name does as it says."""
    subprocess.run(f"echo {EVIL}", shell=True, cwd=tmp_path, check=False, capture_output=True)  # noqa: S602
    assert list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ["pi5-lab", "a", "0", "A.b_c-d", "x" * 63])
def test_ordinary_names_stay_as_they_are(tmp_path: Path, name: str):
    found = device(tmp_path, name, {"host": "a"})
    assert found == dataclasses.replace(found or Device(name="", transport="ssh"), name=name)
