"""Every tensor comes back bit for bit, in the smallest of the forms; a header that lies is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optimizer.clustering import shared
from optimizer.packing import tensors, values
from optimizer.packing.huffman import DamagedStream
from optimizer.packing.tensors import Form

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
ANY = st.sampled_from(tensors.DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
FEW = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=20), elements=st.sampled_from([0, 0, 0, -0.5, 0.1]))


def _back(tensor: Any) -> tuple[Form, bytes]:
    form, data = tensors.encode(tensor)
    found = tensors.decode(Form.of(form.plain()), memoryview(data))
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.tobytes() == np.ascontiguousarray(tensor).tobytes()
    return form, data


@settings(deadline=None)
@given(ANY | FEW)
def test_any_tensor_comes_back_bit_for_bit(tensor: Any):
    _back(tensor)


def test_negative_zero_and_the_payload_of_a_nan_are_kept():
    tensor = np.array([0.0, -0.0, np.nan, np.inf, 1e-45] * 50, np.float32)
    tensor.view(np.uint32)[2] = 0x7F800001
    _back(tensor)


def _pruned(sparsity: float, shape: tuple[int, int] = (300, 100)) -> Any:
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    weights[np.abs(weights) < np.quantile(np.abs(weights), sparsity)] = 0
    return weights


def test_the_smallest_form_is_taken():
    dense = _pruned(0.0)
    assert _back(dense)[0].coding == "dense, raw values"
    assert _back(dense.astype(np.float16).astype(np.float32))[0].coding == "dense, half values"
    few = shared.cluster(dense, 16, "optimal", 0).projected(dense)
    form, data = _back(few)
    assert form.coding == "dense, 16 shared raw values"
    assert len(data) < dense.size / 2 + 200  # four bits each at most
    sparse = _pruned(0.95)
    assert _back(sparse)[0].coding.startswith("sparse, ")
    both = shared.cluster(sparse, 16, "optimal", 0).rounded(sparse, "float16")
    form, data = _back(both)
    assert form.coding.endswith("-bit gaps, 15 shared half values")
    assert len(data) < 0.05 * dense.size * 10 / 8 + 300  # ten bits for each weight that is left
    by_channel = shared.cluster(dense, 4, "optimal", 0, axis=-1).projected(dense)
    assert _back(by_channel)[0].coding == "dense, 4 shared raw values in each of 100 channels"


def test_the_bits_of_a_sparse_tensor_are_near_its_entropy():
    tensor = np.zeros(100_000, np.float32)
    places = np.random.default_rng(0).permutation(tensor.size)[:5000]
    tensor[places] = 0.5
    entropy = tensor.size * -(0.05 * np.log2(0.05) + 0.95 * np.log2(0.95)) / 8
    assert entropy < len(_back(tensor)[1]) < 1.04 * entropy


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_a_rounded_codebook_is_stored_in_its_own_numbers(kind: Any):
    weights = _pruned(0.9)
    rounded = shared.cluster(weights, 32, "optimal", 0).rounded(weights, kind)
    assert _back(rounded)[0].kind == {"float16": "half", "int8": "int8"}[kind]


@settings(deadline=None)
@given(hnp.arrays(np.int8, st.integers(3, 40)), st.floats(2.0**-100, 2.0**100, width=32))
def test_multiples_of_one_scale_are_found(steps: Any, scale: float):
    kept = (steps.clip(-127, 127) * np.float32(scale)).astype(np.float32)
    kept[0] = np.float32(127) * np.float32(scale)
    kind, data = values.write(kept)
    assert values.read(memoryview(data), kind, len(kept), kept.dtype).tobytes() == kept.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [30, 100]},
        {"shape": [-1, 100]},
        {"shape": [1.5, 2]},
        {"shape": "12"},
        {"dtype": "object"},
        {"dtype": "float16"},
        {"axis": 2},
        {"gap_bits": 40},
        {"gaps": 1},
        {"gaps": 10**12},
        {"written": 1},
        {"books": 7},
        {"entries": 14},
        {"alphabet": 10**9},
        {"kind": "pickle"},
        {"extra": 1},
        {"written": True},
    ],
)
def test_a_header_that_lies_is_refused(change: dict[str, Any]):
    weights = _pruned(0.95)
    form, data = tensors.encode(shared.cluster(weights, 16, "optimal", 0).projected(weights))
    with pytest.raises(DamagedStream):
        tensors.decode(Form.of({**form.plain(), **change}), memoryview(data))


@pytest.fixture(scope="module")
def written() -> tuple[Form, bytes]:
    weights = _pruned(0.9, (60, 20))
    return tensors.encode(shared.cluster(weights, 8, "optimal", 0).projected(weights))


@settings(deadline=None)
@given(place=st.integers(0, 5000), change=st.binary(min_size=1, max_size=4))
def test_changed_bytes_give_a_tensor_or_the_one_error(written: tuple[Form, bytes], place: int, change: bytes):
    form, data = written
    place %= len(data)
    broken = data[:place] + change + data[place + len(change) :]
    try:
        found = tensors.decode(form, memoryview(broken))
    except DamagedStream:
        return
    assert found.shape == (60, 20)
