"""Transforms of filters, banks of them, and which filters of a kernel shall share."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras
from optimizer.filters.bank import TransferredBank, recovered
from optimizer.filters.match import matched
from optimizer.filters.sharing import SharedFilters
from optimizer.filters.transforms import IDENTITY, NEGATION, Transform, allowed
from optimizer.packing import banks, tensors
from optimizer.packing.huffman import DamagedStream

ALL = ("negate", "rotate", "flip")
CORNER = np.arange(4.0).reshape(1, 2, 2, 1)  # [[0, 1], [2, 3]]


def test_the_transforms_by_hand():
    def seen(**parts: Any) -> Any:
        return Transform(**parts)(CORNER)[0, :, :, 0].tolist()

    assert seen(turns=1) == [[1, 3], [0, 2]]
    assert seen(turns=2) == [[3, 2], [1, 0]]
    assert seen(mirrored=True) == [[1, 0], [3, 2]]
    assert seen(turns=1, mirrored=True) == [[0, 2], [1, 3]]
    assert seen(negative=True) == [[0, -1], [-2, -3]]


@pytest.mark.parametrize(
    ("window", "kinds", "count"),
    [
        ((3, 3), ALL, 16),
        ((3, 3), ("rotate",), 4),
        ((3, 3), ("flip",), 4),
        ((3, 2), ALL, 8),
        ((3,), ALL, 4),
        ((1, 1), ALL, 2),
        ((), ALL, 2),
        ((), ("rotate",), 1),
        ((3, 3, 3), ALL, 2),
    ],
)
def test_what_is_allowed_is_a_group_of_distinct_transforms(window: Any, kinds: Any, count: int):
    found = allowed(window, kinds)
    assert (len(found), found[0]) == (count, IDENTITY)
    filters = np.random.default_rng(0).normal(size=(1, *window, 2))
    looks = {one(filters).tobytes(): one for one in found}
    assert len(looks) == count
    for one, other in itertools.product(found, found):
        assert one(other(filters)).tobytes() in looks
    for one in found:
        assert Transform.of(one.code) == one
        assert_array_equal(one.inverse(one(filters)), filters)


def made_bank(seed: int, window: tuple[int, ...], bases: int, copies: int) -> TransferredBank:
    random = np.random.default_rng(seed)
    transforms = allowed(window, ALL)
    codes = np.array([random.choice([one.code for one in transforms]) for _ in range(bases * copies)], np.uint8)
    members = random.permutation(np.repeat(np.arange(bases), copies)).astype(np.int32)
    base = random.normal(size=(bases, *window, 3)).astype(np.float32)
    return TransferredBank(base, members, codes, np.ones(bases * copies, np.float32))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    window=st.sampled_from([(3, 3), (5, 5), (2, 3), (4,), (1, 1), ()]),
    bases=st.integers(1, 5),
    copies=st.integers(1, 4),
)
def test_a_bank_made_of_bases_and_transforms_is_recovered(seed: int, window: Any, bases: int, copies: int):
    bank = made_bank(seed, window, bases, copies)
    kernel = bank.expand()
    assert kernel.shape == (*window, 3, bases * copies)
    transforms = allowed(window, ALL)
    exact = recovered(kernel, transforms)
    fitted = matched(kernel, transforms, members=copies, least=0.999)
    for found in (exact, fitted):
        assert len(found.base) == bases
        together = found.members[:, None] == found.members
        assert_array_equal(together, bank.members[:, None] == bank.members)
    assert_array_equal(exact.expand(), kernel)
    np.testing.assert_allclose(fitted.expand(), kernel, atol=1e-6)
    assert_array_equal(bank.fitted(kernel).base, bank.base)


def test_a_base_is_the_mean_of_its_members_transformed_back():
    """Filters of two inputs: (1, 2), (-3, -2) and (5, 5), the second a negative of the first's base."""
    kernel = np.array([[1, -3, 5], [2, -2, 5]], np.float32)
    bank = TransferredBank(
        np.zeros((2, 2), np.float32), np.array([0, 0, 1], np.int32), np.array([0, 8, 0], np.uint8), np.ones(3, "f")
    )
    assert bank.fitted(kernel).base.tolist() == [[2, 2], [5, 5]]
    assert bank.fitted(kernel).expand().tolist() == [[2, -2, 5], [2, -2, 5]]
    assert (bank.weights, bank.index_bits) == (4, 3 * (1 + 4))


