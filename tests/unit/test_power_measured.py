"""Power and power modes of a real measurement: read beside it, set for it, put back after it, or told why not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.agent import measuring
from device_tests.agent.reading import Root
from device_tests.agent.sensors import sampling
from device_tests.session import BoardSession
from edgesmith import power_rows
from edgesmith.errors import BoardError, PowerModeRefused
from edgesmith.files import sha256_file
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Device, LeaseRequest, Measurement, MeasureProtocol, PowerRequest
from tests.jetson_python import MeasuredJetson
from tests.tiny_artifacts import artifact

X = np.random.default_rng(0).integers(0, 256, (16, 4)).astype(np.float32)
DENSE = artifact("dense.onnx", "onnx")
INT8 = artifact("dense_int8.tflite", "tflite")


def quick(mode: str | None = None, *, lock_clocks: bool = False) -> MeasureProtocol:
    power = PowerRequest(mode=mode, lock_clocks=lock_clocks)
    return MeasureProtocol(min_runs=20, min_seconds=0.3, windows=2, warmup_max_seconds=1.0, power=power)


def measured(
    device: Device, root: Path, protocol: MeasureProtocol, *artifacts: Artifact
) -> list[Measurement | BoardError]:
    request = LeaseRequest(owner="test", run_id="test", token="t")
    with BoardSession(device, local_root=root, progress=Silent(), lease=request) as session:
        return session.measure(artifacts or (DENSE,), X, protocol)


def well(found: list[Measurement | BoardError]) -> list[Measurement]:
    assert all(isinstance(one, Measurement) for one in found), found
    return [one for one in found if isinstance(one, Measurement)]


@pytest.fixture
def orin(tmp_path: Path) -> MeasuredJetson:
    return MeasuredJetson(tmp_path / "orin")


def test_energy_mode_and_clocks_of_a_measurement(orin: MeasuredJetson, tmp_path: Path):
    before = orin.mode
    one, other = well(measured(orin.device(), tmp_path / "here", quick("25W", lock_clocks=True), DENSE, INT8))
    for found in (one, other):
        assert found.power is not None
        assert found.power_state is not None
        # The tree's rail says 5 V and 0.4 A all the while.
        assert (found.power.mean_mw, found.power.max_mw) == (pytest.approx(2000), 2000)
        assert (found.power.covers, found.power.reason) == ("module input, carrier board excluded", None)
        assert found.power.seconds is not None
        assert 0.3 <= found.power.seconds < 0.4
        assert found.power.energy_mj == pytest.approx(2000 * found.power.seconds)
        assert found.power.energy_mj_per_run is not None
        # Of one run: what its time costs, and reading the clock beside it; nothing of what is told afterwards.
        assert 2000 * found.samples_ns.mean() / 1e9 < found.power.energy_mj_per_run
        assert found.power.energy_mj_per_run < 2000 * found.power.seconds / len(found.samples_ns)
        assert (found.power_state.mode, found.power_state.mode_before) == ("25W", before)
        assert (found.power_state.clocks_locked, found.power_state.loose) == (True, ())
        assert found.power_state.restored is not None
        assert found.power_state.restored.ok
        assert (found.environment_before.power_mode, found.environment_after.power_mode) == ("25W", "25W")
        assert found.board.power_mode == before == "MAXN_SUPER"
        figures = power_rows.figures(found)
        assert figures["energy_mj"] == found.power.energy_mj_per_run
        assert figures["power"] is not None
        assert figures["power"].source == "ina3221"
        assert [rail.name for rail in figures["power"].rails] == ["VDD_IN"]
        assert figures["power_mode"] is not None
        assert (figures["power_mode"].mode, figures["power_mode"].restored) == ("25W", True)
        assert [finding.code for finding in power_rows.findings(found)] in ([], ["power_rate"])
    assert orin.mode == before
    assert orin.modes_set() == ["1", "2"]


def test_without_a_request_nothing_is_set_and_the_mode_is_told(orin: MeasuredJetson, tmp_path: Path):
    (found,) = well(measured(orin.device(), tmp_path / "here", quick()))
    assert orin.modes_set() == []
    assert found.power_state is not None
    assert (found.power_state.mode, found.power_state.restored) == ("MAXN_SUPER", None)
    figures = power_rows.figures(found)
    assert figures["power_mode"] is not None
    assert (figures["power_mode"].mode, figures["power_mode"].restored) == ("MAXN_SUPER", None)


@pytest.mark.parametrize(
    ("mode", "code", "step"),
    [("8W", "power-mode-unknown", "--sweep power-modes"), ("7W", "power-mode-needs-reboot", "Set it there by hand")],
)
def test_a_mode_that_is_refused_is_an_error_of_every_artifact(
    orin: MeasuredJetson, tmp_path: Path, mode: str, code: str, step: str
):
    found = measured(orin.device(), tmp_path / "here", quick(mode), DENSE, INT8)
    for error in found:
        assert isinstance(error, PowerModeRefused)
        assert (error.code, error.may_pass) == (code, False)
        assert error.what.startswith("orin: ")
        assert step in error.next_step
    assert orin.mode == "MAXN_SUPER"


def test_a_mode_is_put_back_where_the_model_fails(orin: MeasuredJetson, tmp_path: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    bad = replace(DENSE, path=broken, sha256=sha256_file(broken))
    (error,) = measured(orin.device(), tmp_path / "here", quick("15W"), bad)
    assert isinstance(error, BoardError)
    assert not isinstance(error, PowerModeRefused)
    assert orin.mode == "MAXN_SUPER"
    assert orin.modes_set() == ["0", "2"]


def test_this_machine_has_no_rails_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = Device(name="local", transport="local", python=sys.executable, lease_dir=str(tmp_path / "lease"))
    (found,) = well(measured(here, tmp_path / "here", quick()))
    figures = power_rows.figures(found)
    assert (figures["energy_mj"], figures["power"], figures["power_mode"]) == (None, None, None)
    why = "power was not measured: this machine has no power sensor that edgesmith reads"
    assert figures["energy_mj_reason"] == why
    assert power_rows.findings(found) == ()
    # Nor is a process started to find that out.
    monkeypatch.setattr(subprocess, "Popen", _no_process)
    with sampling.start(Root(str(tmp_path / "plain")), str(tmp_path)) as reading:
        assert reading.stop().reason


def test_the_sampler_runs_around_the_windows_only(tmp_path: Path):
    told: list[str] = []

    class Sampler(sampling.Nothing):  # type: ignore[misc] - the agent is not typed
        def __enter__(self) -> Any:
            told.append("on")
            return self

        def stop(self) -> Any:
            told.append("off")
            return super().stop()

    class Scripted:
        """A child that notes what it is asked."""

        log = type("Log", (), {"watched": False})

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_error: object) -> None:
            pass

        def call(self, method: str, *_: object) -> Any:
            told.append(method)
            answers: dict[str, Any] = {
                "load": {"name": "scripted", "output_quantization": []},
                "warm_up": {"ns": [5], "flat": True, "overhead_ns": 1},
                "window": {"ns": [5, 5], "rewarm_ns": [5], "span_ns": [0, 10]},
                "peak_rss": {"bytes": None, "reason": "scripted"},
                "outputs": {"files": []},
            }
            return answers[method]

        def finish(self) -> None:
            pass

    protocol = {"windows": 2, "min_runs": 2, "min_seconds": 0, "threads": 1, "timeout_seconds": 5}
    found = measuring.measure(
        [{"path": "", "runner": "x", "sha256": "0"}],
        {"path": "", "dtype": "float32"},
        dict(protocol, warmup_max_seconds=1),
        str(tmp_path),
        lambda **_: None,
        start=lambda watch_for: Scripted(),
        snapshot=dict,
        sample=lambda _folder: Sampler("scripted"),
    )
    assert told == ["load", "warm_up", "on", "window", "window", "off", "peak_rss", "outputs"]
    assert found["artifacts"][0]["power"]["reason"] == "power was not measured: scripted"


def _no_process(*arguments: object, **_: object) -> None:
    raise AssertionError(f"a process was started: {arguments}")
