"""`devices health`: whether a board may judge models. Only passing it lifts a quarantine.

It is reached, its agent answers, it can be leased, a random file arrives whole, and a small model that ships with
edgesmith gives the right answers at the speed this board had at its first check.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_tests import lease
from device_tests.accuracy import dequantize
from device_tests.connect import connect
from device_tests.deadline import Deadline
from device_tests.health_models import HERE, samples
from device_tests.quarantine import BoardStates, HealthBand
from device_tests.session import BoardSession
from edgesmith.errors import BoardBusy, InfrastructureError
from edgesmith.files import sha256_bytes, sha256_file
from edgesmith.progress import Progress
from edgesmith.types import (
    Artifact,
    Device,
    Environment,
    LeaseRequest,
    Measurement,
    MeasureProtocol,
    Signature,
    Validity,
)

BAND = 0.5
"""A board's median may lie so far, as a share, above or below that of its first check."""
_CONNECT_S = 30.0
_ECHO_S = 120.0
_ECHO_BYTES = 1 << 20
_TOLERANCE = 1e-3
_MODELS = {"tflite": "health.tflite", "onnxruntime": "health.onnx"}
_PROTOCOL = MeasureProtocol(min_runs=100, min_seconds=3.0, windows=4, warmup_max_seconds=5.0, timeout_seconds=120.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried.

    Attributes:
        why: what was found; where it is not ok, what to do about it.
    """

    name: str
    ok: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the check came to.

    Attributes:
        checks: in order, up to one without which the next could not be tried.
        lifted: the board was quarantined, and is no longer.
    """

    device: str
    checks: tuple[Check, ...]
    lifted: bool

    @property
    def ok(self) -> bool:
        """Whether the board may judge models."""
        return all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"device": self.device, "ok": self.ok, "lifted": self.lifted, "checks": [asdict(c) for c in self.checks]}

    def lines(self) -> tuple[str, ...]:
        """For people."""
        rows = [f"{'ok' if check.ok else '--':3} {check.name:10} {check.why}" for check in self.checks]
        verdict = "well" if self.ok else "NOT well: it does not judge models"
        freed = "; the quarantine is lifted" if self.lifted else ""
        return (f"{self.device}: {verdict}{freed}", *rows)


def check_health(
    device: Device, states: BoardStates, *, local_root: Path, progress: Progress, lease_wait_s: float = 60.0
) -> Health:
    """Tries a board. Passing lifts its quarantine and forgets its errors; failing changes nothing.

    Args:
        device: the board.
        states: where quarantine and band are kept.
        local_root: folder here for what is sent; of the device "local" also the workdir.
        progress: where it tells how far it is.
        lease_wait_s: how long to wait while somebody else holds the board.

    Raises:
        ConfigError: the device cannot be used as it is described.
    """
    trial = _Trial(device, states, local_root, progress, lease_wait_s)
    checks = tuple(trial.run())
    passed = all(check.ok for check in checks)
    quarantined = states.get(device).quarantine is not None
    if passed:
        if trial.band is not None:
            states.set_band(device, trial.band)
        states.lift(device)
    return Health(device=device.name, checks=checks, lifted=passed and quarantined)


