"""One board: what it is, what it lacks, and its self-test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from device_tests import lease
from device_tests.capability import CapabilityRecord
from device_tests.probe import facts, probe
from device_tests.session import BoardSession
from edgesmith.doctor.cuda_providers import Provider, providers
from edgesmith.doctor.one_row import OneRow
from edgesmith.doctor.rows import Row, lacking
from edgesmith.doctor.self_test import Reached, self_test
from edgesmith.doctor.trial import SelfTest
from edgesmith.errors import BoardBusy, InfrastructureError
from edgesmith.progress import Progress
from edgesmith.types import Device, LeaseRequest

WAIT_S = 60.0
"""For whoever holds the board."""

_SWAP = (
    "sudo fallocate -l 4G /var/swapfile && sudo chmod 600 /var/swapfile && "
    "sudo mkswap /var/swapfile && sudo swapon /var/swapfile"
)
_SMALL_BYTES = 9e9
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examined:
    """What was found of one board.

    Attributes:
        rows: each under the board's name.
        record: what it is; None where it could not be reached.
        tested: its self-test; None where it was not made.
        untested: why a self-test that was asked for was not made; empty where it was.
        log: the last lines of the agent's stderr.
        cuda: of a Jetson, its providers of CUDA.
    """

    device: Device
    rows: tuple[Row, ...]
    record: CapabilityRecord | None = None
    tested: SelfTest | None = None
    untested: str = ""
    log: str = ""
    cuda: tuple[Provider, ...] = ()

    @property
    def ok(self) -> bool:
        """No self-test that was asked for failed, or could not be made."""
        return not self.untested and (self.tested is None or self.tested.ok)


def examine_board(device: Device, progress: Progress, *, test: bool = True, wait_s: float = WAIT_S) -> Examined:
    """Looks at a board, and makes its self-test. One that cannot be reached is a row that says so.

    Args:
        device: the board.
        progress: told what is done; one task.
        test: make the self-test, under the board's lease; else nobody there is disturbed.
        wait_s: how long to wait while somebody else holds the board.

    Raises:
        ConfigError: the device cannot be used as it is described.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
        progress.task(f"doctor: {device.name}", total=1.0) as task,
    ):
        visit = _Visit(device, Path(scratch), OneRow(task, progress))
        try:
            return visit.tested(wait_s) if test else visit.looked()
        except InfrastructureError as error:
            row = Row(device.name, ok=False, text=error.what, fix=error.next_step)
            return Examined(device=device, rows=(row,), untested=error.what if test else "", log=visit.log)


class _Visit:
    """One look at a board.

    Attributes:
        log: the last lines of the agent's stderr.
    """

    def __init__(self, device: Device, scratch: Path, row: OneRow) -> None:
        self.log = ""
        self._device, self._scratch, self._row = device, scratch, row

    def looked(self) -> Examined:
        """Without a lease, and without a self-test."""
        with self._session(None) as session:
            return self._look(session)

    def tested(self, wait_s: float) -> Examined:
        """Under the board's lease; where somebody else keeps it, only a look."""
        request = LeaseRequest(owner=lease.owner(), run_id="doctor", token=lease.new_token(), wait_s=wait_s)
        with Reached(lambda: self._session(request)) as board:
            try:
                found = self._look(board.session())
            except BoardBusy as busy:
                row = Row(f"{self._device.name}: self-test", ok=False, text=busy.what, fix=busy.next_step)
                looked = self.looked()
                return replace(looked, rows=(*looked.rows, row), untested=busy.what)
            has_trtexec = found.record is not None and found.record.trtexec
            test = self_test(board, self._row, has_trtexec=has_trtexec)
        row = Row(f"{self._device.name}: self-test", ok=test.ok, text=test.verdict())
        return replace(found, rows=(*found.rows, row), tested=test, log=test.log)

    def _session(self, request: LeaseRequest | None) -> BoardSession:
        return BoardSession(self._device, local_root=self._scratch, progress=self._row, lease=request)

    def _look(self, session: BoardSession) -> Examined:
        try:
            return _look(session)
        finally:
            self.log = session.agent_log


