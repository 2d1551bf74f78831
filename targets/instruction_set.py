"""What of a board's processor decides how an artifact is made."""

from __future__ import annotations

from edgesmith.types import BoardInfo

NO_VNNI = "-no-vnni"
"""Ends the instruction set of an x86-64 processor whose int8 products are summed in saturating int16."""

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def instruction_set(info: BoardInfo) -> str:
    """What `CompileRequest.board_isa` is for a board: "aarch64", "x86_64", "x86_64-no-vnni".

    A board that does not tell its processor's features is taken to have what its kind usually has.
    """
    lacks = info.machine == "x86_64" and info.cpu_features and not _VNNI & set(info.cpu_features)
    return info.machine + NO_VNNI if lacks else info.machine


def is_arm(isa: str | None) -> bool:
    """Whether it is an ARM processor."""
    return isa is not None and isa.startswith(("aarch64", "arm"))


def saturates(isa: str | None) -> bool:
    """Whether uint8 x int8 products can saturate: weights then have to keep to 7 bits."""
    return isa is not None and isa.endswith(NO_VNNI)
