"""Uploads on the board: what is taken in, what is refused, and when what nobody finished is forgotten."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.agent import incoming
from device_tests.agent.incoming import DAY_S, RESTARTS, Incoming
from device_tests.agent.protocol import Refusal

CONTENT = b"a model " * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def uploads(tmp_path: Path) -> Incoming:
    return Incoming(str(tmp_path))


def upload(uploads: Incoming, tmp_path: Path, data: bytes) -> str:
    (tmp_path / "incoming" / "x").write_bytes(data)
    return "incoming/x"


def accept(uploads: Incoming, tmp_path: Path, data: bytes, **how: object) -> bytes:
    target = tmp_path / "target"
    uploads.accept(upload(uploads, tmp_path, data), SHA256, str(target), **how)
    return target.read_bytes()


# --- taken in, or refused ---


def test_what_arrives_as_it_is_is_moved(uploads: Incoming, tmp_path: Path):
    assert accept(uploads, tmp_path, CONTENT) == CONTENT
    assert uploads.names() == []


def test_what_was_compressed_for_the_way_is_unpacked(uploads: Incoming, tmp_path: Path):
    assert accept(uploads, tmp_path, gzip.compress(CONTENT), encoding="gzip", size=len(CONTENT)) == CONTENT
    assert uploads.names() == []


def test_a_model_of_no_bytes_is_unpacked_too(uploads: Incoming, tmp_path: Path):
    target = tmp_path / "target"
    name = upload(uploads, tmp_path, gzip.compress(b""))
    uploads.accept(name, hashlib.sha256(b"").hexdigest(), str(target), "gzip", 0)
    assert target.read_bytes() == b""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (gzip.compress(CONTENT)[:-9], "ends too early"),
        (b"", "ends too early"),
        (b"no gzip", "incorrect header check"),
        (gzip.compress(CONTENT + b"!"), "of more than 800000 bytes"),
        (gzip.compress(CONTENT[:-1]), "expected"),
    ],
)
def test_what_does_not_unpack_to_the_content_is_damaged(uploads: Incoming, tmp_path: Path, data: bytes, text: str):
    with pytest.raises(Refusal, match=text) as refused:
        accept(uploads, tmp_path, data, encoding="gzip", size=len(CONTENT))
    assert refused.value.code == "damaged"
    assert uploads.names() == []
    assert not (tmp_path / "target").exists()


def test_a_bomb_fills_neither_memory_nor_disk(uploads: Incoming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(300)) + engine.flush()
    assert len(bomb) < 400_000
    largest = 0
    remove = os.remove

    def watched(path: str) -> None:
        nonlocal largest
        largest = max(largest, Path(path).stat().st_size)
        remove(path)

    monkeypatch.setattr(incoming.os, "remove", watched)
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="of more than 800000 bytes"):
            accept(uploads, tmp_path, bomb, encoding="gzip", size=len(CONTENT))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert largest <= max(len(bomb), len(CONTENT))


@pytest.mark.parametrize(("encoding", "size"), [("zstd", 5), ("gzip", None), ("gzip", "5")])
def test_an_encoding_that_is_not_ours_is_refused(uploads: Incoming, tmp_path: Path, encoding: str, size: object):
    with pytest.raises(Refusal, match="encoding"):
        accept(uploads, tmp_path, CONTENT, encoding=encoding, size=size)


@pytest.mark.parametrize("path", ["x", "../incoming/x", "incoming/../../x", "incoming/a/x", "/etc/passwd", "incoming"])
def test_only_uploads_are_taken_in(uploads: Incoming, tmp_path: Path, path: str):
    (tmp_path / "x").write_bytes(CONTENT)
    with pytest.raises(Refusal, match=r"is no upload|no file"):
        uploads.accept(path, SHA256, str(tmp_path / "target"))
    assert (tmp_path / "x").exists()


def test_an_upload_that_is_not_there_is_not_found(uploads: Incoming, tmp_path: Path):
    with pytest.raises(Refusal, match="no file") as refused:
        uploads.accept("incoming/y", SHA256, str(tmp_path / "target"))
    assert refused.value.code == "not-found"


@given(content=st.binary(max_size=5000), flip=st.none() | st.integers(min_value=0))
def test_a_changed_bit_never_gets_through(tmp_path_factory: pytest.TempPathFactory, content: bytes, flip: int | None):
    folder = tmp_path_factory.mktemp("board")
    uploads, target = Incoming(str(folder)), folder / "target"
    packed = bytearray(gzip.compress(content, mtime=0))
    if flip is not None:
        packed[flip // 8 % len(packed)] ^= 1 << flip % 8
    (folder / "incoming" / "x").write_bytes(packed)
    with contextlib.suppress(Refusal):
        uploads.accept("incoming/x", hashlib.sha256(content).hexdigest(), str(target), "gzip", len(content))
    if target.exists():  # some bits of a gzip header say nothing about the content
        assert target.read_bytes() == content
    else:
        assert flip is not None
    assert uploads.names() == []


# --- forgotten ---


def part(tmp_path: Path, size: int = 5) -> Path:
    path = tmp_path / "incoming" / "x.part"
    path.write_bytes(bytes(size))
    return path


def test_what_has_not_grown_for_a_day_is_forgotten(uploads: Incoming, tmp_path: Path):
    path = part(tmp_path)
    uploads.forget_old(("boot", 100.0))
    uploads.forget_old(("boot", 100.0 + DAY_S))
    assert path.exists()
    uploads.forget_old(("boot", 101.0 + DAY_S))
    assert not path.exists()
    assert not (tmp_path / "work" / ".uploads").exists()


def test_what_grows_stays(uploads: Incoming, tmp_path: Path):
    for day in range(5):
        path = part(tmp_path, size=day)
        uploads.forget_old(("boot", day * 0.9 * DAY_S))
    assert path.exists()


@pytest.mark.parametrize("year", [1970, 1999, 2099])
def test_a_wall_clock_that_is_wrong_by_years_forgets_nothing(uploads: Incoming, tmp_path: Path, year: int):
    path = part(tmp_path)
    os.utime(path, ((year - 1970) * 365 * DAY_S,) * 2)
    uploads.forget_old(("boot", 100.0))
    uploads.forget_old(("boot", 200.0))
    assert path.exists()


def test_a_restart_begins_the_day_anew_but_not_for_ever(uploads: Incoming, tmp_path: Path):
    path = part(tmp_path)
    for boot in range(RESTARTS + 1):
        assert path.exists()
        uploads.forget_old((f"boot {boot}", 0.9 * DAY_S))
    uploads.forget_old(("one more", 5.0))
    assert not path.exists()


def test_without_a_boot_id_an_uptime_that_falls_back_is_a_restart(uploads: Incoming, tmp_path: Path):
    path = part(tmp_path)
    uploads.forget_old(("", 2 * DAY_S))
    uploads.forget_old(("", 10.0))
    assert path.exists()


@pytest.mark.parametrize("notes", ["", "[]", '{"x.part": 3}', '{"x.part": {"size": 5}}', "\x00"])
def test_notes_that_make_no_sense_are_begun_anew(uploads: Incoming, tmp_path: Path, notes: str):
    path = part(tmp_path)
    (tmp_path / "work" / ".uploads").write_text(notes)
    uploads.forget_old(("boot", 5.0))
    assert path.exists()
    assert json.loads((tmp_path / "work" / ".uploads").read_text())["x.part"]["since_s"] == 5.0


def test_the_boards_own_moment_is_used_by_default(uploads: Incoming, tmp_path: Path):
    path = part(tmp_path)
    uploads.forget_old()
    uploads.forget_old()
    assert path.exists()
