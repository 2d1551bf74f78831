"""`edgesmith devices engines`: what a board keeps, which of it is stale, and what is removed, over SSH."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from device_tests.agent.tensorrt import identity
from device_tests.agent.tensorrt.engines import Engines
from device_tests.kept_engines import KeptEngines, chosen, list_engines
from device_tests.lease import owner
from device_tests.loopback import InProcessBoard
from device_tests.session import BoardSession
from edgesmith.errors import ConfigError
from edgesmith.progress import Silent
from edgesmith.types import LeaseRequest
from tests.devices_desk import Devices, entry, write

NOW = "2026-11-22T12:00:00+00:00"
KEYS = ("ab" * 32, "ac" * 32, "b0" * 32)
Kept = Callable[..., str]


def told(key: str, **identity: Any) -> dict[str, Any]:
    found = {"onnx_sha256": "c" * 64, "tensorrt": "10.3.0", "compute": "8.7", "precision": ["fp16"], "dla_core": None}
    return {
        "key": key,
        "size_bytes": 1000,
        "sha256": "s",
        "identity": {**found, **identity},
        "built_at": "2026-11-22T10:30:00+00:00",
        "stale": None,
    }


def listed(engines: list[dict[str, Any]], runtimes: dict[str, str] | None = None, utc: str = NOW) -> KeptEngines:
    answer = {"engines": engines, "size_bytes": 1000 * len(engines), "free_bytes": 5, "utc": utc}
    session: Any = SimpleNamespace(
        info=SimpleNamespace(runtimes={"tensorrt": "10.3.0", "compute": "8.7"} if runtimes is None else runtimes),
        device=SimpleNamespace(name="orin"),
        ask=lambda *_: answer,
    )
    return list_engines(session)


def test_an_engine_is_told_in_the_field_s_words():
    dla = told(KEYS[1], precision=["fp16", "int8"], dla_core=1)
    plain, typed = told(KEYS[0], precision=[]), told(KEYS[2], tensorrt="11.4.1", precision=[])
    found = listed([plain, dla, typed]).engines
    assert [one.computes for one in found] == ["float32", "fp16+int8, DLA core 1", "as in the file"]
    assert (found[0].network, found[0].age_s, found[0].stale) == ("onnx cccccccccccc", 5400.0, "")
    # A clock that was put back tells no age.
    assert listed([plain], utc="2020-01-01T00:00:00+00:00").engines[0].age_s is None


def test_one_of_another_gpu_is_stale():
    """A card or a disk moves from board to board."""
    (found,) = listed([told(KEYS[0], compute="7.2")]).engines
    assert found.stale == "built for compute capability 7.2, 8.7 is here"


def test_the_beginning_of_a_key_is_enough_where_it_fits_one():
    kept = listed([told(key) for key in KEYS])
    assert [one.key for one in chosen(kept, ["b0", "ab"])] == [KEYS[0], KEYS[2]]
    assert chosen(kept) == ()
    assert chosen(kept, ["ab"], everything=True) == kept.engines
    with pytest.raises(ConfigError, match="this key fits 2 engines: abababababab, acacacacacac"):
        chosen(kept, ["a"])
    for key in ("ff", ""):
        with pytest.raises(ConfigError, match="fits no engine"):
            chosen(kept, [key])


def test_nothing_counts_as_stale_where_the_board_tells_of_no_tensorrt():
    kept = listed([told(KEYS[0])], runtimes={})
    with pytest.raises(ConfigError, match="which engines are stale is not known") as caught:
        chosen(kept, stale=True)
    assert "devices probe orin" in caught.value.next_step


# Over the command line, on a board over SSH; its Python has no TensorRT.


@pytest.fixture
def kept(devices: Devices, pi: InProcessBoard) -> Kept:
    """Puts an engine on the board; its key."""
    write(pi=entry(pi))
    store = Engines(str(pi.home / pi.device().workdir / "engines"))

    def put(onnx: str, plan: bytes = b"plan") -> str:
        wanted = identity.identity({"onnx_sha256": onnx, "precision": ["int8"]}, "10.3.0", "8.7", "Orin")
        key = identity.key(wanted)
        store.store(store.part(key), plan, {"key": key, "identity": wanted, "built_at": NOW})
        return key

    return put


def test_a_board_without_any_says_so(devices: Devices, kept: Kept):
    done = devices("engines", "pi")
    assert done.code == 0, done.err
    assert done.out.startswith("pi keeps no engines; ")
    assert devices("engines", "pi", "--json").json["engines"] == []


def test_they_are_listed_by_their_network_and_removed(devices: Devices, kept: Kept):
    first, second = kept("d" * 64), kept("e" * 64, b"longer plan")
    run = Path("runs/20261122-1")
    run.mkdir(parents=True)
    row = {"artifact": {"sha256": "d" * 64}, "variant": "compressed"}
    (run / "result.json").write_text(json.dumps({"model": "keras 3 /home/me/net.keras", "results": [row]}))

    done = devices("engines", "pi")
    assert done.code == 0, done.err
    head, *rows, last = done.out.splitlines()
    assert head.split() == ["key", "network", "TensorRT", "precision", "size", "built"]
    lines = {line.split()[0]: line for line in rows}
    assert "net.keras compressed  10.3.0    int8" in lines[first[:12]]
    assert "onnx eeeeeeeeeeee" in lines[second[:12]]
    assert last.startswith("pi keeps 2 engines, ")

    assert devices("engines", "pi", "--remove", "zz").code == 2
    done = devices("engines", "pi", "--remove", first[:8])
    assert done.code == 0, done.err
    assert done.out.startswith(f"removed {first[:12]} (net.keras compressed)\npi: 1 engine removed, ")
    told = devices("engines", "pi", "--remove-all", "--json").json
    assert (told["removed"], told["engines"], told["size_bytes"]) == ([second], [], 0)
    assert told["freed_bytes"] > len(b"longer plan")
    assert "nothing was removed" in devices("engines", "pi", "--remove-all").out


def test_nothing_is_removed_under_somebody_s_run(devices: Devices, kept: Kept, pi: InProcessBoard, tmp_path: Path):
    kept("d" * 64)
    request = LeaseRequest(owner=f"not {owner()}", run_id="theirs", token="t")
    with BoardSession(pi.device(), local_root=tmp_path / "s", progress=Silent(), lease=request, greet=False):
        done = devices("engines", "pi", "--remove-all", "--wait", "1s")
    assert done.code == 3
    assert "theirs" in done.err
    assert len(devices("engines", "pi", "--json").json["engines"]) == 1
