"""Is a verified upload of ours about as fast as `scp`?

Claim: 50 MB to a board, verified there, take at most 1 / 0.8 of the time that `scp` takes for the same file over the
same link, which verifies nothing.

Both start without a connection. Ours: connect, ask for free space, send to `.part`, rename, have a Python on the board
compute the sha256, compare, close. Theirs: `scp`, with the same keys. The board is a real sshd on this machine, so that
the processor is the bottleneck and not the network: the least favourable case for a client written in Python. What a
session does beside it (bring the agent, import the runtimes) is no part of an upload, and is left out.

Each round runs both, one directly after the other, in alternating order (A B, B A, ...); the figure is the median over
rounds of the ratio within a round, with a 95 % bootstrap interval.

    python bench/upload_throughput.py           # 40 rounds; writes bench/results/upload_throughput.json
    python bench/upload_throughput.py --quick   # 10 rounds, more on a busy machine, under three minutes; writes nothing
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from device_tests.deadline import Deadline
from device_tests.loopback import folder_for_boards
from device_tests.loopback_sshd import SshdBoard, why_no_sshd
from device_tests.ssh import Ssh
from edgesmith.files import sha256_file, write_json

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.8
SIZE = 50_000_000
TIMEOUT_S = 120.0
RESAMPLES = 10_000

# The least that verifies on the board: as the agent does it, without the agent.
SHA256 = """
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb") as stream:
    for chunk in iter(lambda: stream.read(1 << 20), b""):
        digest.update(chunk)
print(digest.hexdigest())
"""


class Plan(NamedTuple):
    """At least so many rounds; more while the interval reaches below the claim, up to so many seconds."""

    rounds: int
    seconds: float


FULL, QUICK = Plan(rounds=40, seconds=400), Plan(rounds=10, seconds=120)


class Comparison:
    """The same file, twice to the same board."""

    def __init__(self, board: SshdBoard, file: Path) -> None:
        self._board = board
        self._device = board.device()
        self._file = file
        self._sha256 = sha256_file(file)

    def ours(self) -> None:
        """Connect, send, verify, rename, close."""
        target, until = f"{self._board.home}/ours", Deadline.after(TIMEOUT_S)
        with Ssh(self._device, until) as ssh:
            ssh.put(self._file, target, until)
            found = ssh.run([self._device.python, "-S", "-c", SHA256, target], until)
        if found.stdout.decode().strip() != self._sha256:
            raise RuntimeError(f"damaged: {found}")

    def scp(self) -> None:
        """Connect, send, close."""
        options = {
            "UserKnownHostsFile": self._device.known_hosts,
            "IdentityFile": self._device.identity_file,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "Port": self._device.port,
        }
        given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        target = f"{getpass.getuser()}@127.0.0.1:{self._board.home}/theirs"
        subprocess.run(["scp", "-q", "-F", "/dev/null", *given, str(self._file), target], check=True, timeout=TIMEOUT_S)

    def round(self, *, ours_first: bool) -> tuple[float, float]:
        """Seconds of ours and of scp. Each writes a file that is not there yet."""
        for left in self._board.home.iterdir():
            left.unlink()
        order: tuple[Callable[[], None], ...] = (self.ours, self.scp) if ours_first else (self.scp, self.ours)
        seconds = {}
        for one in order:
            start = time.perf_counter()
            one()
            seconds[one] = time.perf_counter() - start
        return seconds[self.ours], seconds[self.scp]


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median; the same for the same figures."""
    draw = random.Random(0)  # noqa: S311 - resampling
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def compare(comparison: Comparison, plan: Plan) -> dict[str, object]:
    """Rounds until the interval lies above the claim, or the time is up."""
    comparison.round(ours_first=True)  # both programs and the file are in memory from here on
    ours: list[float] = []
    scp: list[float] = []
    ratios: list[float] = []
    end = time.monotonic() + plan.seconds
    while len(ratios) < plan.rounds or (interval(ratios)[0] < LIMIT and time.monotonic() < end):
        mine, theirs = comparison.round(ours_first=len(ratios) % 2 == 0)
        ours.append(mine)
        scp.append(theirs)
        ratios.append(theirs / mine)
        print(f"round {len(ratios)}: {mine:.2f} s, scp {theirs:.2f} s: {ratios[-1]:.3f}", file=sys.stderr)
    return {
        "throughput_ratio": round(statistics.median(ratios), 4),
        "throughput_ratio_95": [round(edge, 4) for edge in interval(ratios)],
        "ours_s": round(statistics.median(ours), 3),
        "scp_s": round(statistics.median(scp), 3),
        "rounds": len(ratios),
    }


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """No ~/.ssh and no agent: both sides have the keys they are given."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        os.environ.pop("SSH_AUTH_SOCK", None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    quick = parser.parse_args().quick
    why = why_no_sshd() or ("" if shutil.which("scp") else "scp is missing (Debian: openssh-client)")
    if why:
        print(json.dumps({"bench": "upload_throughput", "holds": None, "reason": why}))
        return 1
    with nobody(), folder_for_boards() as folder, SshdBoard(folder / "board") as board:
        file = folder / "payload"
        file.write_bytes(os.urandom(SIZE))
        found = compare(Comparison(board, file), QUICK if quick else FULL)
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, check=True, timeout=10).stderr.decode().strip()
    ratio = found["throughput_ratio"]
    holds = isinstance(ratio, float) and ratio >= LIMIT
    figures = {
        "bench": "upload_throughput",
        "claim": f"a verified upload of {SIZE // 10**6} MB reaches at least {LIMIT} x the throughput of scp",
        "holds": holds,
        **found,
        "command": f"python bench/upload_throughput.py{' --quick' if quick else ''}",
        "versions": {"python": platform.python_version(), "asyncssh": version("asyncssh"), "openssh": ssh},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not quick:
        write_json(ROOT / "bench" / "results" / "upload_throughput.json", figures)
    print(json.dumps(figures))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
