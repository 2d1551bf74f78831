"""A real OpenSSH sshd on this machine as an ordinary process: a board for tests, with keys of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from device_tests.loopback import LOOPBACK, BoardKeys
from edgesmith.types import Device

SSHD = Path("/usr/sbin/sshd")  # sshd insists on being called by its absolute path
_READY_S = 10.0


def why_no_sshd() -> str:
    """Why no real sshd can be started here; empty where it can."""
    missing = [str(tool) for tool in (SSHD, "setpriv") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} missing (Debian: openssh-server, util-linux)" if missing else ""


class SshdBoard:
    """A real sshd as an ordinary process. Logs in as whoever runs the test. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str] = (),
        prepare: str = "",
        address: str = LOOPBACK,
        network: str = "",
    ) -> None:
        """Writes keys and configuration.

        Args:
            folder: for keys and the login folder; the login user must be able to enter it.
            options: further lines of sshd_config; they win.
            prepare: shell run before sshd in a mount namespace of its own, as root: a full disk, a read-only home.
            address: where it listens.
            network: name of the network namespace that it runs in, which has that address; empty: the caller's.
        """
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.keys = BoardKeys(folder)
        self.port = _free_port()
        self._options = options
        self._prepare = prepare
        self._address = address
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def fingerprint(self) -> str:
        """See `LoopbackBoard.fingerprint`."""
        return self.keys.fingerprint

    def device(self, name: str = "board") -> Device:
        """See `LoopbackBoard.device`."""
        # Absolute: sshd starts programs in the user's own folder, whatever HOME says.
        return dataclasses.replace(
            self.keys.device(name, self.port, getpass.getuser(), self._address), workdir=f"{self.home}/edgesmith"
        )

    def drop(self) -> None:
        """See `LoopbackBoard.drop`."""
        if self._process is not None:
            for pid in self._connections(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def new_host_key(self) -> None:
        """See `LoopbackBoard.new_host_key`."""
        self.stop()
        self.keys.make(self.keys.host)
        self.start()

    def __enter__(self) -> Self:
        self.keys.trust(self.port, self._address)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listens again, at the same address."""
        folder = self.keys.folder
        config = folder / "sshd_config"
        named = {line.split()[0] for line in self._options}
        ours = [line for line in self._lines() if line.split()[0] not in named]
        config.write_text("\n".join([*self._options, *ours]) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
        command = [str(SSHD), "-D", "-f", str(config), "-E", str(folder / "sshd.log")]
        if self._prepare:
            command = [*self._unshare(), "sh", "-ec", f"{self._prepare}\nexec {shlex.join(command)}"]
        if self._network:
            command = ["ip", "netns", "exec", self._network, *command]
        self._process = subprocess.Popen(
            # It dies with the thread that started it: nothing stays behind a killed test run.
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._wait_for_banner()

    def stop(self) -> str:
        """The daemon and its connections are gone at once. What ran for them is told no more than the end of its stdin.

        Returns:
            What sshd, or what prepared for it, had to complain of.
        """
        if self._process is None:
            return ""
        for pid in [*children(self._process.pid, "sshd"), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, complaint = self._process.communicate(timeout=_READY_S)
        self._process = None
        return complaint.decode("utf-8", "replace")

    def _unshare(self) -> list[str]:
        """What gives `prepare` namespaces of its own."""
        return ["unshare", "--mount", "--propagation", "private"]

    def _connections(self, started: int) -> list[int]:
        """Pids of the connections, below the process that was started."""
        return children(started, "sshd")

    def _lines(self) -> list[str]:
        return [
            f"ListenAddress {self._address}",
            f"Port {self.port}",
            f"HostKey {self.keys.host}",
            "PidFile none",
            f"AuthorizedKeysFile {self.keys.user}.pub",
            f"AllowUsers {getpass.getuser()}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "UsePAM no",  # a non-root sshd cannot use PAM
            "StrictModes no",  # the keys lie below a world-writable temporary folder
            "UseDNS no",
            "PrintMotd no",
            "MaxStartups 100:30:200",  # the default drops more than 10 parallel logins at random
            "MaxSessions 50",
            f"SetEnv HOME={self.home}",  # else the user's own shell start-up files run
            "Subsystem sftp internal-sftp",
        ]

    def _wait_for_banner(self) -> None:
        """Ready is the banner read: a connect alone can succeed before."""
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self._address, self.port), 1) as link:
                link.settimeout(_READY_S)
                if link.recv(4) == b"SSH-":
                    return
            time.sleep(0.02)
        said = self.stop()
        log = self.keys.folder / "sshd.log"
        raise RuntimeError(f"sshd did not start: {said}{log.read_text() if log.exists() else ''}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def children(pid: int, name: str) -> list[int]:
    """Pids below `pid` whose program's name starts with `name`."""
    below: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                program, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
                below.setdefault(int(rest.split()[1]), []).append(int(folder.name))
                names[int(folder.name)] = program
    found: list[int] = []
    todo = [pid]
    while todo:
        todo += (children := below.get(todo.pop(), []))
        found += [child for child in children if names[child].startswith(name)]
    return found
