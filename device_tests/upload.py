"""Files on their way to a board: gone on with after a cut, compressed where it pays, verified there, told in bytes."""

from __future__ import annotations

import collections
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from device_tests import lease, packing
from device_tests.agent_client import AgentClient, Refused
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError
from edgesmith.files import sha256_bytes
from edgesmith.progress import Progress, Task

_LATELY_S = 3.0
_GZIP = ".gz"


def push(
    connection: Connection,
    agent: AgentClient,
    workdir: str,
    files: Mapping[str, Path],
    deadline: Deadline,
    progress: Progress,
    count: Callable[[int], None] | None = None,
) -> int:
    """Sends those files that the board does not have; each is verified there before it gets its name.

    What a cut link, or the end of this program, has left of an upload is gone on with. So uploads are named after
    their content, and after who sends them: two users do not write to one file.

    Args:
        connection: the open link.
        agent: the running agent.
        workdir: our folder on the board.
        files: sha256 -> file here.
        deadline: for all of them.
        progress: told how far it is.
        count: told the bytes as they go over the link, those of a transfer that breaks included.

    Returns:
        Bytes that went over the link.

    Raises:
        BoardError: no room, or a file arrived damaged.
    """
    there = agent.call("have", {"sha256": sorted(files)}, deadline)
    sizes = {sha256: path.stat().st_size for sha256, path in files.items() if sha256 not in there["have"]}
    if not sizes:
        return 0
    with (
        progress.task(f"send to {connection.address}", total=sum(sizes.values())) as task,
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
    ):
        meter = Meter(task, sum(sizes.values()), count)
        sent = 0
        # The smallest first: after it, it is known how fast the link is.
        for sha256 in sorted(sizes, key=lambda sha256: (sizes[sha256], sha256)):
            upload = _Upload(connection, agent, workdir, sha256, files[sha256], Path(scratch), there["incoming"])
            sent += upload.send(meter, deadline)
    return sent


class Meter:
    """Turns bytes into a bar, and into "12.4 / 50.0 MB, 8.1 MB/s" beside it."""

    def __init__(
        self,
        task: Task,
        total: int,
        count: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total`: bytes of content, all files together. `count`: told the bytes that go over the link."""
        self._task = task
        self._total = total
        self._count = count
        self._clock = clock
        self._done = 0.0
        self._wire = 0
        self._lately: collections.deque[tuple[float, int]] = collections.deque([(clock(), 0)])

    def went(self, wire: int, content: float) -> None:
        """So many bytes went over the link, which stand for that much content."""
        self._wire += wire
        if self._count is not None:
            self._count(wire)
        now = self._clock()
        self._lately.append((now, self._wire))
        while len(self._lately) > 2 and now - self._lately[0][0] > _LATELY_S:
            self._lately.popleft()
        self.skip(content)

    def skip(self, content: float) -> None:
        """That much content is there without having been sent now; negative: it has to be sent again."""
        self._done += content
        self._task.advance(content, self.note)

    @property
    def note(self) -> str:
        """What stands beside the bar."""
        unit, name = (1e6, "MB") if self._total >= 1e6 else (1e3, "kB")
        (before, then), (now, wire) = self._lately[0], self._lately[-1]
        rate = f", {(wire - then) / (now - before) / 1e6:.1f} MB/s" if now > before else ""
        return f"{max(0.0, self._done) / unit:.1f} / {self._total / unit:.1f} {name}{rate}"


class _Upload:
    """One file."""

    def __init__(
        self,
        connection: Connection,
        agent: AgentClient,
        workdir: str,
        sha256: str,
        path: Path,
        scratch: Path,
        waiting: Collection[str],
    ) -> None:
        """`waiting`: names in the board's `incoming`."""
        self._connection = connection
        self._agent = agent
        self._workdir = workdir
        self._sha256 = sha256
        self._path = path
        self._size = path.stat().st_size
        self._name = f"{sha256[:16]}-{sha256_bytes(lease.owner().encode())[:8]}"
        self._waiting = waiting
        self._file = self._packed(scratch) or path
        self._is_packed = self._file is not path
        if self._is_packed:
            self._name += _GZIP

    def send(self, meter: Meter, deadline: Deadline) -> int:
        """Sends it, from where an earlier upload of it ended; returns the bytes that went over the link.

        Raises:
            BoardError: it arrived damaged, and not because an earlier part of it was: then it is sent once more.
        """
        if self._name in self._waiting and self._damage(deadline) is None:
            meter.skip(self._size)
            return 0
        wire, found = self._put(meter, deadline)
        damage = self._damage(deadline)
        if damage is not None and found:
            meter.skip(-self._size)
            again, _ = self._put(meter, deadline)
            wire += again
            damage = self._damage(deadline)
        if damage is not None:
            raise BoardError(
                f"{self._connection.address}: {self._path.name}: {damage.message}. "
                f"The board has {damage.facts.get('free_bytes', 0):,} bytes free.",
                next_step="Free space on the board if it is full; else its disk or memory card may be failing.",
            )
        return wire

    def _packed(self, scratch: Path) -> Path | None:
        """The compressed file, where it is to be sent; what has been begun one way goes on that way."""
        begun = {f"{self._name}{_GZIP}", f"{self._name}{_GZIP}.part"} & set(self._waiting)
        if not begun:
            raw = {self._name, f"{self._name}.part"} & set(self._waiting)
            if raw or not packing.pays(self._path, self._connection.rate):
                return None
        target = scratch / f"{self._path.name}{_GZIP}"
        packing.pack(self._path, target)
        # The pieces may have promised more than the whole keeps.
        return target if begun or target.stat().st_size < self._size else None

    def _put(self, meter: Meter, deadline: Deadline) -> tuple[int, int]:
        """(bytes that went over the link, bytes that had been there before)."""
        content = self._size / max(1, self._file.stat().st_size)
        found = 0

        def skipped(amount: int) -> None:
            nonlocal found
            found = amount
            meter.skip(amount * content)

        sent = self._connection.put(
            self._file,
            f"{self._workdir}/incoming/{self._name}",
            deadline,
            lambda amount: meter.went(amount, amount * content),
            skipped,
        )
        return sent, found

    def _damage(self, deadline: Deadline) -> Refused | None:
        """Has the board check it and take it in; the refusal where its content is not what it should be."""
        encoding = {"encoding": "gzip", "size": self._size} if self._is_packed else {}
        asked = {"path": f"incoming/{self._name}", "sha256": self._sha256, **encoding}
        try:
            self._agent.call("verify", asked, deadline)
        except Refused as refused:
            if refused.code not in ("damaged", "no-space"):
                raise
            return refused
        return None
