"""What the fields of `devices.yaml` may hold: names, addresses, paths and commands that are safe wherever they go.

Names become parts of file names, addresses reach programs of ~/.ssh/config (`Match exec` and ProxyCommand hand `%h` to
a shell), paths reach the board. What could mean something else there is refused where it enters.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
# As OpenSSH itself does since 9.6, after CVE-2023-51385.
_SHELL = frozenset("'`\"$\\;&<>|(){}*?[]!#~")


def check_name(value: str) -> str:
    """A device or label.

    Raises:
        ValueError: it could leave a folder, or does not fit into a file name.
    """
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 63 of A-Z a-z 0-9 . _ -, and begin with a letter or digit")
    return value


def check_host(value: str) -> str:
    """An address, or a Host alias of ~/.ssh/config.

    Raises:
        ValueError: a program could take it for something else.
    """
    if value.startswith("-"):
        raise ValueError("must not begin with '-': programs would take it for an option")
    if bad := sorted({c for c in value if c in _SHELL or c.isspace() or not c.isprintable()}):
        raise ValueError(f"must not hold {', '.join(map(repr, bad))}: ~/.ssh/config may hand it to a shell")
    return value


def check_plain(value: str) -> str:
    """Text on one line.

    Raises:
        ValueError: it holds control characters.
    """
    if bad := sorted({c for c in value if ord(c) < 32 or ord(c) == 127}):
        raise ValueError(f"must not hold control characters such as {bad[0]!r}")
    return value


def check_remote(value: str) -> str:
    """A path on the board.

    Raises:
        ValueError: it leads elsewhere, or a program could take it for something else.
    """
    check_plain(value)
    if value.startswith("-"):
        raise ValueError("must not begin with '-': programs would take it for an option")
    if value.startswith("~"):
        raise ValueError("must be relative to the login folder, or absolute: no shell is there to expand '~'")
    if ".." in PurePosixPath(value).parts:
        raise ValueError("must not hold '..': name the folder itself")
    return value


def check_folder(value: str) -> str:
    """A folder on the board that is ours.

    Raises:
        ValueError: as `check_remote`, or it is the login folder or the root.
    """
    if PurePosixPath(check_remote(value)) in (PurePosixPath("."), PurePosixPath("/")):
        raise ValueError("must be a folder of its own: what is in it may be removed")
    return value


def check_fingerprint(value: str) -> str:
    """A pinned host key.

    Raises:
        ValueError: it is something else.
    """
    if value and not _FINGERPRINT.fullmatch(value):
        raise ValueError("must be a fingerprint as `ssh-keygen -l` prints it: SHA256: and 43 characters")
    return value


def parse_address(text: str) -> tuple[str, str, int | None]:
    """User (or ""), host and port (or None) of "user@host:port"; IPv6 with a port as "[fe80::1]:22".

    Raises:
        ValueError: it is no such thing.
    """
    user, at, rest = text.rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, closed, after = rest[1:].partition("]")
        port = after[1:]
        if not closed or (after and not (after.startswith(":") and port)):
            raise ValueError("must be user@host:port; IPv6 with a port is written [fe80::1]:22")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
        port = port or "?"
    if not host or (at and not user):
        raise ValueError("must be user@host:port; user and port may be left out")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError("its port must be a number from 1 to 65535")
    return check_host(user), check_host(host), int(port) if port else None


def _below_login_folder(value: object) -> object:
    """`~/x` as `x`: programs start in the login folder, and no shell is there to expand the tilde."""
    return value[2:] or "." if isinstance(value, str) and value.startswith("~/") else value


def _plain_path(value: object) -> object:
    return check_plain(value) if isinstance(value, str) else value


def _list_of_words(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("must be a list")  # noqa: TRY004 - pydantic tells ValueErrors
    return value


def _command(value: object) -> object:
    if isinstance(value, str):
        example = ", ".join(value.split()[:4]) or "sudo, -n, reboot"
        raise ValueError(  # noqa: TRY004
            f"must be a list, one argument each, because no shell is there: [{check_plain(example)}]"
        )
    return value


def _runs_something(value: tuple[str, ...]) -> tuple[str, ...]:
    if value and not value[0]:
        raise ValueError("must begin with a program")
    return value


Name = Annotated[str, AfterValidator(check_name)]
Host = Annotated[str, AfterValidator(check_host)]
Fingerprint = Annotated[str, AfterValidator(check_fingerprint)]
LocalPath = Annotated[Path, BeforeValidator(_plain_path)]
RemotePath = Annotated[str, BeforeValidator(_below_login_folder), Field(min_length=1), AfterValidator(check_remote)]
RemoteFolder = Annotated[str, BeforeValidator(_below_login_folder), Field(min_length=1), AfterValidator(check_folder)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_list_of_words)]
Command = Annotated[
    tuple[Annotated[str, AfterValidator(check_plain)], ...],
    BeforeValidator(_command),
    AfterValidator(_runs_something),
]
