"""The door to the frameworks: what is missing is said, what is noise is held back, what is not noise gets through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgesmith import frameworks
from edgesmith.errors import InputError

ROOT = Path(frameworks.__file__).parent.parent


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(InputError, match="needs the Python package onnx") as caught:
        frameworks.import_onnx()
    assert caught.value.next_step.startswith("pip install 'edgesmith[onnx]'; on a board, rather compress on a workst")


def test_another_backend_is_told(monkeypatch: pytest.MonkeyPatch):
    keras = frameworks.import_keras()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    with pytest.raises(InputError, match="on the jax backend"):
        frameworks.import_keras()


def test_the_import_is_silent_and_keras_is_keras_3_on_tensorflow():
    program = (
        "from edgesmith.frameworks import import_keras, import_tf_keras\n"
        "keras, tf_keras = import_keras(), import_tf_keras()\n"
        "print(keras.__version__[0], tf_keras.__version__[0], keras.backend.backend())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"KERAS_BACKEND": "jax"}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert done.stdout.strip() == "3 2 tensorflow"
    assert not done.stderr


def test_only_known_noise_is_held_back(capfd: pytest.CaptureFixture[str]):
    with frameworks._without_native_noise():
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You may see\na real problem\n")

    assert capfd.readouterr().err == "a real problem\n"