def _look(session: BoardSession) -> Examined:
    device, record, fake = session.device, probe(session), session.info.stand_in
    prefix = f"{device.name}: "
    cuda = providers(session) if _has_nvidia(record) and not session.info.fake else ()
    rows = [
        Row(f"{prefix}{name}", ok=name not in record.missing, text=_fake_or(name, text, fake=fake))
        for name, text in facts(record)
    ]
    if _has_nvidia(record):
        rows += [Row(prefix + row.name, row.ok, row.text, row.fix) for row in _jetson(record, cuda, fake=fake)]
    rows += lacking(prefix, record, device, ours=False)
    return Examined(device=device, rows=tuple(rows), record=record, cuda=cuda, log=session.agent_log)


def _has_nvidia(record: CapabilityRecord) -> bool:
    return record.l4t is not None or record.tensorrt is not None or "tensorrt" in record.runners


def _fake_or(name: str, text: str, *, fake: bool) -> str:
    """What a stand-in for TensorRT tells is never taken for a Jetson's."""
    return f"FAKE TensorRT: {text}" if fake and name in ("runtimes", "nvidia") else text


def _jetson(record: CapabilityRecord, cuda: tuple[Provider, ...], *, fake: bool) -> Iterator[Row]:
    """What decides whether a Jetson builds and runs engines, a row each."""
    mark = "FAKE: " if fake else ""
    release = f" (L4T {record.l4t})" if record.l4t else ""
    jetpack = f"{record.jetpack}{release}" if record.jetpack else "not known: this board says nothing of L4T"
    yield Row("JetPack", ok=record.jetpack is not None, text=jetpack)
    yield _tensorrt(record, mark)
    taken = next((one for one in cuda if one.works), None)
    text = f"{mark}{taken.name}: {taken}" if taken else "none works; the rows below say why"
    yield Row("CUDA provider", ok=taken is not None, text=text)
    for one in cuda:
        if one is not taken:
            # That one of them is not there is nothing to be mended as long as another works.
            yield Row(f"CUDA by {one.name}", ok=one.works or bool(taken and one.missing), text=f"{mark}{one}")
    yield Row("numpy", ok=record.numpy is not None, text=record.numpy or "not there")
    if not (record.power_mode or record.power_modes):
        yield Row("power mode", ok=True, text="not known: there is no nvpmodel, or it tells nothing")
    yield from _memory(record)


def _tensorrt(record: CapabilityRecord, mark: str) -> Row:
    imported = record.runtimes.get("tensorrt")
    there = record.tensorrt or "no package"
    if "trtexec" in record.runtimes:
        text = f"{mark}{imported}, by trtexec alone: this Python has no binding, so nothing tells answers"
        return Row("TensorRT", ok=True, text=text)
    if imported is not None:
        return Row("TensorRT", ok=True, text=f"{mark}{imported}, imported by this Python; installed: {there}")
    why = record.missing.get("tensorrt", "its runner was not tried")
    return Row("TensorRT", ok=False, text=f"installed: {there}; not usable from this Python: {why}")


def _memory(record: CapabilityRecord) -> Iterator[Row]:
    free, total, swap = record.memory_available_bytes, record.memory_bytes, record.swap_bytes
    text = "not known" if free is None or total is None else f"{free / _GB:.1f} of {total / _GB:.1f} GB"
    yield Row("free memory", ok=free is not None, text=text)
    if swap:
        yield Row("swap", ok=True, text=f"{swap / _GB:.1f} GB")
    elif total is not None and total < _SMALL_BYTES:
        yield Row("swap", ok=False, text="none: builds of large networks may run out of memory", fix=_SWAP)
    else:
        yield Row("swap", ok=True, text="none" if swap == 0 else "not known")
