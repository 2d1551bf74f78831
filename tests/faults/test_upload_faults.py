"""Uploads that break: gone on with where that is right, begun anew where it is not, and every byte counted."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests import lease, packing
from device_tests.agent_zip import build_agent
from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, LoopbackBoard
from device_tests.session import BoardSession
from device_tests.ssh import Ssh
from edgesmith.errors import BoardError, ConnectionLost, DeadlineExceeded
from edgesmith.files import sha256_bytes, sha256_file
from edgesmith.progress import Silent
from edgesmith.types import Device
from tests.faults.relay import Relay

SIZE = 8 << 20
CUT = 5 << 20
AGAIN = 3 << 20
"""What may have been on its way when the link was cut: the window of our uploads, and what lies in sockets."""


# Looks for no runtimes when it greets: nothing is measured here.
AGENT = build_agent({"runners/__init__.py": b"def names():\n    return []\n"})


def soon() -> Deadline:
    return Deadline.after(60)


def through(board: LoopbackBoard, relay: Relay) -> Device:
    """The board by way of the relay, whose port known_hosts has never heard of."""
    return dataclasses.replace(board.device(), port=relay.port, known_hosts=None, host_key=board.fingerprint)


def owner8() -> str:
    return sha256_bytes(lease.owner().encode())[:8]


def waiting(board: LoopbackBoard) -> list[str]:
    return sorted(path.name for path in (board.home / "edgesmith" / "incoming").iterdir())


class Told:
    """What `put` tells."""

    def __init__(self) -> None:
        self.sent = self.skipped = 0

    def add(self, amount: int) -> None:
        self.sent += amount

    def skip(self, amount: int) -> None:
        self.skipped += amount


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[InProcessBoard]:
    with InProcessBoard(tmp_path / "board") as board:
        yield board


def cut(board: LoopbackBoard, relay: Relay, big: Path, remote: str) -> int:
    """An upload that the relay cuts; returns the bytes that were sent."""
    told = Told()
    with Ssh(through(board, relay), soon()) as ssh:
        relay.cut_after = relay.up + CUT
        with pytest.raises(ConnectionLost, match=r"sending big: the connection to .* was lost"):
            ssh.put(big, remote, soon(), told.add, told.skip)
    assert told.skipped == 0
    return told.sent


# --- the connection ---


def test_a_cut_upload_is_gone_on_with_and_the_bytes_add_up(board: LoopbackBoard, relay: Relay, big: Path):
    remote = f"{board.device().workdir}/incoming/big"
    before = cut(board, relay, big, remote)
    part = board.home / "edgesmith" / "incoming" / "big.part"
    left = part.stat().st_size
    assert before - AGAIN <= left < SIZE
    assert part.read_bytes()[:left] == big.read_bytes()[:left]
    told = Told()
    with Ssh(board.device(), soon()) as ssh:
        sent = ssh.put(big, remote, soon(), told.add, told.skip)
    assert sent == told.sent == SIZE - told.skipped
    assert told.skipped >= left  # sshd may still have written what it had got when the link was cut
    assert SIZE <= before + sent <= SIZE + AGAIN
    assert sha256_file(part.with_name("big")) == sha256_file(big)
    assert not part.exists()


def test_a_deadline_leaves_the_part_for_the_next_attempt(board: LoopbackBoard, relay: Relay, big: Path):
    remote, told = f"{board.device().workdir}/big", Told()
    with Ssh(through(board, relay), soon()) as ssh:
        relay.stall_after = relay.up + CUT
        with pytest.raises(DeadlineExceeded, match="board: sending big: no answer in time"):
            ssh.put(big, remote, Deadline.after(2), told.add)
        relay.reset()
    with Ssh(board.device(), soon()) as ssh:
        assert SIZE <= told.sent + ssh.put(big, remote, soon()) <= SIZE + AGAIN
    assert sha256_file(board.home / "edgesmith" / "big") == sha256_file(big)


def test_a_part_that_is_whole_is_only_renamed(board: LoopbackBoard, big: Path):
    (board.home / "big.part").write_bytes(big.read_bytes())
    told = Told()
    with Ssh(board.device(), soon()) as ssh:
        assert ssh.put(big, f"{board.home}/big", soon(), told.add, told.skip) == 0
    assert (told.sent, told.skipped) == (0, SIZE)
    assert sha256_file(board.home / "big") == sha256_file(big)


def test_a_part_that_is_too_long_is_begun_anew(board: LoopbackBoard, big: Path):
    (board.home / "big.part").write_bytes(bytes(SIZE + 1))
    with Ssh(board.device(), soon()) as ssh:
        assert ssh.put(big, f"{board.home}/big", soon()) == SIZE
    assert sha256_file(board.home / "big") == sha256_file(big)


def test_room_is_asked_for_the_rest_only(faulty: InProcessBoard, big: Path):
    (faulty.home / "big.part").write_bytes(big.read_bytes()[: SIZE - 10])
    faulty.free_bytes = 10
    with Ssh(faulty.device(), soon()) as ssh:
        assert ssh.put(big, "big", soon()) == 10
    assert sha256_file(faulty.home / "big") == sha256_file(big)


def test_what_a_full_disk_leaves_is_removed(faulty: InProcessBoard, big: Path):
    """Writes after the one that failed may have got through: what lies there is no beginning of the file."""
    faulty.fail_after = CUT
    with Ssh(faulty.device(), soon()) as ssh:
        with pytest.raises(BoardError, match="no space left on the board"):
            ssh.put(big, "big", soon())
        assert list(faulty.home.iterdir()) == []
        faulty.fail_after = faulty.free_bytes = None
        assert ssh.put(big, "big", soon()) == SIZE


def test_the_rate_is_known_after_an_upload_and_not_before(board: LoopbackBoard, big: Path):
    with Ssh(board.device(), soon()) as ssh:
        assert ssh.rate is None
        ssh.put(big, f"{board.home}/big", soon())
        assert ssh.rate is not None
        assert ssh.rate > 0


def test_another_thread_can_cut_it(board: LoopbackBoard, relay: Relay, big: Path):
    """Aborting waits for nothing; whoever waits on the link is told that it is gone."""
    with Ssh(through(board, relay), soon()) as ssh:
        process = ssh.spawn(["cat"], soon())
        for wait in (
            lambda: process.receive(soon()),
            lambda: ssh.run(["true"], soon()),
            lambda: ssh.put(big, f"{board.home}/big", soon()),
            lambda: ssh.spawn(["cat"], soon()),
        ):
            timer = threading.Timer(0.2, ssh.abort)
            timer.start()
            with pytest.raises(ConnectionLost, match="was lost"):
                wait()
            timer.join()


def test_a_transfer_in_progress_can_be_cut(board: LoopbackBoard, relay: Relay, big: Path):
    def stall(amount: int) -> None:
        if not relay.stalled:
            relay.stalled = True
            threading.Timer(0.1, ssh.abort).start()

    with Ssh(through(board, relay), soon()) as ssh, pytest.raises(ConnectionLost, match="sending big"):
        ssh.put(big, f"{board.home}/big", soon(), stall)


# --- the session ---


def session(board: LoopbackBoard, tmp_path: Path, device: Device | None = None) -> BoardSession:
    return BoardSession(device or board.device(), local_root=tmp_path / "here", progress=Silent(), agent=AGENT)


def test_the_next_session_goes_on_and_leaves_nothing_behind(
    board: LoopbackBoard, relay: Relay, tmp_path: Path, big: Path
):
    sha256 = sha256_file(big)
    with (
        pytest.raises(ConnectionLost),
        session(board, tmp_path, through(board, relay)) as first,
    ):
        relay.cut_after = relay.up + CUT
        first.push(big, sha256)
    assert waiting(board) == [f"{sha256[:16]}-{owner8()}.part"]
    with session(board, tmp_path) as second:
        assert second.push(big, sha256) <= SIZE - CUT + AGAIN
        assert SIZE <= first.bytes_sent + second.bytes_sent <= SIZE + AGAIN
        assert second.push(big, sha256) == 0
    assert waiting(board) == []
    assert sha256_file(board.home / "edgesmith" / "blobs" / sha256) == sha256


def test_what_waits_only_to_be_verified_is_not_sent_again(board: LoopbackBoard, tmp_path: Path, big: Path):
    """The link was cut between the last byte and the question whether all is well."""
    sha256 = sha256_file(big)
    incoming = board.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / f"{sha256[:16]}-{owner8()}").write_bytes(big.read_bytes())
    with session(board, tmp_path) as again:
        assert again.push(big, sha256) == 0
    assert sha256_file(board.home / "edgesmith" / "blobs" / sha256) == sha256


@pytest.mark.parametrize("suffix", ["", ".part"])
def test_an_upload_gone_on_with_that_turns_out_damaged_is_sent_once_more_from_the_start(
    board: LoopbackBoard, tmp_path: Path, big: Path, suffix: str
):
    sha256 = sha256_file(big)
    incoming = board.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    garbage = bytes(SIZE if not suffix else CUT)
    (incoming / f"{sha256[:16]}-{owner8()}{suffix}").write_bytes(garbage)
    with session(board, tmp_path) as again:
        assert again.push(big, sha256) == (SIZE - CUT if suffix else 0) + SIZE
    assert waiting(board) == []
    assert sha256_file(board.home / "edgesmith" / "blobs" / sha256) == sha256


def test_a_memory_card_that_damages_everything_is_given_up(faulty: InProcessBoard, tmp_path: Path, big: Path):
    sha256 = sha256_file(big)
    incoming = faulty.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / f"{sha256[:16]}-{owner8()}.part").write_bytes(bytes(CUT))
    with session(faulty, tmp_path) as again:
        faulty.flip = True
        with pytest.raises(BoardError, match=r"big: the upload arrived damaged and was removed: .* bytes free\."):
            again.push(big, sha256)
    assert waiting(faulty) == []


def test_two_owners_do_not_write_to_one_file(
    faulty: InProcessBoard, tmp_path: Path, big: Path, monkeypatch: pytest.MonkeyPatch
):
    sha256 = sha256_file(big)
    incoming = faulty.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    theirs = incoming / f"{sha256[:16]}-{owner8()}.part"
    theirs.write_bytes(big.read_bytes()[:CUT])
    monkeypatch.setenv(lease.OWNER_VARIABLE, "somebody@else")
    with session(faulty, tmp_path) as ours:
        assert ours.push(big, sha256) == SIZE
    assert theirs.stat().st_size == CUT


# --- compressed ---


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Half of it random, the other half zeros."""
    path = tmp_path / "sparse"
    path.write_bytes(b"".join(os.urandom(1 << 15) + bytes(1 << 15) for _ in range(64)))
    return path


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every link is known to be slow."""
    monkeypatch.setattr(Ssh, "rate", 5e5)


def test_on_a_slow_link_half_the_bytes_go(board: LoopbackBoard, tmp_path: Path, sparse: Path, slow: None):
    sha256 = sha256_file(sparse)
    with session(board, tmp_path) as link:
        assert link.push(sparse, sha256) < 0.55 * sparse.stat().st_size
    assert waiting(board) == []
    assert sha256_file(board.home / "edgesmith" / "blobs" / sha256) == sha256


def test_on_a_link_nothing_is_known_of_all_bytes_go(board: LoopbackBoard, tmp_path: Path, sparse: Path):
    with session(board, tmp_path) as link:
        assert link.push(sparse, sha256_file(sparse)) == sparse.stat().st_size


def test_what_was_begun_compressed_goes_on_compressed(board: LoopbackBoard, tmp_path: Path, sparse: Path):
    """Though the next session does not know yet how slow the link is."""
    sha256 = sha256_file(sparse)
    incoming = board.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    packing.pack(sparse, tmp_path / "packed")
    packed = (tmp_path / "packed").read_bytes()
    (incoming / f"{sha256[:16]}-{owner8()}.gz.part").write_bytes(packed[:-1000])
    with session(board, tmp_path) as link:
        assert link.push(sparse, sha256) == 1000
    assert sha256_file(board.home / "edgesmith" / "blobs" / sha256) == sha256


def test_what_was_begun_as_it_is_goes_on_as_it_is(board: LoopbackBoard, tmp_path: Path, sparse: Path, slow: None):
    sha256 = sha256_file(sparse)
    incoming = board.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / f"{sha256[:16]}-{owner8()}.part").write_bytes(sparse.read_bytes()[:-1000])
    with session(board, tmp_path) as link:
        assert link.push(sparse, sha256) == 1000


def test_a_compressed_part_of_something_else_is_found_out(board: LoopbackBoard, tmp_path: Path, sparse: Path):
    """Another zlib, say, packs the same content into other bytes."""
    sha256 = sha256_file(sparse)
    incoming = board.home / "edgesmith" / "incoming"
    incoming.mkdir(parents=True)
    other = gzip.compress(sparse.read_bytes(), compresslevel=1)
    (incoming / f"{sha256[:16]}-{owner8()}.gz.part").write_bytes(other[: len(other) // 2])
    with session(board, tmp_path) as link:
        assert link.push(sparse, sha256) > len(other) // 2
    assert hashlib.sha256((board.home / "edgesmith" / "blobs" / sha256).read_bytes()).hexdigest() == sha256
