"""The packed file `.esm`: a header, bytes, and a hash over both. No code, no pickle.

| bytes | what |
|---|---|
| 8 | magic: 89 45 53 4D 0D 0A 1A 0A ("ESM" in the manner of PNG: a transfer as text breaks it) |
| 2 | version of the format, little-endian as all numbers |
| 4 | length of the header as it is in the file |
| 4 | length of the header when inflated |
| 8 | length of the payload |
| | header: JSON, deflated by zlib |
| | payload: the tensors one after the other, each as long as its header says |
| 32 | SHA-256 of everything before it |

A reader checks the hash and every length before it allocates what a length asks for.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from edgesmith.errors import ModelError
from edgesmith.files import write_bytes

MAGIC = b"\x89ESM\r\n\x1a\n"
VERSION = 1
SUFFIX = ".esm"
MOST_HEADER_BYTES = 64 << 20

_FIXED = struct.Struct("<8sHIIQ")
_HASH_BYTES = 32
_AGAIN = "Copy the file again from where it was made (compare sizes), or pack the model again."


def write(path: Path, header: dict[str, Any], payload: bytes) -> int:
    """Writes a packed file whole or not at all.

    Args:
        path: to write.
        header: JSON.
        payload: what it describes.

    Returns:
        Bytes of the file.

    Raises:
        ModelError: the header is larger than a reader takes.
    """
    plain = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(plain) > MOST_HEADER_BYTES:
        raise ModelError(f"{path}: the model's config is larger than {MOST_HEADER_BYTES >> 20} MB.")
    packed = zlib.compress(plain, 9)
    content = _FIXED.pack(MAGIC, VERSION, len(packed), len(plain), len(payload)) + packed + payload
    whole = content + hashlib.sha256(content).digest()
    write_bytes(path, whole)
    return len(whole)


def read(path: Path) -> tuple[dict[str, Any], memoryview]:
    """Header and payload of a packed file.

    Raises:
        ModelError: not there, no packed file, of a later version, cut off, or changed since it was written.
    """
    try:
        whole = memoryview(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}.", next_step="Check the path and its permissions."
        ) from None
    if bytes(whole[: len(MAGIC)]) != MAGIC:
        raise ModelError(
            f"{path} is no packed model: it does not begin as one.",
            next_step="Pass a file that `edgesmith pack` wrote.",
        )
    if len(whole) < _FIXED.size + _HASH_BYTES:
        raise ModelError(f"{path}: the packed model is truncated after {len(whole)} bytes.", next_step=_AGAIN)
    _, version, packed_bytes, plain_bytes, payload_bytes = _FIXED.unpack(whole[: _FIXED.size])
    if version != VERSION:
        raise ModelError(
            f"{path}: is a packed model of version {version}; this edgesmith reads version {VERSION}.",
            next_step="Unpack it with the edgesmith that wrote it, or install a later one.",
        )
    expected = _FIXED.size + packed_bytes + payload_bytes + _HASH_BYTES
    if len(whole) != expected:
        raise ModelError(
            f"{path}: the packed model has {len(whole)} bytes, and {expected} by its own account.", next_step=_AGAIN
        )
    if hashlib.sha256(whole[:-_HASH_BYTES]).digest() != bytes(whole[-_HASH_BYTES:]):
        raise ModelError(f"{path}: the packed model is damaged (checksum differs).", next_step=_AGAIN)
    end = _FIXED.size + packed_bytes
    return _header(path, whole[_FIXED.size : end], plain_bytes), whole[end:-_HASH_BYTES]


def _header(path: Path, packed: memoryview, plain_bytes: int) -> dict[str, Any]:
    """The header, inflated no further than it says, and never beyond the limit."""
    if plain_bytes > MOST_HEADER_BYTES:
        raise ModelError(
            f"{path}: its header would inflate to {plain_bytes >> 20} MB. No model needs that.", next_step=_AGAIN
        )
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed, plain_bytes + 1)
        value = json.loads(plain) if inflater.eof and len(plain) == plain_bytes else None
    except (zlib.error, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: the header of the packed model is damaged.", next_step=_AGAIN)
    return value
