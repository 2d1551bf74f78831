"""The agent of a fake board: the real one in this process, with a scripted clock, scripted sensors and faults."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from device_tests.agent import child, measuring, power_modes, probing
from device_tests.agent.lease_rules import Moment
from device_tests.agent.leasing import Leasing
from device_tests.agent.methods import Agent
from device_tests.agent.protocol import PROTOCOL, Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.sensors import sampling
from device_tests.agent.work import Folders
from device_tests.fake_board import FakeBoard, quiet
from device_tests.fake_script import Fault, Point

Method = Callable[[Mapping[str, Any], Deadline, Callable[..., None]], Any]

_SIGNALS = {"crash": "SIGSEGV", "out-of-memory": "SIGKILL"}
_ON_THE_BOARD = ("workdir", "lease_dir")
_NOT_HERE = ("release_", "build", "profile")


class Struck(Exception):
    """A fault of the script that is no answer: the link or the whole agent is gone, or it says nothing more."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


class FakeAgent(Agent):
    """Answers as the agent does. Uploads, leases, warm-up and windows are the agent's own code."""

    def __init__(self, board: FakeBoard, leave: Callable[[], None]) -> None:
        """`leave`: as in `Agent`."""
        super().__init__(leave)
        self.leasing = _Leasing(board, leave)
        self._board = board
        self._precisions: dict[str, str] = {}

    def methods(self) -> dict[str, Method]:
        """Name -> function(params, deadline, event); paths of the board are led into its folder."""
        found = super().methods() | {"probe": self.probe} | power_modes.methods(self, Root(str(self._board.home)))
        return {name: self._at_home(found[name]) for name in found if not name.startswith(_NOT_HERE)}

    def answer(self, line: bytes, event: Callable[..., None]) -> dict[str, Any]:
        """The answer to one request line, as `protocol.answer` sends it.

        Raises:
            Struck: there is none.
        """
        asked = json.loads(line)
        try:
            methods = self.methods()
            if asked["method"] not in methods:
                raise Refusal("unknown-method", f"a fake board knows no {asked['method']}; it has {', '.join(methods)}")
            deadline = Deadline(float(asked["timeout_s"]))
            result = methods[asked["method"]](
                asked["params"], deadline, lambda **told: event(**dict(told, id=asked["id"]))
            )
        except Refusal as refusal:
            return {"id": asked["id"], "error": refusal.as_dict()}
        except (OSError, MemoryError) as error:
            return {"id": asked["id"], "error": {"code": "system", "message": f"{type(error).__name__}: {error}"}}
        except Struck:
            raise
        except Exception as error:  # noqa: BLE001 - the agent answers a defect of its own, too
            last = traceback.format_exc().strip().splitlines()[-6:]
            told = {"code": "internal", "message": f"{type(error).__name__}: {error}", "stderr": last}
            return {"id": asked["id"], "error": told}
        return {"id": asked["id"], "result": result}

    def leave(self) -> None:
        """Gives the lease back and removes the work folder, as the agent does at its end."""
        self.leasing.close()
        if self.folders is not None:
            self.folders.clean()

    def hello(self, params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> dict[str, Any]:
        """See `Agent.hello`."""
        del deadline, event
        strike(self._board.fault("hello"))
        if self.folders is None:
            self.folders = Folders(params["workdir"])
        found = dict(self._board.identity(), protocol=PROTOCOL, pid=os.getpid(), work=self.folders.root)
        return found | self._board.runtimes()

    def probe(self, params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> dict[str, Any]:
        """The capability record: what the script says, None for what it does not."""
        del params, deadline, event
        home = str(self._board.home)
        found: dict[str, Any] = probing.look(Root(home), home)
        told = self._board.identity()
        return found | told | {"cores_online": told["cores"], "libc": self._board.script.libc} | self._board.runtimes()

    def measure(self, params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> dict[str, Any]:
        """See `Agent.measure`."""
        del deadline
        strike(self._board.fault("measure"))
        if params.get("power"):
            raise Refusal("power-mode-denied", "a scripted board has no power modes")
        folder = self._folders().new()
        asked = [self._artifact(one) for one in params["artifacts"]]
        self._precisions = {one["sha256"]: one.get("precision", "") for one in asked}
        found = measuring.measure(
            asked,
            self._inputs(params),
            params["protocol"],
            folder,
            event,
            start=self._start,
            snapshot=self._board.snapshot,
            sample=lambda _folder: sampling.Nothing("a scripted board"),
        )
        return dict(found, folder=folder)

    def infer(self, params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> dict[str, Any]:
        """See `Agent.infer`."""
        folder = self._folders().new()
        asked = self._artifact(params["artifact"])
        found = measuring.infer(
            asked, self._inputs(params), params["threads"], folder, deadline, event, start=self._start
        )
        return dict(found, folder=folder)

    def _start(self, watch_for: str | None = None) -> FakeChild:
        del watch_for
        return FakeChild(self._board, self._precisions)

    def _at_home(self, method: Method) -> Method:
        def called(params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> Any:
            led = {key: str(self._board.path(params[key])) for key in _ON_THE_BOARD if key in params}
            return method(dict(params, **led), deadline, event)

        return called


class _Leasing(Leasing):
    """A lease ends with the board's own restarts."""

    def __init__(self, board: FakeBoard, leave: Callable[[], None]) -> None:
        super().__init__(leave, time.monotonic, end_work=lambda: None)  # it has no processes
        self._board = board

    def kill_stale(self, params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> Any:
        self._board.mend("kill")
        return super().kill_stale(params, deadline, event)

    def _now(self) -> Moment:
        return self._board.moment()


class FakeChild:
    """Stands where `supervisor.Child` does: the same methods, in this process.

    Attributes:
        log: of the runtime; there is none.
    """

    def __init__(self, board: FakeBoard, precisions: Mapping[str, str]) -> None:
        self.log = self
        self.watched = False
        self._board = board
        self._scripted = _ScriptedRuns(board, precisions)

    def call(
        self,
        method: str,
        params: Mapping[str, Any],
        deadline: Deadline,
        event: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Any:
        """Asks; see `supervisor.Child.call`."""
        points: dict[str, Point] = {"load": "load", "window": "window"}
        if method in points:
            strike(self._board.fault(points[method]), during=method)
        if not deadline.remaining_s:
            raise Refusal("timeout", f"no time is left for {method!r}")
        return getattr(self._scripted, method)(params, deadline, lambda **told: event(told) if event else None)

    def finish(self) -> None:
        """Nothing is left to end."""

    def kill(self) -> None:
        """Nothing is left to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()


@contextlib.contextmanager
def _as_it_is() -> Iterator[None]:
    """Scripted runs need no quiet, and this process is not ours alone: its garbage collector goes on."""
    yield


class _ScriptedRuns(child.Child):
    """The agent's child with the board's clock: a timed run takes what the script says, the outputs are computed."""

    undisturbed = staticmethod(_as_it_is)

    def __init__(self, board: FakeBoard, precisions: Mapping[str, str]) -> None:
        super().__init__(clock=lambda: board.now_ns)
        self._board = board
        self._precisions = precisions

    def load(self, params: Mapping[str, Any], deadline: Deadline, event: Callable[..., None]) -> dict[str, Any]:
        sha256 = Path(params["path"]).name
        self._rule = self._board.rule(sha256, params["runner"], self._precisions.get(sha256, ""))
        self._random = self._board.randomness(sha256)
        with quiet():
            told: dict[str, Any] = super().load(params, deadline, event)
        return dict(told, name=f"FAKE: scripted latency, outputs by {told['name']} here")

    def peak_rss(self, params: object, deadline: Deadline, event: Callable[..., None]) -> dict[str, Any]:
        del params, deadline, event
        told = self._rule.peak_rss_bytes
        return {"bytes": told, "reason": None if told else "the fake board's script gives no peak_rss_bytes for it"}

    def _timed_run(self) -> Callable[[int], int]:
        rule, chance, board = self._rule, self._random, self._board

        def run(_index: int) -> int:
            ns = max(1, round(rule.median_ms * 1e6 * chance.lognormvariate(0.0, rule.jitter) * board.slowdown))
            board.work(ns)
            return ns

        return run


def strike(fault: Fault | None, during: str = "") -> None:
    """Lets a fault of the script happen.

    Raises:
        Refusal: one that is an answer of the agent.
        Struck: one after which there is none.
    """
    if fault is None:
        return
    if fault.kind in _SIGNALS:
        name = _SIGNALS[fault.kind]
        raise Refusal("runtime-crashed", f"{name} during {during!r}", signal=name, during=during, stderr=["scripted"])
    if fault.kind == "refuse":
        raise Refusal("model-refused", "RuntimeError: refused by the fake board's script")
    raise Struck(fault)
