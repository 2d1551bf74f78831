"""build: the files that a board builds its engine from, made anew where its builder lacks an int8 kernel.

Which layers those are shows only when the board builds. Their files are kept under what was learned, so that the next
run begins where this one ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

from device_tests import engines
from device_tests.session import BoardSession
from edgesmith.errors import BuildRefused, ModelError
from edgesmith.pipeline.build import Built, build
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from targets import tensorrt_asked, tensorrt_exclude

ThisMachine = Callable[[], AbstractContextManager[BoardSession]]

MOST_ROUNDS = 5
"""Files that a board is given in turn; every round is a build of minutes."""

_NO_KERNEL = ("no-implementation", "not-enough-workspace")
_KIND = "in-float"
_REMAKING = threading.Lock()
"""Boards work in threads of their own; the run folder's steps are one sequence."""


def as_learned(item: Built, prepared: Prepared, work: Workspace, this_machine: ThisMachine) -> Built:
    """The file that an earlier build on such a board led to; `item` itself where it led nowhere else."""
    entry = None if item.wanted.plan is None else work.store.find(_KIND, _key(item, work.store))
    if entry is None:
        return item
    return _without(item, frozenset(entry.record["ops"]), tuple(entry.record["layers"]), prepared, work, this_machine)


def fitted(session: BoardSession, item: Built, prepared: Prepared, work: Workspace, this_machine: ThisMachine) -> Built:
    """The file that the board can build: `item`, or the same with fewer layers in int8. For the board's own thread.

    What cannot be helped is left as it is: measuring it says why.
    """
    if not engines.is_built(item.artifact):
        return item
    work = replace(work, progress=session.progress)
    first = item
    for _ in range(MOST_ROUNDS):
        try:
            session.build(item.artifact)
            break
        except BuildRefused as refused:
            if refused.code not in _NO_KERNEL or not refused.nodes or item.wanted.plan is None:
                break
            try:
                item = _next(item, refused, prepared, work, this_machine)
            except ModelError:
                break
            work.progress.note(f"{refused.what} It is built with {', '.join(item.in_float)} in float.")
    if item is not first:
        with work.store.making(_KIND, _key(first, work.store)) as draft:
            draft.record.update(ops=sorted(item.wanted.float_ops), layers=list(item.in_float))
    return item


def _key(item: Built, store: Store) -> str:
    runtime = None if item.wanted.runtime is None else asdict(item.wanted.runtime)
    asked = tensorrt_asked.counted(item.artifact.build)
    plan = item.wanted.plan_key
    return store.key(_KIND, {"artifact": item.artifact.sha256, "build": asked, "plan": plan, "runtime": runtime})


def _next(item: Built, refused: BuildRefused, prepared: Prepared, work: Workspace, this_machine: ThisMachine) -> Built:
    """The file without int8 around the nodes that the board named.

    Raises:
        ModelError: none of them computes in int8.
    """
    request = item.wanted.request(None, Path())
    found = tensorrt_exclude.int8_ops(request, item.artifact, refused.nodes)
    ops = item.wanted.float_ops | {op.name for op in found}
    layers = tuple(dict.fromkeys((*item.in_float, *(op.layer for op in found))))
    return _without(item, ops, layers, prepared, work, this_machine)


def _without(
    item: Built,
    ops: frozenset[str],
    layers: tuple[str, ...],
    prepared: Prepared,
    work: Workspace,
    this_machine: ThisMachine,
) -> Built:
    with _REMAKING, this_machine() as session:
        made = build(replace(item.wanted, float_ops=ops), prepared, work, lambda: session)
    return replace(made, in_float=layers)
