"""A Raspberry Pi 4 that is not there: a real sshd whose sessions are an arm64 userland under qemu-user.

Real are the aarch64 wheels with their NEON kernels, the machine's name, the device tree's model, the disk's size and
the numbers that come out. Latency is not: it is emulation time, so the board says EDGE_EMULATED=1 of itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from device_tests.loopback import LOOPBACK
from device_tests.loopback_sshd import SshdBoard, children, why_no_sshd
from edgesmith.types import LEASE_DIR, Device

_HERE = Path(__file__).resolve().parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_QEMU = Path("/usr/bin/qemu-aarch64-static")
_USERS = Path("/run/lock/edgesmith-binfmt")
_BUILD_S = 600.0
_ROOT = "/mnt"  # sshd wants every folder above its chroot to be root's, which no temporary folder's parents are
_KERNEL = "6.12.47+rpt-rpi-v8"
# Not "max": qemu 7.2 computes wrong int8 results with it.
_CPU = "cortex-a72"


def why_no_arm64() -> str:
    """Why there can be no such board here; empty where there can."""
    if os.getuid() != 0:
        return "the emulated arm64 board needs root (mount namespaces)"
    missing = [tool for tool in (str(_QEMU), "mmdebstrap", "unshare") if shutil.which(tool) is None]
    return f"{', '.join(missing)} missing (Debian: qemu-user-static, mmdebstrap)" if missing else why_no_sshd()


def pi_rootfs() -> Path:
    """The userland, from the cache or built now: about half a minute."""
    environment = {**os.environ, "PYTHON": sys.executable, "XDG_CACHE_HOME": str(_CACHE)}
    return Path(_script("pi_rootfs.sh", environment=environment).splitlines()[-1])


@contextlib.contextmanager
def arm64_programs() -> Iterator[None]:
    """While it is open, this kernel starts arm64 programs; test runs side by side share that.

    Whoever uses it holds the lock shared, so the last one out, and only that one, can have it alone. A run that was
    killed holds nothing: the next one takes the registration back in its place.
    """
    with _USERS.open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        _script("binfmt.sh", "on")
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _script("binfmt.sh", "off")


class ArmBoard(SshdBoard):
    """The board. `stop` cuts its power: all its processes go. Its disk is in memory, so it is as new after `start`.

    The userland itself is never written to: an overlay takes what the board writes, so one serves any number of boards.
    """

    def __init__(
        self, folder: Path, rootfs: Path, *, disk: str = "256m", address: str = LOOPBACK, network: str = ""
    ) -> None:
        """`disk`: how much the board can write, as mount's `size=` has it. The rest as in `SshdBoard`."""
        environment = {"HOME": "/home/pi", "EDGE_EMULATED": "1", "QEMU_CPU": _CPU, "QEMU_UNAME": _KERNEL}
        set_env = " ".join(f"{name}={value}" for name, value in environment.items())
        super().__init__(
            folder,
            options=["AllowUsers pi", f"ChrootDirectory {_ROOT}", f"SetEnv {set_env}"],
            prepare="\n".join(map(shlex.join, _mounts(rootfs, disk))),
            address=address,
            network=network,
        )

    def device(self, name: str = "pi") -> Device:
        """See `LoopbackBoard.device`."""
        return dataclasses.replace(
            super().device(name),
            user="pi",
            python="/usr/bin/python3",
            workdir="edgesmith",
            lease_dir=LEASE_DIR,
        )

    def inside(self, path: str) -> Path:
        """A path of the board, as this machine reaches it while the board runs."""
        return Path(f"/proc/{self._listener}/root{_ROOT}", path.lstrip("/"))

    @property
    def _listener(self) -> int:
        if self._process is None:
            raise RuntimeError("the board is not started")
        return children(self._process.pid, "sshd")[0]

    def _unshare(self) -> list[str]:
        # --kill-child and a pid namespace: with the one process that was started, all of the board goes.
        return [
            *("unshare", "--mount", "--propagation", "private", "--uts", "--pid", "--fork", "--kill-child"),
            "--mount-proc",
        ]

    def _connections(self, started: int) -> list[int]:
        return children(self._listener, "sshd")


def _mounts(rootfs: Path, disk: str) -> list[list[str]]:
    """Commands that lay out the board in the mount namespace of its own that they run in."""
    facts = rootfs / "usr/share/edgesmith-board"
    overlay = f"lowerdir={rootfs},upperdir=/media/upper,workdir=/media/work"
    shared_memory = f"{_ROOT}/dev/shm"  # noqa: S108 - the board's own
    device_nodes = ("null", "zero", "full", "random", "urandom", "tty")
    return [
        ["hostname", "raspberrypi"],
        ["mount", "-t", "tmpfs", "-o", f"size={disk},mode=755", "tmpfs", "/media"],
        ["mkdir", "/media/upper", "/media/work"],
        ["mount", "-t", "overlay", "-o", overlay, "overlay", _ROOT],
        ["mount", "-t", "proc", "proc", f"{_ROOT}/proc"],
        ["mount", "--bind", str(facts / "cpuinfo"), f"{_ROOT}/proc/cpuinfo"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{_ROOT}/dev"],
        *(["touch", f"{_ROOT}/dev/{node}"] for node in device_nodes),
        *(["mount", "--bind", f"/dev/{node}", f"{_ROOT}/dev/{node}"] for node in device_nodes),
        ["mkdir", shared_memory],
        ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", shared_memory],
        ["ln", "-s", "/proc/self/fd", f"{_ROOT}/dev/fd"],
        # sshd, which is outside the chroot, then knows the board's users; none is made on this machine.
        *(["mount", "--bind", f"{_ROOT}/etc/{name}", f"/etc/{name}"] for name in ("passwd", "group", "shadow")),
    ]


def _script(name: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(_HERE / name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout
