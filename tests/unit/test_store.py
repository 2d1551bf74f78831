"""The store: an entry is whole or absent, and a broken one is made again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgesmith.errors import InfrastructureError
from edgesmith.pipeline.store import Store


def fill(store: Store, key: str) -> None:
    with store.making("step", key) as draft:
        (draft.folder / "file").write_text("content")
        draft.record["fact"] = 1


def test_a_made_entry_is_found(tmp_path: Path):
    store = Store(tmp_path / "store")
    key = store.key("step", {"a": 1})
    assert store.find("step", key) is None
    fill(store, key)
    entry = store.find("step", key)
    assert entry is not None
    assert entry.record == {"fact": 1}
    assert (entry.folder / "file").read_text() == "content"


def test_the_key_depends_on_every_input(tmp_path: Path):
    store = Store(tmp_path)
    keys = {store.key("step", {"a": 1}), store.key("step", {"a": 2}), store.key("other", {"a": 1})}
    assert len(keys) == 3
    assert store.key("step", {"a": 1, "b": 2}) == store.key("step", {"b": 2, "a": 1})


def test_an_interrupted_entry_leaves_nothing(tmp_path: Path):
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.making("step", "k") as draft:
        (draft.folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert store.find("step", "k") is None
    assert list((tmp_path / "step").iterdir()) == []


def test_a_broken_record_counts_as_absent_and_is_replaced(tmp_path: Path):
    store = Store(tmp_path)
    fill(store, "k")
    (store.path("step", "k") / "entry.json").write_text("{")
    assert store.find("step", "k") is None
    fill(store, "k")
    assert store.find("step", "k") is not None


def test_redo_ignores_an_entry_by_label_or_kind(tmp_path: Path):
    fill(Store(tmp_path), "k")
    assert Store(tmp_path, frozenset({"prune"})).find("step", "k", label="prune") is None
    assert Store(tmp_path, frozenset({"step"})).find("step", "k") is None
    assert Store(tmp_path, frozenset({"prune"})).find("step", "k", label="other") is not None


def test_a_disk_error_says_what_to_do(tmp_path: Path):
    store = Store(tmp_path)
    with pytest.raises(InfrastructureError, match="could not be stored") as caught, store.making("step", "k") as draft:
        (draft.folder / "no" / "such" / "folder").write_text("x")
    assert "--runs-dir" in caught.value.next_step


def test_unfinished_work_is_found_again_until_dropped(tmp_path: Path):
    store = Store(tmp_path)
    (store.workdir("step", "k") / "checkpoint").write_text("3")
    assert (store.workdir("step", "k") / "checkpoint").exists()
    store.drop_workdir("step", "k")
    assert not (store.workdir("step", "k") / "checkpoint").exists()


def test_the_same_entry_made_by_many_at_once_is_there_once_and_whole(tmp_path: Path):
    store = Store(tmp_path)
    errors: list[InfrastructureError] = []
    ready = threading.Barrier(8, timeout=30)

    def make() -> None:
        ready.wait()
        try:
            for _ in range(20):
                fill(store, "k")
        except InfrastructureError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert [path.name for path in (tmp_path / "step").iterdir()] == ["k"]
    assert (store.path("step", "k") / "file").read_text() == "content"
