"""The three models of tests/data/agent as artifacts; `make_models.py` there wrote them."""

from __future__ import annotations

from pathlib import Path

from edgesmith.files import sha256_file
from edgesmith.types import Artifact, Signature

DATA = Path(__file__).parent / "data" / "agent"


def artifact(file: str, kind: str) -> Artifact:
    """The record of one of them; only what a board looks at is true."""
    path = DATA / file
    return Artifact(
        target={"onnx": "onnxruntime"}.get(kind, kind),
        path=path,
        format=kind,
        precision="float32",
        sha256=sha256_file(path),
        signature=Signature(inputs=(), outputs=()),
        toolchain={},
        made_from="0" * 64,
        size_bytes=path.stat().st_size,
        gzip_bytes=0,
        sparsity=0.0,
    )
