"""What tests of releases share: a runtime that goes wrong on request, and an application that opens the model."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from device_tests.agent_zip import AgentZip, build_agent
from device_tests.loopback import LoopbackBoard
from device_tests.release_manifest import MeasuredPart, PreprocessingPart
from device_tests.release_request import ReleaseRequest
from device_tests.releases import deploy
from device_tests.session import BoardSession
from edgesmith.files import sha256_bytes, sha256_file
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Signature, TensorSpec
from tests.tiny_artifacts import artifact

X = np.array([[4, 8, 12, 0], [1, 2, 3, 255]], np.float32)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", shape=(None, 4), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(None, 4), dtype="float32"),),
)
PATIENCE_S = 30.0

# A runtime whose models are JSON: a factor, and what goes wrong where. "where" is a part of the path that is opened,
# so that a model can be well as staged and ill once it is current.
ABACUS = """
import json, os, signal, time
import numpy as np

from device_tests.agent.runners import Input

PACKAGES = ("abacus",)

def probe():
    return {"abacus": "1.0"}

class Runner:
    name = "abacus 1.0"
    inputs = [Input("x", [4], np.dtype("float32"), None)]
    output_quantization = [None]

    def __init__(self, path, threads, options):
        with open(path) as stream:
            model = json.load(stream)
        self.factor = model["factor"]
        self.fault = model["fault"] if model["where"] in path else ""
        if self.fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fault == "hang":
            with open(model["note"] + ".part", "w") as stream:
                stream.write(str(os.getppid()))
            os.rename(model["note"] + ".part", model["note"])
            time.sleep(600)

    def __call__(self, sample):
        if self.fault == "slow":
            time.sleep(0.02)
        return [sample[0] * (self.factor + (self.fault == "wrong"))]
"""


def _only_abacus() -> AgentZip:
    """The agent without its own runtimes: they need not be looked for in every session."""
    whole = build_agent({"runners/abacus.py": ABACUS.encode()}).content
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            if Path(name).name not in ("tflite.py", "onnxruntime.py"):
                new.writestr(name, old.read(name))
    return AgentZip(content=buffer.getvalue(), sha256=sha256_bytes(buffer.getvalue()))


AGENT = _only_abacus()
STAGED, CURRENT = ".part/", "/current/"


class Desk:
    """A board, sessions to it, and models for it.

    Attributes:
        note: where a model that hangs writes the process id of its agent.
    """

    def __init__(self, board: LoopbackBoard, folder: Path) -> None:
        self.board = board
        self.folder = folder
        self.device = dataclasses.replace(board.device("pi"), releases=str(board.home / "releases"))
        self.releases = board.home / "releases" / "double"
        self.note = folder / "note"

    def session(self, agent: AgentZip = AGENT) -> BoardSession:
        return BoardSession(self.device, local_root=self.folder / "here", progress=Silent(), agent=agent)

    def request(self, factor: float, fault: str = "", where: str = "", keep: int = 2) -> ReleaseRequest:
        """A model that multiplies, and is expected to."""
        content = json.dumps({"factor": factor, "fault": fault, "where": where, "note": str(self.note)}).encode()
        path = self.folder / f"{sha256_bytes(content)[:8]}.json"
        path.write_bytes(content)
        return request(
            dataclasses.replace(
                artifact("dense.onnx", "json"), path=path, sha256=sha256_file(path), signature=SIGNATURE
            ),
            "abacus",
            X * factor,
            keep=keep,
        )

    def factor(self) -> float:
        """What an application gets from the model that answers."""
        found: float = json.loads((self.releases / "current" / "model.json").read_bytes())["factor"]
        return found

    def names(self) -> list[str]:
        return sorted(path.name for path in self.releases.iterdir())

    def in_use(self, session: BoardSession, factor: float = 2) -> str:
        """Deploys a good model; returns its version."""
        return deploy(session, self.request(factor), Silent()).version


def request(made: Artifact, runner: str, *outputs: np.ndarray, x: np.ndarray = X, keep: int = 2) -> ReleaseRequest:
    pairs = (None,) * (len(made.signature.inputs) + len(made.signature.outputs))
    return ReleaseRequest(
        name="double",
        artifact=made,
        runner=runner,
        quantization=pairs,
        preprocessing=PreprocessingPart(text="as they are", dtype="float32", low=0, high=255),
        threads=1,
        run_id="20261122-071500-beef",
        measured=MeasuredPart(
            p50_ms=1.0, p95_ms=2.0, accuracy=None, measured_at=None, runner=f"{runner} 1.0", emulated=False
        ),
        x=x,
        outputs=tuple(outputs),
        keep=keep,
    )


class Application:
    """Opens the model all the time, as an application on the board does; both ways that docs/releases.md shows.

    Attributes:
        factors: what it got, each once.
        gaps: openings that failed, and models that were not what their manifest says.
    """

    def __init__(self, releases: Path) -> None:
        self.factors: set[float] = set()
        self.gaps: list[str] = []
        self.openings = 0
        self._current = releases / "current"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.factors.add(json.loads((self._current / "model.json").read_bytes())["factor"])
                self._check_release(self._current.resolve())
            except (OSError, ValueError) as error:
                self.gaps.append(repr(error))
            self.openings += 1
            self._stop.wait(0.001)

    def _check_release(self, release: Path) -> None:
        """One release, opened by its own name: what belongs together is read together."""
        try:
            manifest = json.loads((release / "manifest.json").read_bytes())
            content = (release / "model.json").read_bytes()
        except FileNotFoundError:
            # It failed its check and was taken away in between: `current` names another by now.
            if self._current.resolve() == release:
                raise
            return
        (entry,) = (file for file in manifest["files"] if file["file"] == manifest["model"])
        if manifest["version"] != release.name or entry["sha256"] != hashlib.sha256(content).hexdigest():
            self.gaps.append(f"{release} is not what its manifest says")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)
