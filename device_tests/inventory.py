"""`devices.yaml`: the boards, how each is reached, and which host key it must show. No secrets."""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from edgesmith import yaml_lines
from edgesmith.errors import ConfigError
from edgesmith.types import LEASE_DIR, Device

LOCAL = "local"
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_SECRETS = re.compile(r"pass(word|wd|phrase)|secret|token|private_?key", re.IGNORECASE)


def _below_login_folder(value: object) -> object:
    """`~/x` as `x`: programs start in the login folder, and no shell is there to expand the tilde."""
    return value[2:] if isinstance(value, str) and value.startswith("~/") else value


RemotePath = Annotated[str, BeforeValidator(_below_login_folder), Field(min_length=1)]


class Board(BaseModel):
    """One entry of `devices:`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, description="Address, or a Host alias of ~/.ssh/config.")
    port: int = Field(default=22, ge=1, le=65535, description="22 leaves it to ~/.ssh/config.")
    user: str = Field(default="", description="Empty leaves it to ~/.ssh/config, else your own name.")
    identity_file: Path | None = Field(default=None, description="Private key, by path; default: as ssh finds it.")
    known_hosts: Path | None = Field(default=None, description="Default: as ssh finds it.")
    host_key: str = Field(default="", description="Pinned fingerprint, SHA256:...; then known_hosts is not asked.")
    python: RemotePath = Field(default="python3", description="Interpreter on the board.")
    workdir: RemotePath = Field(default=".cache/edgesmith", description="Our folder on the board.")
    releases: RemotePath = Field(default=".local/share/edgesmith/releases", description="Where `deploy` puts models.")
    jump: str = Field(default="", description="By way of this device of the file, or user@host:port.")
    power: tuple[str, ...] = Field(default=(), description="Command of this machine, a list, that power-cycles it.")
    reboot: tuple[str, ...] = Field(default=(), description="Command of the board, a list: [sudo, -n, reboot].")
    lease_dir: str = Field(default=LEASE_DIR, pattern="^/", description="Where its lease lies; the same for all users.")
    board: str = Field(default="auto", description="Profile in targets/boards, or auto.")
    labels: tuple[str, ...] = ()
    targets: tuple[str, ...] = Field(default=(), description="Default: whatever runs there.")

    @field_validator("host_key")
    @classmethod
    def _is_fingerprint(cls, value: str) -> str:
        if value and not _FINGERPRINT.fullmatch(value):
            raise ValueError("must be a fingerprint as `ssh-keygen -l` prints it: SHA256: and 43 characters")
        return value


class Devices(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: dict[str, Board]


class Inventory:
    """The boards we know, by name. "local" is this machine and needs no entry.

    Attributes:
        path: the file; None where there is none.
    """

    def __init__(self, document: yaml_lines.Document | None) -> None:
        self.path = None if document is None else document.path
        self._document = document
        self._boards = {} if document is None else document.check(Devices).devices

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
        board = self._boards[name]
        return Device(
            name=name,
            transport="ssh",
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
            labels=board.labels,
            targets=board.targets,
        )

    def _here(self, path: Path | None) -> Path | None:
        """A path of the file as seen from here."""
        if path is None or self.path is None:
            return path
        return self.path.resolve().parent / path.expanduser()

    def _unknown(self, name: str) -> ConfigError:
        where = "there is no devices.yaml" if self._document is None else f"{self._document.where(['devices'])}"
        close = difflib.get_close_matches(name, self.names, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known devices: {', '.join(self.names)}."
        return ConfigError(
            f"{where}: no device '{name}'; {hint}",
            next_step=f"Add it to devices.yaml: `devices: {{{name}: {{host: ADDRESS, user: NAME}}}}`.",
        )


def find_inventory(config: Path | None) -> Path | None:
    """The inventory file: beside the config, else the user's own; None where neither is there."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    beside = [] if config is None else [config.resolve().parent / "devices.yaml"]
    return next((path for path in [*beside, home / "edgesmith" / "devices.yaml"] if path.is_file()), None)


def load_inventory(path: Path | None) -> Inventory:
    """Reads and checks an inventory; None gives one that knows only "local".

    Raises:
        ConfigError: not readable, an unknown key, a wrong value, or a secret; names file and line.
    """
    if path is None:
        return Inventory(None)
    document = yaml_lines.read(path, what="inventory", hint="It is a file `devices.yaml` with a key `devices:`.")
    _refuse_secrets(document)
    inventory = Inventory(document)
    if LOCAL in inventory.names[1:]:
        raise ConfigError(f"{document.where(['devices', LOCAL])}: 'local' is this machine and takes no entry.")
    return inventory


def _refuse_secrets(document: yaml_lines.Document) -> None:
    boards: Any = document.value.get("devices")
    for name, board in boards.items() if isinstance(boards, dict) else ():
        for key in board if isinstance(board, dict) else ():
            if _SECRETS.search(str(key)):
                raise ConfigError(
                    f"{document.where(['devices', name, key])}: '{key}' does not belong here: "
                    "this file is for version control, and boards are reached with keys, never passwords.",
                    next_step="Put your public key on the board (`ssh-copy-id USER@HOST`) and remove this line; "
                    "`identity_file:` names a key by its path.",
                )
