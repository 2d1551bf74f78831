"""The engine of a release: the one that was measured, where the board still has it; else one that it builds now.

An engine is built on its board and runs on that alone, so it is never sent: the release takes it from those that the
board keeps, and has it from then on whatever becomes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_tests import engines
from device_tests.agent_client import Refused
from device_tests.release_board import ReleaseBoard
from device_tests.release_manifest import EnginePart, FilePart, MeasuredEnginePart
from device_tests.release_request import ReleaseRequest
from device_tests.session import BoardSession
from edgesmith.errors import BoardError
from edgesmith.types import Engine

PLAN = "engine.plan"

_TRTEXEC = "trtexec"
"""Among a board's runtimes where it stands in for the binding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedEngine:
    """An engine that is on the board.

    Attributes:
        part: what the manifest says of it.
        files: that the release takes from the board.
    """

    part: EnginePart
    files: tuple[FilePart, ...]


def on_board(session: BoardSession, board: ReleaseBoard, request: ReleaseRequest) -> ReleasedEngine | None:
    """Has the board find or build the engine of a release; None where it runs the artifact as it is.

    Raises:
        BoardError: no room, no engine, or nothing there that could run it.
    """
    if not engines.is_built(request.artifact):
        return None
    if request.runner not in session.info.runners or _TRTEXEC in session.info.runtimes:
        raise _no_binding(session, request)
    known = request.measured.engine
    try:
        if known is not None:
            board.room_for_engine(known.key, known.size_bytes)
        engine = session.build(request.artifact)
        files = board.engine_files(engine.key)
    except Refused as refused:
        raise BoardError(
            f"{board.device}: {request.name} cannot be released: {refused.message}.",
            next_step="Free some space on the board: engines that nothing needs are listed by `edgesmith devices "
            f"engines {board.device}`, and removed there."
            if refused.code == "no-space"
            else refused.next_step,
        ) from None
    return ReleasedEngine(part=_part(engine, known), files=files)


def _part(engine: Engine, known: MeasuredEnginePart | None) -> EnginePart:
    measured = known is not None and known.sha256 == engine.sha256
    return EnginePart(
        file=PLAN,
        key=engine.key,
        sha256=engine.sha256,
        size_bytes=engine.size_bytes,
        tensorrt=engine.tensorrt,
        cuda=engine.cuda,
        compute=engine.compute,
        gpu=engine.gpu,
        precision=engine.precision,
        fake=engine.fake,
        is_measured=measured,
        note="" if measured else _why_another(engine, known),
    )


def _why_another(engine: Engine, known: MeasuredEnginePart | None) -> str:
    told = "This engine is not the one that was measured: "
    if known is None:
        return f"{told}the run does not say which that was."
    if engine.tensorrt != known.tensorrt:
        return f"{told}that was of TensorRT {known.tensorrt}, the board has {engine.tensorrt} now."
    return f"{told}the board built it anew, and no two builds need give the same bytes."


def _no_binding(session: BoardSession, request: ReleaseRequest) -> BoardError:
    return BoardError(
        f"{session.device.name}: {request.name} cannot be released: TensorRT's Python binding is not there, so no "
        "engine could be checked (trtexec times engines, and tells nothing of their answers).",
        next_step="On a Jetson: sudo apt-get install python3-libnvinfer. Whatever else is missing is told by "
        f"`edgesmith doctor --device {session.device.name}`.",
    )
