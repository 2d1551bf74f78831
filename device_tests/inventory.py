"""`devices.yaml`: the boards, how each is reached, and which host key it must show. No secrets."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from device_tests.inventory_fields import (
    Command,
    Fingerprint,
    Host,
    LocalPath,
    Name,
    Names,
    RemoteFolder,
    RemotePath,
    check_name,
    parse_address,
)
from edgesmith import yaml_lines
from edgesmith.errors import ConfigError
from edgesmith.types import LEASE_DIR, Device
from targets import board_profiles

LOCAL = "local"
_SECRETS = re.compile(r"pass(word|wd|phrase)|secret|token|private_?key", re.IGNORECASE)
_SECRET_VALUES = re.compile(r"PRIVATE KEY-----|://[^/\s:@]*:[^/\s@]+@")
_OF_A_LINK = ("port", "user", "identity_file", "known_hosts", "host_key", "jump", "power", "reboot")


class Board(BaseModel):
    """One entry of `devices:`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Host = Field(default="", description="Address, or a Host alias of ~/.ssh/config.")
    port: int = Field(default=22, ge=1, le=65535, description="22 leaves it to ~/.ssh/config.")
    user: Host = Field(default="", description="Empty leaves it to ~/.ssh/config, else your own name.")
    identity_file: LocalPath | None = Field(default=None, description="Private key, by path; default: as ssh finds it.")
    known_hosts: LocalPath | None = Field(default=None, description="Default: as ssh finds it.")
    host_key: Fingerprint = Field(default="", description="Pinned, SHA256:...; then known_hosts is not asked.")
    jump: str = Field(default="", description="By way of this device of the file, or user@host:port.")
    python: RemotePath = Field(default="python3", description="Interpreter on the board.")
    workdir: RemoteFolder = Field(default=".cache/edgesmith", description="Our folder on the board.")
    releases: RemoteFolder = Field(default=".local/share/edgesmith/releases", description="Where `deploy` puts models.")
    lease_dir: RemoteFolder = Field(default=LEASE_DIR, description="Where its lease lies; the same for all its users.")
    power: Command = Field(default=(), description="Command of this machine, a list, that power-cycles it.")
    reboot: Command = Field(default=(), description="Command of the board, a list: [sudo, -n, reboot].")
    fake: LocalPath | None = Field(default=None, description="Script of a fake board, instead of a host.")
    board: Name = Field(default="auto", description="Profile in targets/boards, or auto.")
    labels: Names = ()
    targets: Names = Field(default=(), description="Default: whatever runs there.")

    @field_validator("lease_dir")
    @classmethod
    def _is_for_all(cls, value: str) -> str:
        if value != LEASE_DIR and not value.startswith("/"):
            raise ValueError("must be an absolute path: all who use the board must meet there")
        return value

    @field_validator("board")
    @classmethod
    def _is_profile(cls, value: str) -> str:
        if value == "auto" or value in board_profiles.names():
            return value
        close = difflib.get_close_matches(value, board_profiles.names(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(board_profiles.names())}"
        raise ValueError(f"is neither a board profile nor `auto`; {hint}")

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if self.fake is None and not self.host:
            raise ValueError("needs `host:`, an address or a Host alias of ~/.ssh/config (or `fake:`, a script)")
        if self.fake is not None and (more := [key for key in ("host", *_OF_A_LINK) if key in self.model_fields_set]):
            raise ValueError(f"a fake board is a script and has no link: remove {', '.join(more)}")
        return self


class Devices(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: dict[str, Board]

    @field_validator("devices", mode="before")
    @classmethod
    def _none_yet(cls, value: object) -> object:
        return {} if value is None else value


class Inventory:
    """The boards we know, by name. "local" is this machine and needs no entry.

    Attributes:
        path: the file; None where there is none.
    """

    def __init__(self, document: yaml_lines.Document | None) -> None:
        self.path = None if document is None else document.path
        self._document = document
        if document is not None:
            _refuse_secrets(document)
            _refuse_names(document)
        self._boards = {} if document is None else document.check(Devices).devices
        for name in self._boards:
            self._check_jumps(name)

    @property
    def boards(self) -> Mapping[str, Board]:
        """The entries as they are written."""
        return self._boards

    @property
    def names(self) -> tuple[str, ...]:
        """All names, "local" first."""
        return (LOCAL, *sorted(self._boards))

    def get(self, name: str) -> Device:
        """The device of that name.

        Raises:
            ConfigError: not in the inventory; suggests the closest name.
        """
        if name == LOCAL:
            lease_dir = os.environ.get("EDGESMITH_LEASE_DIR", LEASE_DIR)
            return Device(name=LOCAL, transport="local", python=sys.executable, lease_dir=lease_dir)
        if name not in self._boards:
            raise self._unknown(name)
        return self.device(name, self._boards[name])

    def device(self, name: str, board: Board) -> Device:
        """What an entry means: one of this file, or one that may become part of it."""
        return Device(
            name=name,
            transport="ssh" if board.fake is None else "fake",
            board=board.board,
            host=board.host,
            port=board.port,
            user=board.user,
            identity_file=self._here(board.identity_file),
            known_hosts=self._here(board.known_hosts),
            host_key=board.host_key,
            python=board.python,
            workdir=board.workdir,
            releases=board.releases,
            jump=self.get(board.jump) if board.jump in self._boards else board.jump,
            power=board.power,
            reboot=board.reboot,
            lease_dir=board.lease_dir,
            script=self._here(board.fake),
            labels=board.labels,
            targets=board.targets,
        )

    def where(self, *keys: str) -> str:
        """`file:line` of an entry or one of its keys, for messages."""
        return "devices.yaml" if self._document is None else self._document.where(["devices", *keys])

    def check_jump(self, jump: str) -> None:
        """Whether a board can be reached by way of `jump`.

        Raises:
            ValueError: it is this machine, a fake board, or no address.
        """
        if jump == LOCAL:
            raise ValueError("'local' is this machine: boards are reached from it anyway")
        if jump not in self._boards:
            parse_address(jump)
        elif self._boards[jump].fake is not None:
            raise ValueError(f"'{jump}' is a fake board: nothing can be reached by way of it")

    def _check_jumps(self, name: str) -> None:
        """Every way ends at a host that is reached directly."""
        way = [name]
        while jump := self._boards[way[-1]].jump:
            where = self.where(way[-1], "jump")
            try:
                self.check_jump(jump)
            except ValueError as error:
                raise ConfigError(f"{where}: 'devices.{way[-1]}.jump': {error} (it is {jump!r}).") from None
            if jump in way:
                loop = " -> ".join([*way[way.index(jump) :], jump])
                raise ConfigError(f"{where}: 'jump' leads round in a circle: {loop}.")
            if jump not in self._boards:
                return
            way.append(jump)

    def _here(self, path: Path | None) -> Path | None:
        """A path of the file as seen from here."""
        if path is None or self.path is None:
            return path
        return self.path.resolve().parent / path.expanduser()

    def _unknown(self, name: str) -> ConfigError:
        where = "there is no devices.yaml" if self._document is None else f"{self._document.where(['devices'])}"
        close = difflib.get_close_matches(name, self.names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known devices: {', '.join(self.names)}."
        try:
            shown = check_name(name)
        except ValueError:
            shown = "NAME"
        return ConfigError(
            f"{where}: no device {_quoted(name)}; {hint}",
            next_step=f"Add it: `edgesmith devices add {shown} USER@ADDRESS`.",
        )


def find_inventory(config: Path | None) -> Path | None:
    """The inventory file: beside the config (without one, here), else the user's own; None where neither is there."""
    folder = Path.cwd() if config is None else config.resolve().parent
    return next((path for path in (folder / "devices.yaml", own_inventory()) if path.is_file()), None)


def own_inventory() -> Path:
    """Where the user's own inventory is, or would be."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgesmith" / "devices.yaml"


def load_inventory(path: Path | None) -> Inventory:
    """Reads and checks an inventory; None gives one that knows only "local".

    Raises:
        ConfigError: not readable, an unknown key, a wrong value, or a secret; names file and line.
    """
    if path is None:
        return Inventory(None)
    return Inventory(
        yaml_lines.read(path, what="inventory", hint="`edgesmith devices add NAME USER@ADDRESS` writes it.")
    )


def _refuse_names(document: yaml_lines.Document) -> None:
    boards: Any = document.value.get("devices")
    for name in boards if isinstance(boards, dict) else ():
        where = document.where(["devices", str(name)])
        if name == LOCAL:
            raise ConfigError(f"{where}: 'local' is this machine and takes no entry.")
        if not isinstance(name, str):
            raise ConfigError(
                f"{where}: YAML reads the device name as {type(name).__name__} {name!r}.",
                next_step="Put the name in quotes.",
            )
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError(f"{where}: the device name {_quoted(name)} {error}.") from None


def _refuse_secrets(document: yaml_lines.Document) -> None:
    for name, key, value in _entries(document):
        refuse_secret(document.where(["devices", name, key]), str(key), value)


def refuse_secret(where: str, key: str, value: object) -> None:
    """An inventory is for version control: what looks like a password or a key does not get in.

    Raises:
        ConfigError: it does; the value is not repeated.
    """
    if _SECRETS.search(key) or any(_SECRET_VALUES.search(text) for text in _texts(value)):
        raise ConfigError(
            f"{where}: '{key}' does not belong here: "
            "this file is for version control, and boards are reached with keys, never passwords.",
            next_step="Put your public key on the board (`ssh-copy-id USER@HOST`) and remove this line; "
            "`identity_file:` names a key by its path; a `power:` command reads what it needs from a file of its own.",
        )


def _entries(document: yaml_lines.Document) -> Iterator[tuple[Any, Any, object]]:
    boards: Any = document.value.get("devices")
    for name, board in boards.items() if isinstance(boards, dict) else ():
        for key, value in board.items() if isinstance(board, dict) else ():
            yield name, key, value


def _texts(value: object) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            yield one


def _quoted(name: str) -> str:
    """For messages: a terminal sees no control character."""
    return f"'{name}'" if name.isprintable() else repr(name)
