"""The fake board: scripted figures over the agent's own code, real outputs, faults where the script says."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.deadline import Deadline
from device_tests.fake import FakeConnection
from device_tests.fake_board import board_of, forget_boards
from device_tests.fake_script import POSSIBLE, load_script
from device_tests.session import BoardSession
from edgesmith.errors import (
    AgentEnded,
    BoardBusy,
    BoardError,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    InfrastructureError,
)
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Device, LeaseRequest, Measurement, MeasureProtocol, Validity
from tests.tiny_artifacts import artifact

ROOT = Path(__file__).resolve().parents[2]
X = np.array([[4, 8, 12, 0], [0, 0, 0, 255]], np.float32)
EXPECTED = np.array([[1, 2, 3], [63.75, 63.75, 63.75]], np.float32)
DENSE = artifact("dense.tflite", "tflite")
ONNX = artifact("dense.onnx", "onnx")
Scripted = Callable[..., Device]
Open = Callable[..., BoardSession]
QUICK = MeasureProtocol(min_runs=10, min_seconds=0.01, windows=2)


@pytest.fixture
def scripted(tmp_path: Path):
    """Makes a device of a script."""

    def make(script: str = "latency: [{median_ms: 2}]", name: str = "pi") -> Device:
        path = tmp_path / f"{name}.yaml"
        path.write_text(textwrap.dedent(script))
        return Device(name=name, transport="fake", script=path, reboot=("sudo", "reboot"))

    return make


@pytest.fixture
def session(tmp_path: Path):
    def open_it(device: Device, **more: Any) -> BoardSession:
        return BoardSession(device, local_root=tmp_path / "local", progress=Silent(), **more)

    return open_it


def measured(session: Open, device: Device, *artifacts: Artifact, protocol: MeasureProtocol | None = None) -> list[Any]:
    with session(device) as board:
        return board.measure(artifacts or (DENSE,), X, protocol or QUICK)


def test_latency_is_the_scripts_and_outputs_are_this_machines(scripted: Scripted, session: Open):
    device = scripted("""
        latency:
          - {format: tflite, precision: float32, median_ms: 2, jitter: 0.05, peak_rss_bytes: 1234567}
          - {median_ms: 7, jitter: 0}
    """)
    light, heavy = measured(session, device, DENSE, ONNX, protocol=MeasureProtocol())
    assert np.median(light.samples_ns) == pytest.approx(2e6, rel=0.02)
    assert np.std(light.samples_ns) == pytest.approx(0.1e6, rel=0.2)
    assert set(heavy.samples_ns.tolist()) == {7_000_000}
    # The protocol's floors hold in the board's own time: 2 s take 1000 runs of 2 ms.
    assert 1000 <= len(light.samples_ns) < 1100
    assert (light.peak_rss_bytes, heavy.peak_rss_bytes) == (1234567, None)
    assert heavy.peak_rss_reason == "the fake board's script gives no peak_rss_bytes for it"
    for one in (light, heavy):
        np.testing.assert_allclose(one.outputs[0], EXPECTED)
        assert one.validity is Validity.VALID
        assert one.timer_overhead_ns == 0
        assert one.board.fake
        assert not one.board.emulated
        assert one.runner.startswith("FAKE: scripted latency, outputs by ")


def test_the_same_script_gives_the_same_figures_and_each_measurement_its_own(scripted: Scripted, session: Open):
    first, second = (measured(session, scripted(name="pi"))[0].samples_ns for _ in range(2))
    assert not np.array_equal(first, second)
    forget_boards()
    again = measured(session, scripted(name="pi"))[0].samples_ns
    np.testing.assert_array_equal(first, again)


def test_it_says_what_it_is(scripted: Scripted, session: Open):
    device = scripted("""
        machine: aarch64
        model: Raspberry Pi 4 Model B
        python: 3.9.2
        cores: 2
        runners: [onnxruntime]
        latency: [{median_ms: 1}]
    """)
    with session(device) as board:
        info = board.info
        (lacking,) = board.measure([DENSE], X, QUICK)
    assert (info.machine, info.model, info.python, info.cores) == ("aarch64", "Raspberry Pi 4 Model B", "3.9.2", 2)
    assert info.runners == ("onnxruntime",)
    assert isinstance(lacking, BoardError)
    assert "the fake board's script does not give it this runtime" in lacking.what


def test_its_probe_tells_the_script_and_nothing_of_this_machine(scripted: Scripted, session: Open):
    with session(scripted("{machine: riscv64, cores: 3, cpu: C906, latency: [{median_ms: 1}]}")) as board:
        told = board.ask("probe", {}, Deadline.after(60))
    assert (told["machine"], told["cores"], told["cores_online"], told["cpu"]) == ("riscv64", 3, 3, "C906")
    assert (told["libc"], told["swap_bytes"], told["cpu_features"], told["fake"]) == ("glibc 2.36", None, [], True)


def test_a_32_bit_arm_is_one(scripted: Scripted, session: Open):
    with session(scripted("{machine: armv7l, latency: [{median_ms: 1}]}")) as board:
        assert board.info.machine == "armv7l"


def test_heat_slows_it_down_and_the_measurement_is_not_judged(scripted: Scripted, session: Open):
    device = scripted("""
        clock_khz: 2000000
        latency: [{median_ms: 10, jitter: 0}]
        heat: {start_c: 50, rise_c_per_s: 10, throttles_at_c: 60, slowdown: 2}
    """)
    (hot,) = measured(session, device, protocol=MeasureProtocol())
    assert set(hot.samples_ns.tolist()) == {10_000_000, 20_000_000}
    assert hot.validity is Validity.THROTTLED
    assert (hot.environment_before.throttled, hot.environment_after.throttled) == ("0x0", "0x40004")
    assert hot.environment_after.temperature_c > 60
    assert (hot.environment_before.clock_khz, hot.environment_after.clock_khz) == (2_000_000, 1_000_000)
    (rested,) = measured(session, device)
    assert rested.environment_before.temperature_c < 60


def test_nothing_is_sent_twice(scripted: Scripted, session: Open):
    device = scripted()
    sent = []
    for _ in range(2):
        with session(device) as board:
            board.measure([DENSE], X, QUICK)
            sent.append(board.bytes_sent)
    assert sent[0] > DENSE.size_bytes
    assert sent[1] == 0


def test_inference_needs_no_latency(scripted: Scripted, session: Open):
    with session(scripted()) as board:
        found = board.infer(artifact("dense_int8.tflite", "tflite"), X)
    np.testing.assert_array_equal(found.outputs[0][0], [-126, -124, -122])
    assert found.quantization == ((0.5, -128),)


def test_an_artifact_without_a_rule_is_refused_and_the_other_keeps_its_figures(scripted: Scripted, session: Open):
    device = scripted("latency: [{format: onnx, median_ms: 1}]")
    refused, fine = measured(session, device, DENSE, ONNX)
    assert isinstance(fine, Measurement)
    assert f"the fake board's script has no latency for tflite float32 {DENSE.sha256[:12]}" in refused.what


def test_a_rule_by_hash(scripted: Scripted, session: Open):
    device = scripted(f"latency: [{{sha256: {DENSE.sha256[:10]}, median_ms: 3, jitter: 0}}, {{median_ms: 9}}]")
    light, heavy = measured(session, device, DENSE, ONNX)
    assert light.samples_ns[0] == 3_000_000
    assert heavy.samples_ns[0] > 8_000_000


FAULTS = [
    ("connect", "lost", ConnectionLost, "no answer in time"),
    ("connect", "refuse", ConnectionLost, "refused: nothing listens there"),
    ("connect", "wrong-key", BoardError, "THE HOST KEY HAS CHANGED"),
    ("hello", "no-python", BoardError, "the Python 'python3' is not there"),
    ("hello", "lost", ConnectionLost, "the connection to fake pi was lost"),
    ("hello", "hang", DeadlineExceeded, "no answer to 'hello' in time"),
    ("hello", "killed", AgentEnded, "ended by signal KILL"),
    ("push", "lost", ConnectionLost, "the connection to fake pi was lost"),
    ("push", "disk-full", BoardError, "no space left on the board"),
    ("push", "damaged", BoardError, "damaged"),
    ("measure", "lost", ConnectionLost, "the connection to fake pi was lost"),
    ("measure", "hang", DeadlineExceeded, "no answer to 'measure' in time"),
    ("measure", "killed", AgentEnded, "probably out of memory"),
    ("load", "lost", ConnectionLost, "lost"),
    ("load", "hang", DeadlineExceeded, "in time"),
    ("load", "killed", AgentEnded, "KILL"),
    ("window", "lost", ConnectionLost, "lost"),
    ("window", "hang", DeadlineExceeded, "in time"),
    ("window", "killed", AgentEnded, "KILL"),
]
ANSWERS = [
    ("load", "refuse", "refused by the fake board's script"),
    ("load", "crash", "the runtime crashed: SIGSEGV during 'load'"),
    ("load", "out-of-memory", "SIGKILL during 'load'; the board was probably out of memory"),
    ("window", "crash", "the runtime crashed: SIGSEGV during 'window'"),
    ("window", "out-of-memory", "SIGKILL during 'window'"),
]


def test_every_fault_that_can_be_scripted_is_tested():
    tested = {(at, kind) for at, kind, *_ in (*FAULTS, *ANSWERS)}
    assert tested == {(at, kind) for at, kinds in POSSIBLE.items() for kind in kinds}


@pytest.mark.parametrize(("at", "kind", "error", "text"), FAULTS)
def test_a_fault_strikes_and_passes(
    scripted: Scripted, session: Open, at: str, kind: str, error: type[Exception], text: str
):
    device = scripted(f"{{latency: [{{median_ms: 1}}], faults: [{{at: {at}, kind: {kind}, times: 1}}]}}")
    with pytest.raises(error, match=text):
        measured(session, device)
    assert f"{at}: {kind}" in board_of(device).log
    (fine,) = measured(session, device)
    assert isinstance(fine, Measurement)


@pytest.mark.parametrize(("at", "kind", "text"), ANSWERS)
def test_one_runtime_that_fails_loses_no_other(scripted: Scripted, session: Open, at: str, kind: str, text: str):
    device = scripted(f"{{latency: [{{median_ms: 1}}], faults: [{{at: {at}, kind: {kind}, after: 1, times: 1}}]}}")
    fine, failed = measured(session, device, DENSE, ONNX)
    assert isinstance(fine, Measurement)
    assert isinstance(failed, BoardError)
    assert text in failed.what


def test_a_fault_without_times_stays_until_a_reboot(scripted: Scripted, session: Open):
    device = scripted("{latency: [{median_ms: 1}], faults: [{at: hello, kind: hang, until: reboot}]}")
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            measured(session, device)
    board = board_of(device)
    before = board.boot_id
    board.reboot()
    assert board.boot_id != before
    measured(session, device)


def test_an_interrupted_upload_goes_on(scripted: Scripted, session: Open, tmp_path: Path):
    device = scripted("{latency: [{median_ms: 1}], faults: [{at: push, kind: lost, times: 1}]}")
    source, soon = tmp_path / "source", Deadline.after(60)
    source.write_bytes(bytes(range(256)) * 1000)
    with FakeConnection(device) as link, pytest.raises(ConnectionLost):
        link.put(source, "deep/file", soon)
    skipped: list[int] = []
    with FakeConnection(device) as link:
        assert link.put(source, "deep/file", soon, None, skipped.append) == 128_000
        link.get("deep/file", tmp_path / "back", soon)
    assert skipped == [128_000]
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def request(owner: str, wait_s: float) -> LeaseRequest:
    return LeaseRequest(owner=owner, run_id="run", token=owner, wait_s=wait_s)


def test_its_lease_is_the_agents_own(scripted: Scripted, session: Open):
    device = scripted()
    with session(device, lease=request("ann", 0)) as board:
        assert board.lease.owner == "ann"
        with pytest.raises(BoardBusy, match="ann"), session(device, lease=request("bob", 0)):
            pass
    with session(device, lease=request("bob", 0)) as board:
        assert board.lease.taken_over is None


def test_somebody_else_can_have_it_first(scripted: Scripted, session: Open):
    device = scripted("{latency: [{median_ms: 1}], held: {owner: eve@lab, seconds: 600}}")
    with pytest.raises(BoardBusy, match="eve@lab"), session(device, lease=request("ann", 0)):
        pass


def test_a_scripted_holder_lapses_and_is_taken_over(scripted: Scripted, session: Open):
    device = scripted("{latency: [{median_ms: 1}], held: {owner: eve@lab, seconds: 0.001}}")
    with session(device, lease=request("ann", 30)) as board:
        assert board.lease.taken_over is None or board.lease.taken_over.owner == "eve@lab"


def test_no_path_leads_out_of_it(scripted: Scripted, tmp_path: Path):
    board = board_of(scripted())
    assert board.path("/etc/passwd").is_relative_to(board.home)
    assert board.path(str(board.home / "x")) == board.home / "x"
    with pytest.raises(Exception, match="leads out of the fake board"):
        board.path("../../etc/passwd")


def test_what_it_does_not_know_is_said(scripted: Scripted, session: Open):
    with session(scripted()) as board, pytest.raises(BoardError, match="a fake board knows no release_list"):
        board.ask("release_list", {}, Deadline.after(10))


def test_real_time_takes_it(scripted: Scripted, session: Open):
    device = scripted("{realtime: true, latency: [{median_ms: 0.5, jitter: 0}]}")
    (found,) = measured(session, device)
    assert set(found.samples_ns.tolist()) == {500_000}


BAD = [
    ("latency: []", r"pi\.yaml:1: 'latency'.*at least 1"),
    ("latency: [{median_ms: 0}]", r"pi\.yaml:1: 'latency.0.median_ms'"),
    ("latency: [{median_ms: 1, jiter: 2}]", r"unknown key 'latency.0.jiter'; did you mean 'jitter'\?"),
    (
        "latency: [{median_ms: 1}]\nfaults:\n  - {at: push, kind: crash}",
        r"pi\.yaml:3: .*'crash' does not happen at 'push'",
    ),
    ("latency: [{median_ms: 1}]\nspeed: 2", r"pi\.yaml:2: unknown key 'speed'"),
    ("model: x", "'latency' is missing"),
]


@pytest.mark.parametrize(("script", "text"), BAD)
def test_a_wrong_script_is_told_with_its_line(scripted: Scripted, session: Open, script: str, text: str):
    with pytest.raises(ConfigError, match=text), session(scripted(script)):
        pass


def test_a_missing_script_is_told(session: Open, tmp_path: Path):
    device = Device(name="pi", transport="fake", script=tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such fake board's script file"), session(device):
        pass
    with pytest.raises(InfrastructureError, match="needs a script"), session(Device(name="pi", transport="fake")):
        pass


def test_the_example_is_a_script(session: Open):
    script = load_script(ROOT / "examples" / "fake-board.yaml")
    assert len(script.latency) == 3
    device = Device(name="pi5-fake", transport="fake", script=ROOT / "examples" / "fake-board.yaml")
    (found,) = measured(session, device)
    assert found.validity is Validity.VALID