class _Trial:
    """One pass over a board.

    Attributes:
        band: a new one, to be kept if everything else is well.
    """

    def __init__(
        self, device: Device, states: BoardStates, local_root: Path, progress: Progress, lease_wait_s: float
    ) -> None:
        self.band: HealthBand | None = None
        self._device, self._states = device, states
        self._local_root, self._progress = local_root, progress
        self._request = LeaseRequest(
            owner=lease.owner(), run_id="health check", token=lease.new_token(), wait_s=lease_wait_s
        )

    def run(self) -> Iterator[Check]:
        """The checks in order; ends where the next could not be tried."""
        doing = "connect"
        try:
            with connect(self._device, Deadline.after(_CONNECT_S), self._local_root) as connection:
                yield Check(name=doing, ok=True, why=connection.address)
            doing = "agent"
            session = BoardSession(
                self._device, local_root=self._local_root, progress=self._progress, lease=self._request
            )
            with session:
                info = session.info
                yield Check(name=doing, ok=True, why=f"Python {info.python} on {info.model or info.machine}")
                yield Check(name="lease", ok=True, why=f"held as {self._request.owner}")
                doing = "hash echo"
                yield self._echo(session)
                doing = "benchmark"
                yield from self._benchmark(session)
        except BoardBusy as error:
            yield _failed("lease", error)
        except InfrastructureError as error:
            yield _failed(doing, error)

    def _echo(self, session: BoardSession) -> Check:
        """A random file, hashed by the board: what link and disk make of a megabyte."""
        content = secrets.token_bytes(_ECHO_BYTES)
        name = f"health-{secrets.token_hex(8)}"
        folder = "." if self._device.transport == "local" else self._device.workdir
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as here, self._progress.task("hash echo"):
            file = Path(here) / name
            file.write_bytes(content)
            until = Deadline.after(_ECHO_S)
            session.connection.put(file, f"{folder}/incoming/{name}", until)
            told = session.ask("echo", {"name": name}, until)
        whole = told["sha256"] == sha256_bytes(content)
        why = f"{told['bytes']:,} random bytes arrived " + (
            "whole" if whole else "DAMAGED: look at its disk and memory"
        )
        return Check(name="hash echo", ok=whole, why=why)

    def _benchmark(self, session: BoardSession) -> Iterator[Check]:
        runner = next((runner for runner in _MODELS if runner in session.info.runners), None)
        if runner is None:
            why = f"no runtime there; `edgesmith devices probe {self._device.name}` says how to install one"
            yield Check(name="benchmark", ok=False, why=why)
            return
        model = _artifact(runner)
        x = samples() if runner == "tflite" else samples().transpose(0, 3, 1, 2)
        (measured,) = session.measure([model], x, _PROTOCOL)
        if not isinstance(measured, Measurement):
            raise measured
        yield Check(name="state", ok=True, why=_state(measured.environment_after))
        if measured.board.fake:
            yield Check(name="answers", ok=True, why="made up: a fake board computes nothing")
        else:
            yield _answers(measured)
        yield self._speed(model, measured)

    def _speed(self, model: Artifact, measured: Measurement) -> Check:
        import numpy as np

        median_ns = int(np.median(measured.samples_ns))
        took = f"median {median_ns / 1e6:.3f} ms over {len(measured.samples_ns)} runs, {measured.runner}"
        if measured.board.emulated:
            return Check(name="speed", ok=True, why=f"{took}; emulated: emulation time is not judged")
        band = self._states.get(self._device).band
        if band is None or (band.model_sha256, band.runner) != (model.sha256, measured.runner):
            if measured.validity is not Validity.VALID:
                reasons = " ".join(measured.validity_reasons)
                return Check(name="speed", ok=True, why=f"{took}; no band is set: {measured.validity}: {reasons}")
            self.band = band = HealthBand(
                model_sha256=model.sha256,
                runner=measured.runner,
                median_ns=median_ns,
                set_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            return Check(name="speed", ok=True, why=f"{took}; later checks must lie within {_span(band)}")
        ok = (1 - BAND) * band.median_ns <= median_ns <= (1 + BAND) * band.median_ns
        why = f"{took}; {'within' if ok else 'OUTSIDE'} its band {_span(band)}, set {band.set_at}"
        return Check(name="speed", ok=ok, why=why if ok else f"{why}: is it throttled, hot, or busy?")


def _artifact(runner: str) -> Artifact:
    path = HERE / _MODELS[runner]
    return Artifact(
        target=runner,
        path=path,
        format=path.suffix.removeprefix("."),
        precision="float32",
        sha256=sha256_file(path),
        signature=Signature(inputs=(), outputs=()),
        toolchain={},
        made_from="",
        size_bytes=path.stat().st_size,
        gzip_bytes=0,
        sparsity=0.0,
    )


def _answers(measured: Measurement) -> Check:
    """What came out, against what must: a board may be fast and wrong."""
    import numpy as np

    expected = np.array(json.loads((HERE / "expected.json").read_text(encoding="utf-8")))
    if measured.outputs is None:  # none of its models is an engine
        return Check(name="answers", ok=False, why=measured.outputs_reason)
    (found,) = dequantize(measured.outputs, measured.output_quantization)
    off = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    ok = off <= _TOLERANCE
    why = f"largest error {off:.1e}" if ok else f"WRONG by {off:.1e}: look at its memory, its heat and its power supply"
    return Check(name="answers", ok=ok, why=why)


def _state(now: Environment) -> str:
    parts = {
        "load": now.load_1m,
        "clock": None if now.clock_khz is None else f"{now.clock_khz / 1e3:.0f} MHz",
        "governor": now.governor,
        "temperature": None if now.temperature_c is None else f"{now.temperature_c:.1f} C",
        "throttled": now.throttled,
    }
    known = [f"{name} {value}" for name, value in parts.items() if value is not None]
    return ", ".join(known) or "it has no sensors that could be read"


def _span(band: HealthBand) -> str:
    low, high = ((1 + sign * BAND) * band.median_ns / 1e6 for sign in (-1, 1))
    return f"{low:.3f} to {high:.3f} ms"


def _failed(name: str, error: InfrastructureError) -> Check:
    return Check(name=name, ok=False, why=f"{error.what} {error.next_step}".strip())
