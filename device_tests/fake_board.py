"""A fake board between two connections: its files, its heat, its time, and the faults that are still to come.

The agent that runs here is the real one, in this process: its folders, its lease, its warm-up and windows. Only the
clock, the sensors and what a run takes are scripted.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_tests.agent import lease_rules, runners
from device_tests.agent.lease_file import LeaseFile
from device_tests.agent.protocol import Refusal
from device_tests.fake_script import Fault, Kind, Latency, Point, Script, load_script
from edgesmith.errors import InfrastructureError
from edgesmith.files import sha256_bytes
from edgesmith.native_log import captured
from edgesmith.types import Device

_FORMATS = {"tflite": "tflite", "onnxruntime": "onnx"}
# Bits 2 and 18 of the Raspberry Pi's get_throttled: throttled now, and since the start.
_NOW, _SINCE_BOOT = 0x4, 0x40000


class FakeBoard:
    """One scripted board. It lives as long as this process: what was pushed stays, and faults are counted on.

    Attributes:
        script: what it does.
        name: of the device, for messages.
        home: its login folder, a temporary one.
        log: what it was asked and what went wrong, in order; for tests.
    """

    def __init__(self, script: Script, name: str) -> None:
        self.script = script
        self.name = name
        self.log: list[str] = []
        self.home = Path(tempfile.mkdtemp(prefix="edgesmith-fake-")).resolve()
        self._passed: Counter[Point] = Counter()
        self._struck: Counter[int] = Counter()
        self._mended: set[int] = set()
        self._measured: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._boots = 0
        self._work_s = 0.0
        self._has_throttled = False
        self._held = script.held

    @property
    def boot_id(self) -> str:
        """Names the time since its last start."""
        return sha256_bytes(f"{self.script.seed} {self.name} {self._boots}".encode())[:32]

    def path(self, remote: str) -> Path:
        """Where a path of the board lies here. An absolute one never leads out of the board."""
        path = Path(remote)
        if path.is_absolute() and not path.is_relative_to(self.home):
            path = Path("root", *path.parts[1:])
        found = (self.home / path).resolve()
        if not found.is_relative_to(self.home):
            raise Refusal("bad-params", f"{remote} leads out of the fake board")
        return found

    def fault(self, at: Point, kind: Kind | None = None) -> Fault | None:
        """Passes a point of the script; returns what goes wrong there this time.

        Args:
            at: the point.
            kind: only this one, on the way to the point, which is not counted as passed.
        """
        with self._lock:
            before = self._passed[at]
            self._passed[at] += kind is None
            for number, fault in enumerate(self.script.faults):
                if fault.at != at or kind not in (None, fault.kind) or number in self._mended:
                    continue
                if before >= fault.after and (fault.times is None or self._struck[number] < fault.times):
                    self._struck[number] += 1
                    self.log.append(f"{at}: {fault.kind}")
                    return fault
            if kind is None:
                self.log.append(at)
            return None

    def mend(self, by: str) -> None:
        """Something was done about the board: ends the faults that wait for it."""
        self._mended |= {number for number, fault in enumerate(self.script.faults) if fault.until == by}

    def reboot(self) -> None:
        """Restarts it: cool, without leases, and mended of what a restart mends."""
        with self._lock:
            self._boots += 1
            self._work_s, self._has_throttled = 0.0, False
            self.mend("reboot")
            self.log.append("reboot")

    def connected(self, lease_dir: str) -> None:
        """Somebody connects: it has rested, and at first it may be somebody else's."""
        with self._lock:
            self._work_s = 0.0
            self.path(lease_dir).parent.mkdir(parents=True, exist_ok=True)
            held, self._held = self._held, None
            if held is None:
                return
            claim = {"owner": held.owner, "run_id": held.run_id, "token": "scripted", "ttl_s": held.seconds}
            with LeaseFile(str(self.path(lease_dir))).locked() as record:
                lease_rules.lease(record, self.moment(), claim, {"pid": 0, "started": None})

    def moment(self) -> lease_rules.Moment:
        """Now, for a lease: those lapse by real time, since whoever waits for one waits in it."""
        return lease_rules.Moment(self.boot_id, time.monotonic())

    def work(self, ns: int) -> None:
        """It was at work for so long."""
        self._work_s += ns / 1e9
        self._has_throttled = self._has_throttled or self.throttles
        if self.script.realtime:
            time.sleep(ns / 1e9)

    @property
    def now_ns(self) -> int:
        """Its clock: time passes only by work."""
        return int(self._work_s * 1e9)

    @property
    def temperature_c(self) -> float | None:
        """None where the script gives it no sensor."""
        heat = self.script.heat
        return None if heat is None else round(heat.start_c + heat.rise_c_per_s * self._work_s, 1)

    @property
    def throttles(self) -> bool:
        """Whether it is too hot just now."""
        heat, now = self.script.heat, self.temperature_c
        return heat is not None and now is not None and now >= heat.throttles_at_c

    @property
    def slowdown(self) -> float:
        """Factor on every run just now."""
        return self.script.heat.slowdown if self.script.heat is not None and self.throttles else 1.0

    def snapshot(self) -> dict[str, Any]:
        """Its state now, keyed as the agent's `environment.snapshot`."""
        script = self.script
        bits = (_NOW if self.throttles else 0) | (_SINCE_BOOT if self._has_throttled else 0)
        return {
            "taken_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "load_1m": script.load_1m,
            "governor": script.governor,
            "clock_khz": None if script.clock_khz is None else int(script.clock_khz / self.slowdown),
            "temperature_c": self.temperature_c,
            "throttled": None if script.heat is None else f"{bits:#x}",
            "memory_available_bytes": script.memory_bytes,
        }

    def identity(self) -> dict[str, Any]:
        """What it says it is, keyed as the agent's `environment.identity`."""
        script = self.script
        return {
            "machine": script.machine,
            "platform": f"linux-{script.machine}",
            "pointer_bits": 32 if script.machine in ("armv6l", "armv7l", "i686") else 64,
            "system": script.system,
            "kernel": script.kernel,
            "python": script.python,
            "executable": "python3",
            "model": script.model,
            "cpu": script.cpu,
            "cpu_features": [],
            "cores": script.cores,
            "memory_bytes": script.memory_bytes,
            "emulated": False,
            "fake": True,
        }

    def runtimes(self) -> dict[str, Any]:
        """Its runtimes, keyed as the agent's `hello`; those that the script gives it and this machine has."""
        import numpy as np

        found: dict[str, Any] = {"runners": [], "runtimes": {}, "missing": {}, "numpy": np.__version__}
        for runner in runners.names():
            if runner not in self.script.runners:
                found["missing"][runner] = "the fake board's script does not give it this runtime"
                continue
            try:
                with quiet():
                    found["runtimes"].update(runners.load(runner).probe())
            except ImportError as error:
                found["missing"][runner] = f"its outputs are computed on this machine, and here: {error}"
                continue
            found["runners"].append(runner)
        return found

    def rule(self, sha256: str, runner: str, precision: str) -> Latency:
        """What the script says of an artifact.

        Raises:
            Refusal: nothing.
        """
        for rule in self.script.latency:
            fits = sha256.startswith(rule.sha256) and rule.format in ("", _FORMATS.get(runner))
            if fits and rule.precision in ("", precision):
                return rule
        raise Refusal(
            "model-refused",
            f"the fake board's script has no latency for {_FORMATS.get(runner, runner)} {precision} {sha256[:12]}; "
            "a last rule without conditions fits everything",
        )

    def randomness(self, sha256: str) -> random.Random:
        """A source of its own for every measurement of an artifact: the same again with the same script."""
        with self._lock:
            self._measured[sha256] += 1
            return random.Random(f"{self.script.seed} {self.name} {sha256} {self._measured[sha256]}")  # noqa: S311


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around loading a runtime: its log lines stay off the terminal, and ONNX Runtime reports nothing home."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with captured():
        yield


_BOARDS: dict[tuple[Path, str, str], FakeBoard] = {}
_GATE = threading.Lock()


def forget_boards() -> None:
    """Ends all fake boards of this process: the next ones are as new."""
    with _GATE:
        while _BOARDS:
            shutil.rmtree(_BOARDS.popitem()[1].home, ignore_errors=True)


atexit.register(forget_boards)


def board_of(device: Device) -> FakeBoard:
    """The board of a device: the same one again as long as its script does not change.

    Raises:
        ConfigError: the script is not there or wrong.
        InfrastructureError: the device names none.
    """
    if device.script is None:
        raise InfrastructureError(f"{device.name}: a fake board needs a script.", next_step="`fake:` names it.")
    path = device.script.resolve()
    script = load_script(path)
    with _GATE:
        key = (path, script.model_dump_json(), device.name)
        if key not in _BOARDS:
            _BOARDS[key] = FakeBoard(script, device.name)
        return _BOARDS[key]
