"""The lock file: everything pinned with hashes, and no index named."""

from __future__ import annotations

import re
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


def test_every_requirement_is_pinned_and_hashed():
    text = LOCK.read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text)
    assert len(blocks) > 50
    for block in blocks:
        head = block.splitlines()[0]
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]+\])?==", head), head
        assert "--hash=sha256:" in block, head


def test_no_index_host_is_named():
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    assert "--extra-index-url" not in text
