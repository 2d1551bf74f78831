"""Boards side by side: real ones over SSH in this process, a dead one between them, and one way to stop them all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.fleet import Fleet, Outcome
from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.quarantine import BoardStates
from device_tests.recover import Patience
from device_tests.session import BoardSession
from edgesmith.errors import ConnectionLost, DataError, InfrastructureError
from edgesmith.progress import Silent
from edgesmith.types import Device, Measurement, MeasureProtocol, Rung
from tests.tiny_artifacts import artifact

PROTOCOL = MeasureProtocol(min_runs=20, min_seconds=0.02, windows=2, warmup_max_seconds=0.5)
X = np.arange(32, dtype=np.float32).reshape(8, 4)
IMPATIENT = Patience(reconnect_s=0.0, restart_s=0.0, poll_s=0.0)


@pytest.fixture
def two(nobodys_ssh_setup: None) -> Iterator[tuple[InProcessBoard, InProcessBoard]]:
    with (
        folder_for_boards() as folder,
        InProcessBoard(folder / "one") as first,
        InProcessBoard(folder / "two") as second,
    ):
        yield first, second


@pytest.fixture
def states(tmp_path: Path) -> BoardStates:
    return BoardStates(tmp_path / "states")


def make_fleet(tmp_path: Path, states: BoardStates, progress: Any = None) -> Fleet:
    shown = progress or Silent()
    return Fleet(
        owner="ann@ws",
        run_id="run-1",
        local_root=tmp_path / "local",
        states=states,
        progress=shown,
        row=lambda name: contextlib.nullcontext(shown),
        logs=lambda device: tmp_path / "logs" / f"{device.name}.log",
        patience=IMPATIENT,
    )


def dead_board(tmp_path: Path) -> Device:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    (tmp_path / "known_hosts").write_text("")
    return Device(
        name="dead", transport="ssh", host="127.0.0.1", port=port, user="pi", known_hosts=tmp_path / "known_hosts"
    )


def measure(session: BoardSession) -> Measurement:
    (measured,) = session.measure([artifact("dense.onnx", "onnx")], X, PROTOCOL)
    assert isinstance(measured, Measurement)
    return measured


class Collected:
    """Outcomes by device; notes the thread they came in."""

    def __init__(self, then: Callable[[Outcome[Any]], None] = lambda outcome: None) -> None:
        self.outcomes: dict[str, Outcome[Any]] = {}
        self.threads: set[threading.Thread] = set()
        self._then = then

    def __call__(self, outcome: Outcome[Any]) -> None:
        self.outcomes[outcome.device.name] = outcome
        self.threads.add(threading.current_thread())
        self._then(outcome)


def is_free(device: Device) -> bool:
    """Whether nobody has the board: the lease file goes with the lease."""
    return not (Path(device.lease_dir) / "lease").exists()


def test_a_dead_board_does_not_disturb_the_others(
    two: tuple[InProcessBoard, InProcessBoard], states: BoardStates, tmp_path: Path
):
    devices = [two[0].device("one"), dead_board(tmp_path), two[1].device("two")]
    fleet, collected = make_fleet(tmp_path, states), Collected()
    fleet.each(devices, measure, collected, leased=True)
    assert set(collected.outcomes) == {"one", "dead", "two"}
    assert collected.threads == {threading.current_thread()}
    for name in ("one", "two"):
        assert collected.outcomes[name].value.device == name
    error = collected.outcomes["dead"].error
    assert isinstance(error, ConnectionLost)
    assert "refused" in error.what
    assert {step.device for step in fleet.steps()} == {"dead"}
    assert [(lease.device, lease.owner, lease.run_id) for lease in fleet.leases()] == [
        ("one", "ann@ws", "run-1"),
        ("two", "ann@ws", "run-1"),
    ]
    assert fleet.bytes_sent > 0
    for device in devices:
        fleet.settle(device)
    for device in devices:
        fleet.check(device)  # one that was never reached may just be switched off: it is not quarantined yet


def test_boards_go_side_by_side_and_this_machine_alone_afterwards(
    two: tuple[InProcessBoard, InProcessBoard], states: BoardStates, tmp_path: Path
):
    """Each of the two waits for the other inside its work: one after the other they would never end."""
    both = threading.Barrier(2, timeout=60)
    order: list[str] = []

    def work(session: BoardSession) -> str:
        if session.device.transport != "local":
            both.wait()
        order.append(session.device.name)
        return session.device.name

    here = Device(name="local", transport="local", lease_dir=str(tmp_path / "lease"), python=sys.executable)
    devices = [here, two[0].device("one"), two[1].device("two")]
    make_fleet(tmp_path, states).each(devices, work, Collected(), leased=True)
    assert sorted(order[:2]) == ["one", "two"]
    assert order[2] == "local"


def test_a_link_that_is_cut_is_mended_under_the_same_lease(
    two: tuple[InProcessBoard, InProcessBoard], states: BoardStates, tmp_path: Path
):
    board = two[0]
    device = board.device("one")
    tokens: list[str] = []

    def work(session: BoardSession) -> Measurement:
        assert session.lease is not None
        tokens.append(session.lease.token)
        if len(tokens) == 1:
            board.drop()
        return measure(session)

    fleet, collected = make_fleet(tmp_path, states), Collected()
    fleet.each([device], work, collected, leased=True)
    assert collected.outcomes["one"].error is None
    assert len(tokens) == 2
    assert len(set(tokens)) == 1
    assert [(step.rung, step.outcome) for step in fleet.steps()] == [(Rung.RECONNECT, "helped")]
    assert fleet.leases()[0].taken_over is None
    log = (tmp_path / "logs" / "one.log").read_text()
    assert "connect to one ..." in log
    assert "Recovery: reconnect" in log
    assert "reconnect: helped" in log


def test_an_error_that_is_no_board_s_is_raised_once_the_others_are_done(
    two: tuple[InProcessBoard, InProcessBoard], states: BoardStates, tmp_path: Path
):
    def work(session: BoardSession) -> str:
        if session.device.name == "one":
            raise DataError("the samples do not fit.")
        return "done"

    collected = Collected()
    with pytest.raises(DataError, match="do not fit"):
        make_fleet(tmp_path, states).each([two[0].device("one"), two[1].device("two")], work, collected, leased=False)
    assert collected.outcomes["two"].value == "done"


def test_ctrl_c_cuts_every_link_and_leaves_no_lease_and_no_agent(
    two: tuple[InProcessBoard, InProcessBoard], states: BoardStates, tmp_path: Path
):
    devices = [two[0].device("one"), two[1].device("two")]
    inside = threading.Barrier(3, timeout=60)
    pids: list[int] = []

    def work(session: BoardSession) -> Measurement:
        pids.append(session.ask("hello", {"workdir": session.device.workdir}, _soon())["pid"])
        inside.wait()
        endless = MeasureProtocol(min_runs=10**9, min_seconds=3600.0, timeout_seconds=3600.0)
        (measured,) = session.measure([artifact("dense.onnx", "onnx")], X, endless)
        assert isinstance(measured, Measurement)
        return measured

    def interrupt() -> None:
        inside.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    fleet = make_fleet(tmp_path, states)
    with pytest.raises(KeyboardInterrupt):
        fleet.each(devices, work, Collected(), leased=True)
    for pid in pids:
        _wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())
    for device in devices:
        _wait_until(lambda device=device: is_free(device))
        fleet.settle(device)
        assert states.get(device).errors_in_a_row == 0  # a stop is nobody's fault
    assert fleet.steps() == ()


def test_an_error_while_recording_stops_the_others(
    two: tuple[InProcessBoard, InProcessBoard], states: BoardStates, tmp_path: Path
):
    def fail(outcome: Outcome[Any]) -> None:
        raise InfrastructureError("runs: no space left on device.")

    def work(session: BoardSession) -> str:
        if session.device.name == "two":
            endless = MeasureProtocol(min_runs=10**9, min_seconds=3600.0, timeout_seconds=3600.0)
            session.measure([artifact("dense.onnx", "onnx")], X, endless)
        return "done"

    devices = [two[0].device("one"), two[1].device("two")]
    with pytest.raises(InfrastructureError, match="no space left"):
        make_fleet(tmp_path, states).each(devices, work, Collected(fail), leased=True)
    _wait_until(lambda: is_free(devices[1]))


def _soon() -> Any:
    from device_tests.deadline import Deadline

    return Deadline.after(60)


def _wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it did not come to pass")
