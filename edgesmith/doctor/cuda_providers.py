"""Which providers of CUDA a board has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_tests.deadline import Deadline
from device_tests.session import BoardSession

_ASK_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One of them.

    Attributes:
        missing: why it is not there; empty where it is.
        error: why it does not work; empty where it does.
        origin: what does the work: a package and its version, or a library's path.
        cuda: version of CUDA that it was built for.
        driver: newest CUDA that the board's driver speaks; None where not told.
        compute: capability of the GPU.
        graphs: it records CUDA graphs.
        free_bytes: of the GPU's memory.
    """

    name: str
    missing: str = ""
    error: str = ""
    origin: str = ""
    cuda: str = ""
    driver: str | None = None
    compute: str = ""
    graphs: bool = False
    free_bytes: int | None = None

    @property
    def works(self) -> bool:
        """It is there and finds the GPU."""
        return not self.missing and not self.error

    def __str__(self) -> str:
        if self.missing:
            return f"not there: {self.missing}"
        if self.error:
            return f"does not work: {self.error}"
        driver = f", driver for {self.driver}" if self.driver else ""
        return f"CUDA {self.cuda}{driver}, compute capability {self.compute} ({self.origin})"


def providers(session: BoardSession) -> tuple[Provider, ...]:
    """Every provider that there is, in the order in which the board's runner takes them.

    Raises:
        BoardError, ConnectionLost, DeadlineExceeded: as `BoardSession.ask`.
    """
    told = session.ask("cuda", {}, Deadline.after(_ASK_S))
    return tuple(_provider(one) for one in told["providers"])


def _provider(told: Mapping[str, Any]) -> Provider:
    found = told["found"]
    if found is None:
        return Provider(name=told["name"], missing=told["missing"] or "", error=told["error"] or "")
    return Provider(
        name=told["name"],
        origin=found["origin"],
        cuda=found["version"],
        driver=found["driver"],
        compute=found["compute"],
        graphs=found["graphs"],
        free_bytes=found["memory"]["free_bytes"],
    )
