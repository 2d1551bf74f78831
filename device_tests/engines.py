"""Engines that a board builds from an artifact: built before anything is run, known by what the board tells of them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_tests import measured, power
from device_tests.agent import runners
from device_tests.agent_client import Refused
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError, BuildRefused
from edgesmith.files import sha256_file, sha256_json
from edgesmith.types import Artifact, Engine, EngineLayer, EnginePart, EngineParts, PowerRequest, TrtexecTimes

if TYPE_CHECKING:
    from device_tests.session import BoardSession

BUILD_S = 3600.0
"""For one engine, unless its options say otherwise. A large network takes a small board tens of minutes."""

TIMEOUT = "build_timeout_seconds"
"""The option that does: ours, the board's builder has no use for it."""

PROFILE_RUNS = 100
MOST_LAYERS = 20
_PROFILE_S = 300.0
_TRTEXEC_S = 180.0
"""It starts, warms up, and runs for some seconds twice: once for the times, once for the layers."""
_FETCH_S = 60.0

_NEXT = {
    "parse-failed": "The board's TensorRT does not read the network as it is. `opset:` of an older operator set, or "
    "another way to write that layer, may help.",
    "no-int8": "Use `quantize: {scheme: float16}` for this board.",
    "no-implementation": "Scheme 'float16' shows whether the board can build the network at all.",
    "not-enough-workspace": "Free memory on the board: end its desktop and what else runs there.",
    "not-enough-memory": "Add swap to the board, or end what runs beside the build (`sudo systemctl isolate "
    "multi-user.target` ends a desktop).",
    "no-gpu": "`edgesmith devices probe` tells what the board has; a container needs the NVIDIA runtime.",
    "no-dla": "Take `dla_core` out of `tensorrt:`: the GPU computes the network then. DLAs are on Xavier, AGX Orin and "
    "Orin NX; a TensorRT uses them up to 10.7, and AGX Orin's again from 11.4.1 on.",
    "trtexec-option": "Install TensorRT's Python binding on the board, which is given no such options: "
    "`sudo apt-get install python3-libnvinfer`.",
    "not-version-compatible": "Take `version_compatible` out of `tensorrt:`.",
    "timeout": "Build again: what the board has timed so far is kept, so the next build is shorter. "
    "`tensorrt: {build_timeout_seconds: ...}` gives it more time.",
}
"""By the board's word for why it built no engine."""


def is_built(artifact: Artifact) -> bool:
    """Whether the board builds something of an artifact before it runs it."""
    name = measured.runner(artifact)
    return name in runners.names() and hasattr(runners.load(name), "build")


def asked_key(artifact: Artifact) -> str:
    """Names an artifact with its options."""
    return sha256_json(measured.asked(artifact))


def build(session: BoardSession, artifact: Artifact, *, rebuild: bool = False) -> Engine:
    """Has the board build an artifact's engine, or find the one it has. The artifact is there already.

    What the board learns of its kernels' times is kept here, and given to the next board of the same kind.

    Args:
        session: open, with the lease.
        artifact: one that `is_built`.
        rebuild: even where there is a sound one.

    Raises:
        BuildRefused: the board cannot, or will not.
        BoardBusy, ConnectionLost, DeadlineExceeded: as in `BoardSession.measure`.
    """
    known = _timing_cache(session)
    asked = measured.asked(artifact)
    options = dict(asked.get("options", {}))
    patience_s = options.pop(TIMEOUT, BUILD_S)
    if known is not None and known.is_file():
        options["timing_cache_sha256"] = sha256_file(known)
        session.push(known, options["timing_cache_sha256"])
    params = {"artifact": asked, "options": options, "rebuild": rebuild}
    with session.progress.task(f"build {artifact.path.name} on {session.device.name}", total=1.0) as task:
        try:
            record = session.ask("build", params, Deadline.after(patience_s), task)
        except Refused as refused:
            raise _refusal(session, artifact, refused) from None
    told = record["timing_cache"]
    if known is not None and told and not record["cached"]:
        _fetch(session, told, known)
    return _engine(record)


def profile(
    session: BoardSession, artifact: Artifact, inputs: Mapping[str, str], engine: Engine, request: PowerRequest
) -> Engine:
    """Takes runs of a built artifact apart.

    Args:
        session: open.
        artifact: built and measured there.
        inputs: what was pushed for it.
        engine: as `build` told.
        request: what the board was put into meanwhile, and is again.

    Returns:
        The engine with its parts and slowest layers, or why they are not known: the measurement stands without.
    """
    params = {**_on_the_board(artifact, inputs, request), "runs": PROFILE_RUNS}
    until = Deadline.after(_PROFILE_S + power.patience_s(request))
    with session.progress.task(f"take apart {artifact.path.name} on {session.device.name}"):
        try:
            told = session.ask("profile", params, until)
        except Refused as refused:
            return dataclasses.replace(engine, profile_reason=refused.message)
    rows = [_layer(row) for row in told["layers"]]
    slowest = sorted(rows, key=lambda row: -(row.time_ms or 0.0))[:MOST_LAYERS]
    notes = (*engine.notes, *told["notes"])
    return dataclasses.replace(engine, parts=_parts(told["parts"]), layers=tuple(slowest), notes=notes)


