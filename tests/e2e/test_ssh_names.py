"""Whatever a name, a path or an argument holds, it arrives as it is: nothing is expanded, split or run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.loopback_sshd import SshdBoard
from device_tests.ssh import Ssh
from edgesmith.errors import ConfigError

RUNS = ["$(touch broken)", "`touch broken`", "; touch broken", "| touch broken", "&& touch broken", "> broken"]
RUNS += ["\ntouch broken\n", "'; touch broken; '", '"; touch broken; "', "'$(touch broken)'", "\\$(touch broken)"]
ODD = [
    "$HOME",
    "~",
    "*",
    "a b",
    "\\",
    "!!",
    "-rf",
    "--",
    "--version",
    "-",
    "%h",
    "{a,b}",
    "#",
    "\t",
    "\x1b[2J",
    "ä ☃ 🦊",
]
HOSTILE = RUNS + ODD
ECHO = "import json, sys; sys.stdout.write(json.dumps(sys.argv[1:]))"

words = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
)
names = words.filter(lambda name: name not in ("", ".", "..") and "/" not in name and len(name.encode()) < 200)
modest = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def board() -> Iterator[InProcessBoard]:
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as running:
        yield running


@pytest.fixture(scope="module")
def ssh(board: InProcessBoard) -> Iterator[Ssh]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as nobody:
        patch.setenv("HOME", nobody)
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        with Ssh(board.device(), Deadline.after(30)) as connection:
            yield connection


@pytest.fixture(autouse=True)
def _unbroken(board: InProcessBoard) -> Iterator[None]:
    yield
    assert not list(board.home.rglob("broken")), "a shell ran what it was given"


def soon() -> Deadline:
    return Deadline.after(30)


@modest
@given(arguments=st.lists(words, max_size=5))
@example(arguments=HOSTILE)
def test_arguments_arrive_as_they_are(ssh: Ssh, board: InProcessBoard, arguments: list[str]):
    done = ssh.run([board.device().python, "-c", ECHO, *arguments], soon())
    assert done.exit_status == 0
    assert json.loads(done.stdout) == arguments


@modest
@given(arguments=st.lists(words, max_size=5))
@example(arguments=HOSTILE)
def test_so_they_do_for_a_program_that_stays(ssh: Ssh, board: InProcessBoard, arguments: list[str]):
    process = ssh.spawn([board.device().python, "-c", f"{ECHO}; print(flush=True)", *arguments], soon())
    assert json.loads(process.receive(soon())) == arguments
    assert process.close(soon()).exit_status == 0


@modest
@given(name=names)
@example(name="\ntouch broken\n")
def test_a_program_of_any_name_is_run_or_not_found(ssh: Ssh, name: str):
    assert ssh.run([f"./{name}"], soon()).exit_status in (126, 127)


@modest
@given(folder=names, name=names, up=st.booleans(), content=st.binary(max_size=100))
def test_files_of_any_name_go_there_and_back(
    ssh: Ssh, board: InProcessBoard, folder: str, name: str, up: bool, content: bytes
):
    """`..` is no business of the transport: it leads where it says."""
    assume(folder != name and not name.endswith(".part"))
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(dir=board.home) as top:
        here, back = Path(scratch) / "here", Path(scratch) / "back"
        here.write_bytes(content)
        way = [Path(top).name, folder, *([".."] if up else []), name]
        (Path(top) / folder).mkdir()
        ssh.put(here, "/".join(way), soon())
        meant = Path(top) / name if up else Path(top) / folder / name
        assert meant.read_bytes() == content
        assert sorted(path for path in Path(top).rglob("*") if path.is_file()) == [meant]
        ssh.get("/".join(way), back, soon())
        assert back.read_bytes() == content


def test_a_name_that_is_no_text_goes_too(ssh: Ssh, board: InProcessBoard, tmp_path: Path):
    """File names are bytes; Python shows those that are no UTF-8 as surrogates."""
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"x")
    ssh.put(tmp_path / name, f"latin/{name}", soon())
    assert (board.home / "latin" / name).read_bytes() == b"x"
    ssh.get(f"latin/{name}", tmp_path / "back", soon())
    assert (tmp_path / "back").read_bytes() == b"x"


@pytest.mark.sshd
def test_an_argument_that_is_no_text_goes_to_sshd(tmp_path: Path, nobodys_ssh_setup: None):
    with folder_for_boards() as folder, SshdBoard(folder / "board") as board, Ssh(board.device(), soon()) as ssh:
        code = "import os, sys; print(os.fsencode(sys.argv[1]))"
        done = ssh.run([board.device().python, "-c", code, os.fsdecode(b"caf\xe9")], soon())
    assert done.stdout == b"b'caf\\xe9'\n"


@pytest.mark.parametrize("argument", ["\0", "a\0b"])
def test_a_nul_is_refused_before_it_cuts_a_command_short(ssh: Ssh, argument: str):
    for start in (ssh.run, ssh.spawn):
        with pytest.raises(ConfigError, match="cannot hold a NUL character"):
            start(["echo", argument], soon())


def test_the_folder_of_a_name_with_slashes_is_made(ssh: Ssh, board: InProcessBoard, tmp_path: Path):
    (tmp_path / "x").write_bytes(b"x")
    remote = str(PurePosixPath("deep", "-rf", "$(touch broken)", "x"))
    ssh.put(tmp_path / "x", remote, soon())
    assert (board.home / remote).read_bytes() == b"x"