def test_members_may_have_sizes_of_their_own():
    """Rank 1 exactly: (1, 2) and -3 times it."""
    kernel = np.array([[1, -3], [2, -6]], np.float32)
    bank = matched(kernel, allowed((), ALL), members=2, least=0.9, scale=True)
    assert len(bank.base) == 1
    np.testing.assert_allclose(bank.expand(), kernel, rtol=1e-6)
    assert np.mean(bank.scales**2) == pytest.approx(1)
    np.testing.assert_allclose(bank.fitted(kernel).base, bank.base, rtol=1e-6)


def test_the_most_alike_are_matched_first_and_the_rest_stay_alone():
    """By angle: 0 and 10 degrees (opposite sign), 80 and 112 degrees; the last is 35 degrees from its next."""
    angles = np.deg2rad([0, 190, 80, 112, 45])
    kernel = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    transforms = allowed((), ("negate",))
    assert matched(kernel, transforms, members=2, least=0.9).members.tolist() == [0, 0, 1, 2, 3]
    assert matched(kernel, transforms, members=2, least=0.7).members.tolist() == [0, 0, 1, 1, 2]
    assert matched(kernel, (NEGATION,), members=2, least=0.9).codes.tolist() == [0, 8, 0, 0, 0]
    assert matched(kernel, (NEGATION,), members=2, least=0.99).members.tolist() == [0, 1, 2, 3, 4]
    # The founder of a group of three is the filter that the other two are nearest to.
    assert matched(kernel, transforms, members=3, least=0.76).members.tolist() == [0, 0, 1, 1, 1]


def test_shared_filters_are_put_back_after_every_step_and_checked():
    keras = import_keras()
    bank = made_bank(0, (3, 3), 2, 2)
    kernel = keras.Variable(bank.expand())
    shared = SharedFilters({"conv": kernel}, {"conv": bank})
    kernel.assign(kernel + np.random.default_rng(1).normal(size=kernel.shape))
    with pytest.raises(InternalError, match="filters of 'conv' do not share"):
        shared.check()
    moved = np.asarray(kernel.numpy())
    shared.callback().on_train_batch_end(0)
    shared.check()
    assert_array_equal(kernel.numpy(), bank.fitted(moved).expand())
    restored = SharedFilters({"conv": kernel}, {"conv": made_bank(5, (3, 3), 2, 2)})
    restored.restore(shared.state())
    restored.check()


def test_a_packed_tensor_is_written_as_bases_and_which_is_which():
    bank = made_bank(3, (3, 3), 4, 4)
    kernel = bank.expand()
    form, data = tensors.encode(kernel)
    assert (form.shape, form.bases, form.stored) == ((3, 3, 3, 16), 4, (3, 3, 3, 4))
    assert form.coding == "16 filters of 4 bases, dense, raw values"
    # 4 * 27 weights of 4 bytes; two lists of 16 numbers below 16 with their Huffman tables.
    assert 432 < len(data) < 432 + 40
    again = tensors.Form.of(form.plain())
    assert tensors.decode(again, memoryview(data)).tobytes() == kernel.tobytes()
    other = np.random.default_rng(0).normal(size=(3, 3, 3, 16)).astype(np.float32)
    assert tensors.encode(other)[0].bases == 0


def test_a_transform_that_the_window_does_not_have_is_damage():
    turned = banks.write(dataclasses.replace(made_bank(0, (2, 3), 1, 2), codes=np.array([0, 1], np.uint8)))
    form = tensors.Form(dtype="float32", shape=(2, 3, 1, 2), bases=1, written=6)
    with pytest.raises(DamagedStream, match="a transform that its window does not have"):
        tensors.decode(form, memoryview(turned + bytes(4 * 6)))
    for wrong in ({"bases": 2}, {"bases": 1, "written": 12}, {"bases": 1, "dtype": "int8"}):
        with pytest.raises(DamagedStream, match=r"bases are none|contradicts itself"):
            tensors.Form.of({**form.plain(), **wrong})
