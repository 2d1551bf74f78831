"""Taking out channels that are zero changes nothing, whatever the network; and its cost is known before it is built."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from optimizer import cost
from optimizer.channels import groups, surgery
from optimizer.channels.price import Price
from tests import random_graphs

SEEDS = st.integers(min_value=0, max_value=2**31 - 1)
PLAIN = settings(
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    database=None,
    deadline=None,
)


def check(seed: int) -> None:
    """Silences some units of every group of a random network, takes them out, and compares."""
    model = random_graphs.network(seed)
    channels = groups.find(model)
    chosen = random_graphs.some_units(channels, np.random.default_rng(seed))
    for group, gone in chosen:
        random_graphs.silence(channels, group, gone)
    x = random_graphs.samples(model)
    before = random_graphs.answers(model, x)

    narrow = surgery.without(model, channels, [int(unit) for group, gone in chosen for unit in group.units[gone]])

    for old, new in zip(before, random_graphs.answers(narrow, x), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * max(np.abs(old).max(), 1.0), err_msg=f"seed {seed}")
    kept = [len(group) - len(gone) for group, gone in chosen]
    assert Price(model, channels, "macs").total(kept) == cost.count_macs(narrow)
    assert Price(model, channels, "parameters").total(kept) == cost.parameters(narrow)
    assert [layer.name for layer in narrow.layers] == [layer.name for layer in model.layers]


@settings(PLAIN, max_examples=25)
@given(seed=SEEDS)
def test_silent_channels_can_be_taken_out_of_random_networks(seed: int):
    check(seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(PLAIN, max_examples=500)
@given(seed=SEEDS)
def test_silent_channels_can_be_taken_out_of_500_random_networks(seed: int):
    check(seed)