def time_by_trtexec(
    session: BoardSession, artifact: Artifact, inputs: Mapping[str, str], engine: Engine, request: PowerRequest
) -> Engine:
    """Has NVIDIA's trtexec time the very engine that was measured, on a sample of the same inputs.

    Args:
        session: open.
        artifact: built and measured there.
        inputs: what was pushed for it.
        engine: as `profile` told.
        request: what the board was put into meanwhile, and is again.

    Returns:
        The engine with trtexec's times, or why there are none: the measurement stands without.
    """
    if engine.builder:
        return dataclasses.replace(engine, trtexec_reason="all times of this engine are trtexec's")
    if artifact.build.get("trtexec") == "never":
        return dataclasses.replace(engine, trtexec_reason="it was not to be used (`trtexec: never`)")
    until = Deadline.after(_TRTEXEC_S + power.patience_s(request))
    with session.progress.task(f"time {artifact.path.name} by trtexec on {session.device.name}"):
        try:
            told = session.ask("trtexec", _on_the_board(artifact, inputs, request), until)
        except Refused as refused:
            return dataclasses.replace(engine, trtexec_reason=refused.message)
    return dataclasses.replace(engine, trtexec=_trtexec_times(told, engine))


def _on_the_board(artifact: Artifact, inputs: Mapping[str, str], request: PowerRequest) -> dict[str, Any]:
    """What is asked of an engine that was measured: on the same samples, in the same power mode."""
    params = {"artifact": measured.asked(artifact), "inputs": inputs}
    mode = power.asked(request)
    return params if mode is None else {**params, "power": mode}


def _trtexec_times(told: Mapping[str, Any], engine: Engine) -> TrtexecTimes:
    percentiles = told["percentiles"]
    return TrtexecTimes(
        tool=told["tool"],
        version=told["version"],
        p50_ms=percentiles["latency_ms"]["50"],
        p95_ms=percentiles["latency_ms"]["95"],
        to_device_p50_ms=percentiles["h2d_ms"]["50"],
        compute_p50_ms=percentiles["compute_ms"]["50"],
        to_host_p50_ms=percentiles["d2h_ms"]["50"],
        runs=told["runs"],
        ours_p50_ms=None if engine.parts is None else engine.parts.sum_p50_ms,
        difference=tuple(told["difference"]),
        notes=tuple(told["notes"]),
    )


def _refusal(session: BoardSession, artifact: Artifact, refused: Refused) -> BuildRefused:
    where = f"{session.device.name}: {artifact.path.name} (tensorrt)"
    log = refused.facts.get("log")
    step = _NEXT.get(refused.code, refused.next_step)
    if refused.code == "no-gpu" and artifact.build.get("cuda", "auto") != "auto":
        step = "`tensorrt: {cuda: auto}` takes what the board has for calling CUDA."
    steps = [step, f"The build's log is on the board: {log}" if log else ""]
    return BuildRefused(
        f"{where}: no engine was built: {refused.message}.",
        code=refused.code,
        nodes=tuple(refused.facts.get("quantized") or refused.facts.get("nodes") or ()),
        next_step=" ".join(filter(None, steps)),
    )


def _timing_cache(session: BoardSession) -> Path | None:
    """Where it is kept: by what it is valid for. None where the board does not tell that."""
    runtimes = session.info.runtimes
    version, compute = runtimes.get("tensorrt"), runtimes.get("compute")
    if not version or not compute:
        return None
    # A stand-in's is of no use to a real board, and might do it harm.
    fake = "fake-" if session.info.stand_in else ""
    return session.local_root / "timing-caches" / f"{fake}{version}-sm{compute.replace('.', '')}.cache"


def _fetch(session: BoardSession, told: Mapping[str, Any], here: Path) -> None:
    """Copies a timing cache here; one that does not arrive whole is left, since a build does without."""
    with tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch:
        arrived = Path(scratch) / "timing.cache"
        try:
            session.connection.get(told["path"], arrived, Deadline.after(_FETCH_S))
        except BoardError:
            return
        if sha256_file(arrived) == told["sha256"]:
            here.parent.mkdir(parents=True, exist_ok=True)
            part = here.with_name(f".{here.name}.{told['sha256'][:16]}")
            part.write_bytes(arrived.read_bytes())
            part.replace(here)


def _engine(record: Mapping[str, Any]) -> Engine:
    identity = record["identity"]
    return Engine(
        key=record["key"],
        sha256=record["sha256"],
        size_bytes=record["size_bytes"],
        cached=record["cached"],
        because=record["because"] or "",
        seconds=record["seconds"],
        tensorrt=identity["tensorrt"],
        cuda=record["cuda"],
        compute=identity["compute"],
        gpu=identity["gpu"],
        precision=tuple(identity["precision"]),
        layer_count=record["layer_count"],
        layer_precisions=tuple(sorted(record["precisions"].items())),
        device_memory_bytes=record["device_memory_bytes"],
        notes=tuple(record["notes"]),
        # Engines of earlier agents do not say.
        fake=bool(record.get("fake", False)),
        builder=record.get("builder", ""),
    )


def _parts(told: Mapping[str, list[int]]) -> EngineParts:
    import numpy as np

    def part(name: str) -> EnginePart:
        p50, p95 = np.percentile(np.asarray(told[name], dtype=np.float64) / 1e6, [50, 95])
        return EnginePart(p50_ms=float(p50), p95_ms=float(p95))

    runs = np.asarray([told["in_ns"], told["compute_ns"], told["out_ns"]], dtype=np.float64)
    return EngineParts(
        to_device=part("in_ns"),
        compute=part("compute_ns"),
        to_host=part("out_ns"),
        runs=len(told["compute_ns"]),
        sum_p50_ms=float(np.percentile(runs.sum(axis=0) / 1e6, 50)),
    )


def _layer(row: Mapping[str, Any]) -> EngineLayer:
    return EngineLayer(
        name=row["name"],
        kind=row["kind"],
        precision=row["precision"],
        time_ms=row["time_ms"],
        sources=tuple(row["sources"]),
        is_range=bool(row["range"]),
    )
