"""A small real project for end-to-end tests: scikit-learn's digits, a convolutional net trained for a few seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgesmith.types import Device

DEADLINE_S = 240


@dataclass(frozen=True)
class Project:
    """A folder with a model, data and a config."""

    root: Path

    def write_config(self, **changes: Any) -> Path:
        """Writes edgesmith.yaml: the base config with top-level keys replaced; None removes one."""
        config: dict[str, Any] = {
            "model": "model.keras",
            "data": {"train": "train.npz", "calibration": "calibration.npz", "evaluation": "evaluation.npz"},
            "recipe": [
                {"prune": {"final_sparsity": 0.5, "epochs": 2, "learning_rate": 0.001}},
                {"quantize": {"scheme": "int8-float-io"}},
            ],
            "devices": ["local"],
            "budget": {"accuracy_drop_pp": 5.0, "size_bytes": 100_000},
            "measure": {"min_runs": 50, "min_seconds": 0.2, "windows": 4},
        }
        config.update(changes)
        path = self.root / "edgesmith.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
        return path

    def result(self) -> dict[str, Any]:
        """result.json of the latest run."""
        document: dict[str, Any] = json.loads((self.root / "runs" / "latest" / "result.json").read_text())
        return document

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `edgesmith ...` here, both streams piped."""
        return self._popen("-m", "edgesmith", *arguments)

    def _popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def edgesmith(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `edgesmith ...` here to its end."""
        return self.python("-m", "edgesmith", *arguments)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs this Python here to its end."""
        process = self._popen(*arguments)
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def write_inventory(folder: Path, *devices: Device) -> None:
    """devices.yaml as a user writes it."""
    keys = ("host", "port", "user", "python", "workdir", "lease_dir", "identity_file", "known_hosts", "host_key")
    entries: dict[str, Any] = {}
    for device in devices:
        entry = {key: getattr(device, key) for key in keys}
        entries[device.name] = {key: str(v) if isinstance(v, Path) else v for key, v in entry.items() if v}
    (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": entries}))


def make_project(root: Path) -> Project:
    """Trains the net and writes the data; a few seconds."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images[..., None].astype(np.float32)
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    for name, part in (("train", order[:1000]), ("calibration", order[1000:1150]), ("evaluation", order[1150:])):
        np.savez_compressed(root / f"{name}.npz", x=x[part], y=y[part])
    _train(x[order[:1000]], y[order[:1000]], root / "model.keras")
    return Project(root)


def _train(x: np.ndarray, y: np.ndarray, path: Path) -> None:
    from edgesmith.frameworks import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Rescaling(1 / 16),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1"),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="scores"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=8, batch_size=32, verbose=0)
    model.save(path)
