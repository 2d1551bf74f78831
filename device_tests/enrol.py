"""A new board, or a board with a new host key: shown, compared by a person, tried, and only then written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from device_tests import inventory_edit, ssh_login
from device_tests.deadline import Deadline
from device_tests.inventory import LOCAL, Board, Inventory, find_inventory, own_inventory, refuse_secret
from device_tests.inventory_fields import check_fingerprint, check_name
from device_tests.ssh import Ssh
from device_tests.ssh_loop import ssh_loop
from edgesmith.errors import BoardError, ConfigError
from edgesmith.types import Device

_REACH_S = 30.0
_PYTHON_S = 30.0
_VERSION = "import sys; print('%d.%d.%d' % sys.version_info[:3])"

Ask = Callable[[str], bool]
"""Shows a text that ends in a question; True is yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What was found, and written.

    Attributes:
        path: the inventory file.
        changed: False where the pinned key is the one the board shows: nothing was written.
        python: version of the board's interpreter; None with `python_reason`.
    """

    path: Path
    device: Device
    key: ssh_login.HostKey
    changed: bool
    python: str | None
    python_reason: str | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.device.name,
            "file": str(self.path),
            "address": ssh_login.address(self.device),
            "key_type": self.key.type,
            "host_key": self.key.fingerprint,
            "changed": self.changed,
            "python": self.python,
            "python_reason": self.python_reason,
        }


def place_for_new() -> Path:
    """Where a new board is written: into the inventory in use here, for a second one would hide its boards.

    Where there is none yet: beside the config, else the user's own.
    """
    if (found := find_inventory(None)) is not None:
        return found
    return Path("devices.yaml") if Path("edgesmith.yaml").is_file() else own_inventory()


def enrol(path: Path, name: str, given: Mapping[str, Any], *, fingerprint: str, ask: Ask | None) -> Enrolled:
    """Adds a board to the inventory.

    Args:
        path: the inventory file; made where it is not there.
        name: what the board shall be called.
        given: keys of the entry, as the user gave them.
        fingerprint: the host key must be this; then nobody is asked. Empty: ask.
        ask: a person who can compare; None where there is none.

    Raises:
        ConfigError: a value that cannot be, a name that is taken, a key that nobody confirmed.
        BoardError, ConnectionLost: the host key is another, the login is refused, it cannot be reached.
    """
    known = inventory_edit.open_inventory(path)
    _check_free(known, name)
    given = {**given, "identity_file": _as_written(given["identity_file"], path)} if "identity_file" in given else given
    device = known.device(name, _board(known, given))
    key = _shown(device, fingerprint, ask, _about_new)
    pinned = dataclasses.replace(device, host_key=key.fingerprint)
    python, reason = _try(pinned)
    inventory_edit.add_board(path, name, _board(known, {**given, "host_key": key.fingerprint}))
    return Enrolled(path=path, device=pinned, key=key, changed=True, python=python, python_reason=reason)


def replace_key(known: Inventory, name: str, *, fingerprint: str, ask: Ask | None) -> Enrolled:
    """Pins the key that a known board shows now.

    Raises:
        ConfigError, BoardError, ConnectionLost: as in `enrol`.
    """
    device = known.get(name)
    if device.transport != "ssh" or known.path is None:
        raise ConfigError(f"{name}: has no host key: it is not reached by SSH.")
    key = _shown(device, fingerprint, ask, _about_changed)
    changed = key.fingerprint != device.host_key
    pinned = dataclasses.replace(device, host_key=key.fingerprint)
    python, reason = _try(pinned)
    if changed:
        inventory_edit.set_host_key(known.path, name, key.fingerprint)
    return Enrolled(path=known.path, device=pinned, key=key, changed=changed, python=python, python_reason=reason)


def _check_free(known: Inventory, name: str) -> None:
    if name == LOCAL:
        raise ConfigError("'local' is this machine and takes no entry.")
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(f"the device name {name!r} {error}.") from None
    if name in known.boards:
        raise ConfigError(
            f"{known.where(name)}: '{name}' is there already ({ssh_login.address(known.get(name))}).",
            next_step=f"Was it set up anew? `edgesmith devices add {name} --replace-key`. Anything else is changed in "
            "the file itself; another board needs another name.",
        )


def _board(known: Inventory, given: Mapping[str, Any]) -> Board:
    """The entry, each wrong value told by its option."""
    for key, value in given.items():
        refuse_secret(_option(key), key, value)
    try:
        board = Board.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError("\n".join(_told(one) for one in error.errors())) from None
    if board.jump:
        try:
            known.check_jump(board.jump)
        except ValueError as error:
            raise ConfigError(f"--jump: {error} (it is {board.jump!r}).") from None
    return board


def _as_written(file: Path, inventory: Path) -> str:
    """A path of this machine that means the same in the file: beside it, below the home folder, or absolute."""
    absolute = Path(file).expanduser().absolute()
    for folder, prefix in ((inventory.absolute().parent, ""), (Path.home(), "~/")):
        if absolute.is_relative_to(folder):
            return f"{prefix}{absolute.relative_to(folder)}"
    return str(absolute)


def _told(error: Any) -> str:
    key = next((str(part) for part in error["loc"]), "")
    message = error["msg"].removeprefix("Value error, ")
    return f"{_option(key)}: {message} (it is {error['input']!r})."


def _option(key: str) -> str:
    return {"host": "ADDRESS", "labels": "--label"}.get(key, f"--{key.replace('_', '-')}")


About = Callable[[Device, ssh_login.HostKey], str]


def _shown(device: Device, fingerprint: str, ask: Ask | None, about: About) -> ssh_login.HostKey:
    """The key the host shows, once somebody has answered for it."""
    named = _named(fingerprint)
    until = Deadline.after(_REACH_S)
    key = ssh_loop().call(ssh_login.host_key(device, until, {}), until, f"{device.name}: asking for its host key")
    where = f"{device.name}: {ssh_login.address(device)}"
    if named:
        if key.fingerprint != named:
            raise BoardError(
                f"{where} DOES NOT SHOW THE KEY YOU NAMED. Named: {named}. Shown: {key.type} {key.fingerprint}. "
                "It is another board, or somebody is in between; nothing was written.",
                next_step=f"Compare. {ssh_login.compare_on_board(key.type)}",
            )
        return key
    if device.host_key == key.fingerprint:
        return key
    text = about(device, key)
    if ask is None:
        raise ConfigError(
            f"{text}\nNobody is here to compare it (no terminal), so nothing was written.",
            next_step=f"{ssh_login.compare_on_board(key.type)} If it is the same: `--fingerprint {key.fingerprint}`.",
        )
    if not ask(f"{text}\nCompare it. {ssh_login.compare_on_board(key.type)}\nIs it the same?"):
        raise ConfigError(f"{device.name}: its host key was not confirmed; nothing was written.")
    return key


def _named(fingerprint: str) -> str:
    try:
        return check_fingerprint(fingerprint)
    except ValueError as error:
        raise ConfigError(f"--fingerprint: {error} (it is {fingerprint!r}).") from None


def _about_new(device: Device, key: ssh_login.HostKey) -> str:
    text = f"{device.name}: {ssh_login.address(device)} shows this host key:\n    {key.type} {key.fingerprint}"
    if key.fingerprint in key.known:
        return f"{text}\nIt is the one that known_hosts trusts for it."
    if key.known:
        return (
            f"{text}\nKNOWN_HOSTS TRUSTS ANOTHER ONE FOR IT: {', '.join(key.known)}. "
            "The board was set up anew, or somebody is in between."
        )
    return f"{text}\nNobody has vouched for it yet."


def _about_changed(device: Device, key: ssh_login.HostKey) -> str:
    if not key.known:
        return _about_new(device, key)
    pinned = "Pinned" if device.host_key else "In known_hosts"
    return (
        f"{device.name}: {ssh_login.address(device)}: THE HOST KEY HAS CHANGED.\n"
        f"    {pinned}: {', '.join(key.known)}\n"
        f"    Shown now: {key.fingerprint} ({key.type})\n"
        "It was re-flashed, or somebody is in between: if nobody set this board up anew, do not go on."
    )


def _try(device: Device) -> tuple[str | None, str | None]:
    """Logs in and asks for Python: its version, or why there is none."""
    with Ssh(device, Deadline.after(_REACH_S)) as connection:
        ended = connection.run([device.python, "-c", _VERSION], Deadline.after(_PYTHON_S))
    if ended.exit_status == 0:
        return ended.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2], None
    last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    shown = "".join(sign for sign in last if sign.isprintable())
    return None, f"'{device.python}' does not run there: {shown or f'exit status {ended.exit_status}'}"
