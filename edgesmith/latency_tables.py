"""`edgesmith latency-table`: measures the layers of a network on a device, for `prune_channels: {budget: latency}`.

Every kind of layer is compiled alone, at a few widths, and measured as any artifact is: in a process of its own, in
turns with others. Its latency is the 5th percentile of its runs: other work on a board only ever adds, and the least
of all is one clock tick's luck.
What is measured is kept, so that a run that was cut short goes on, and other networks share the layers they have in
common.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import targets
from calibration.samples import synthetic_samples
from device_tests.deadline import Deadline
from device_tests.fleet import Fleet, Outcome
from device_tests.latency import percentile_ns
from device_tests.lease import owner
from device_tests.quarantine import BoardStates, boards_folder
from device_tests.session import BoardSession
from edgesmith import __version__
from edgesmith.errors import BoardError, DeadlineExceeded, InfrastructureError, UnstableMeasurement
from edgesmith.files import sha256_file, sha256_json, write_json
from edgesmith.progress import Progress, Silent
from edgesmith.report.live import board_row
from edgesmith.toolchain import versions
from edgesmith.types import Artifact, Device, Measurement, MeasureProtocol, Scheme
from optimizer.base import KerasModel
from optimizer.channels import latency_fit, latency_probe
from optimizer.channels.latency_probe import Probe
from optimizer.channels.latency_table import FORMAT, VERSION
from optimizer.load import load_model, open_keras, save_keras
from targets.base import CompileRequest

AT_ONCE = 12
"""Networks that take turns; each is a process on the board."""
SAMPLES = 8
"""Drawn, to calibrate and to time on: what a layer takes does not depend on its numbers."""
_PERCENTILE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a table is made.

    Attributes:
        step: channels that the board's kernels compute together.
        points: widths to measure each kind of layer at, on each side.
        seconds: timed for each network.
        deadline_s: after so long it stops; what was measured is kept.
    """

    target: str = "tflite"
    scheme: Scheme = Scheme.INT8
    threads: int = 1
    step: int = 8
    points: int = 4
    seconds: float = 0.6
    deadline_s: float = 3600.0
    lease_wait_s: float = 600.0

    @property
    def protocol(self) -> MeasureProtocol:
        """For a network of microseconds to milliseconds: many short turns, so that some fall into quiet moments."""
        return MeasureProtocol(
            min_runs=60,
            min_seconds=self.seconds,
            windows=12,
            warmup_max_seconds=3.0,
            threads=self.threads,
            timeout_seconds=300.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeTable:
    """What came of it.

    Attributes:
        kinds: of layers in the table.
        measured: networks that were measured now.
        kept: networks that had been measured before.
        network_ms: latency of the whole network, measured.
        layers_ms: what its layers add up to by the table.
    """

    path: Path
    kinds: int
    measured: int
    kept: int
    network_ms: float
    layers_ms: float
    document: Mapping[str, Any] = field(repr=False)


@dataclass(slots=True)
class _Kept:
    """What was measured so far, in a file."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    taken_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Kept:
        if not path.is_file():
            return cls(path)
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(path, document["facts"], document["taken_ms"])

    def add(self, measured: Mapping[str, Measurement]) -> None:
        """Keeps these. With another runtime, or another power mode, than before, nothing of before counts."""
        for name, one in measured.items():
            facts = _facts(one)
            if self.facts and facts != self.facts:
                self.taken_ms.clear()
            self.facts = facts
            self.taken_ms[name] = low_ms(one)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"facts": self.facts, "taken_ms": self.taken_ms})


def _facts(one: Measurement) -> dict[str, Any]:
    board = one.board
    return {
        "runner": one.runner.partition(" (")[0],  # a network of nothing does without XNNPACK
        "machine": board.machine,
        "cpu": board.cpu,
        "power_mode": board.power_mode,
        "emulated": board.emulated,
        "fake": board.fake,
    }


def low_ms(one: Measurement) -> float:
    """The 5th percentile of its runs, in milliseconds.

    Raises:
        UnstableMeasurement: there are too few of them.
    """
    found = percentile_ns(one.samples_ns, _PERCENTILE)
    if found is None:
        raise UnstableMeasurement(f"{one.device}: {len(one.samples_ns)} runs are too few for a latency.")
    return found / 1e6


def make_table(
    path: Path, device: Device, out: Path, settings: Settings, *, runs_dir: Path, progress: Progress
) -> MadeTable:
    """Measures what a network's latency is made of, and writes the table.

    Args:
        path: the Keras model, as wide as it will ever be.
        device: to measure on.
        out: the file to write.
        settings: how.
        runs_dir: what is measured is kept below it.
        progress: where it tells how far it is.

    Raises:
        InputError: the model, the target or the scheme.
        DeadlineExceeded: the time was up; the next call goes on.
        InfrastructureError: the device.
    """
    with tempfile.TemporaryDirectory(prefix="edgesmith-latency-") as scratch:
        model = open_keras(load_model(path, workdir=Path(scratch)))
        work = _Work(model, sha256_file(path), device, settings, runs_dir, Path(scratch), progress)
        work.measure()
        document = work.document(path.name)
        write_json(out, document)
    network = document["measured"]["network"]
    return MadeTable(
        path=out, kinds=len(document["layers"]), measured=work.measured, kept=work.kept_before,
        network_ms=network["latency_ms"], layers_ms=network["layers_ms"], document=document,
    )  # fmt: skip


class _Work:
    """One table in the making."""

    def __init__(
        self,
        model: KerasModel,
        sha256: str,
        device: Device,
        settings: Settings,
        runs_dir: Path,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self._model, self._device, self._settings = model, device, settings
        self._runs_dir, self._scratch, self._progress = runs_dir, scratch, progress
        self.kinds = latency_probe.kinds(model, step=settings.step, points=settings.points)
        self._whole = Probe(f"network {sha256}", tuple(model.input_shape[1:]))
        layers = [probe for kind in self.kinds for probe in kind.probes()]
        shapes = dict.fromkeys([self._whole.shape, *(probe.shape for probe in layers)])
        self._passing = [latency_probe.passing(shape) for shape in shapes]
        self._probes = [*self._passing, self._whole, *layers]
        same = [device.name, settings.target, settings.scheme, settings.threads, settings.seconds, _PERCENTILE]
        key = sha256_json([*same, versions(["tensorflow"])])
        self._kept = _Kept.read(runs_dir / ".cache" / "latency" / f"{key}.json")
        self.kept_before = len([probe for probe in self._probes if probe.name in self._kept.taken_ms])
        self.measured = 0
        self._until = Deadline.after(settings.deadline_s)

    def measure(self) -> None:
        """Measures what is not kept."""
        fleet = Fleet(
            owner=owner(),
            run_id=f"latency-{secrets.token_hex(3)}",
            local_root=self._runs_dir / ".cache" / "local-board",
            states=BoardStates(boards_folder()),
            progress=self._progress,
            row=partial(board_row, self._progress),
            lease_wait_s=self._settings.lease_wait_s,
        )
        errors: list[InfrastructureError] = []

        def done(ended: Outcome[None]) -> None:
            if ended.error is not None:
                errors.append(ended.error)

        while self._missing() and not errors and self._until.remaining_s:
            fleet.check(self._device)
            fleet.each([self._device], self._visit, done, leased=True)
        fleet.settle(self._device)
        if errors:
            raise errors[0]
        if missing := self._missing():
            raise DeadlineExceeded(
                f"{self._device.name}: the time is up, and {len(missing)} of {len(self._probes)} networks are left.",
                next_step="What was measured is kept: call it again to go on.",
            )

    def document(self, name: str) -> dict[str, Any]:
        """The table as its file has it."""
        taken = self._kept.taken_ms
        beside = latency_fit.overhead(latency_fit.passing_of(self._passing, taken))
        rows = [latency_fit.row(kind, taken, beside) for kind in self.kinds]
        document = {"format": FORMAT, "version": VERSION, "device": self._device.name, "layers": rows}
        whole = taken[self._whole.name]
        layers = latency_fit.sum_of(self._model, document)
        return {
            **document,
            "rest_ms": round(whole - layers, 6),
            "measured": {
                "target": self._settings.target,
                "scheme": self._settings.scheme.value,
                "threads": self._settings.threads,
                **self._kept.facts,
                "samples": f"{SAMPLES} drawn ones, for calibration and timing",
                "network": {
                    "model": name, "sha256": self._whole.name.split()[1], "latency_ms": whole, "layers_ms": layers,
                },
                "call_ms": beside.call_ms,
                "value_ms": beside.value_ms,
                "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "edgesmith": __version__,
                **versions(["tensorflow", "ai-edge-litert"]),
            },
        }  # fmt: skip

    def _missing(self) -> list[Probe]:
        return [probe for probe in self._probes if probe.name not in self._kept.taken_ms]

    def _visit(self, session: BoardSession) -> None:
        missing = self._missing()
        with self._progress.task(f"layers on {self._device.name}", total=float(len(missing))) as task:
            for batch in latency_probe.batches(missing, AT_ONCE):
                if not self._until.remaining_s:
                    return
                self._take(session, batch)
                task.advance(len(batch), batch[0].name)

    def _take(self, session: BoardSession, batch: Sequence[Probe]) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        artifacts = [self._compiled(probe, folder / str(number)) for number, probe in enumerate(batch)]
        x = np.random.default_rng(0).random((SAMPLES, *batch[0].shape), np.float32)
        taken = session.measure(artifacts, x, self._settings.protocol)
        found: dict[str, Measurement] = {}
        for probe, one in zip(batch, taken, strict=True):
            if isinstance(one, BoardError):
                raise BoardError(f"{probe.name}: {one.what}", next_step=one.next_step)
            found[probe.name] = one
        self._kept.add(found)
        self.measured += len(found)

    def _compiled(self, probe: Probe, folder: Path) -> Artifact:
        folder.mkdir()
        network = self._model if probe is self._whole else probe.network()
        model = save_keras(network, folder / "model.keras", sha256=sha256_json(probe.name), origin=probe.name)
        drawn = synthetic_samples(model.signature.inputs, n=SAMPLES, seed=0, role="calibration")
        request = CompileRequest(scheme=self._settings.scheme, out_dir=folder, name="probe", calibration=drawn)
        return targets.get(self._settings.target).compile(model, request, Silent())
