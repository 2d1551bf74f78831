"""Centroids on a line: the optimum against every possible cut, Lloyd's fixed point, and the starts by hand."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.clustering import kmeans1d, starts
from optimizer.clustering.kmeans1d import Points

WEIGHTS = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=9)


def _every_cut(weights: list[float], clusters: int) -> float:
    ordered = np.sort(weights)
    cuts = itertools.combinations(range(1, len(ordered)), min(clusters, len(ordered)) - 1)
    return min(sum(float(((p - p.mean()) ** 2).sum()) for p in np.split(ordered, cut)) for cut in cuts)


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 9))
def test_no_other_cut_is_better(weights: list[float], clusters: int):
    points = Points.of(np.array(weights))
    centroids = kmeans1d.optimal(points, clusters)
    assert len(centroids) == min(clusters, len(set(weights)))
    assert (np.diff(centroids) > 0).all()
    assert kmeans1d.error(points, centroids) == pytest.approx(_every_cut(weights, clusters), abs=1e-9)


def test_centroids_by_hand():
    points = Points.of(np.array([0.0, 1.0, 1.0, 10.0, 12.0, 30.0]))
    assert kmeans1d.optimal(points, 3).tolist() == pytest.approx([2 / 3, 11.0, 30.0])
    assert kmeans1d.nearest([-5, 5.83, 5.84, 100], np.array([2 / 3, 11.0, 30.0])).tolist() == [0, 0, 1, 2]


def test_lloyd_stays_where_every_centroid_is_the_mean_of_its_points_and_drops_idle_ones():
    points = Points.of(np.array([0.0, 1.0, 10.0, 11.0]))
    assert kmeans1d.lloyd(points, np.array([0.2, 9.0, 500.0])).tolist() == [0.5, 10.5]


def test_beyond_the_exact_size_the_result_is_as_good(monkeypatch: pytest.MonkeyPatch):
    points = Points.of(np.random.default_rng(0).standard_t(4, 6000))
    best = kmeans1d.error(points, kmeans1d.optimal(points, 16))
    monkeypatch.setattr(kmeans1d, "EXACT", 512)
    assert best <= kmeans1d.error(points, kmeans1d.optimal(points, 16)) <= 1.001 * best


@pytest.mark.parametrize("init", ["linear", "random", "density", "kmeans++"])
@pytest.mark.parametrize("zeros", [False, True])
def test_no_start_ends_better_than_the_optimum(init: starts.Init, zeros: bool):
    points = Points.of(np.random.default_rng(1).normal(size=500))
    draw = np.random.default_rng(0)
    found = starts.centroids(points, 8, init, draw, zeros=zeros)
    assert 1 < len(found) <= 8
    assert kmeans1d.error(points, found) >= kmeans1d.error(points, kmeans1d.optimal(points, 8)) * (1 - 1e-12)
    assert kmeans1d.lloyd(points, found).tolist() == found.tolist()


def test_with_zeros_kept_apart_signs_get_centroids_by_their_number():
    points = Points.of(np.array([-3.0, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    found = starts.start(points, 4, "linear", np.random.default_rng(0), zeros=True)
    assert found.tolist() == [-3.0, 1.0, 3.5, 6.0]


@pytest.mark.slow  # TF-MOT has to be imported in a process of its own
@pytest.mark.parametrize("zeros", [False, True])
def test_linear_and_density_starts_are_those_of_tfmot(zeros: bool, tmp_path: Path):
    weights = np.random.default_rng(3).normal(size=(40, 9)).astype(np.float32)
    np.save(tmp_path / "weights.npy", weights)
    code = """
import json, sys
import numpy as np, tf_keras, tensorflow as tf
from tensorflow_model_optimization.python.core.clustering.keras import clustering_centroids as c
weights = tf.constant(np.load(sys.argv[1]))
kinds = {"linear": c.LinearCentroidsInitialisation, "density": c.DensityBasedCentroidsInitialisation}
made = {k: v(weights, 12, preserve_sparsity=sys.argv[2] == "True").get_cluster_centroids() for k, v in kinds.items()}
print(json.dumps({k: v.numpy().tolist() for k, v in made.items()}))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "weights.npy"), str(zeros)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    for init, theirs in json.loads(done.stdout.splitlines()[-1]).items():
        clusters = 12 - zeros
        ours = starts.start(Points.of(weights), clusters, init, np.random.default_rng(0), zeros=zeros)
        given_ = sorted(value for value in theirs if not zeros or value)
        assert ours.tolist() == pytest.approx(given_, abs=1e-5), init
