"""The one door to TensorFlow, Keras 3, tf_keras and ONNX: imported late, on the right backend, without noise."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from edgesmith.errors import InputError
from edgesmith.native_log import DESCRIPTOR_2

# TensorFlow's C++ side writes these before its log level is read, so no environment variable stops them.
_NOISE = re.compile(
    rb"All log messages before absl::InitializeLog|oneDNN custom operations are on|Could not find cuda drivers"
    rb"|optimized to use available CPU instructions|To enable the following instructions|Unable to register cu"
    rb"|computation_placer already registered|TF-TRT Warning|failed call to cuInit|Skipping registering GPU"
)


_ON_A_BOARD = (
    "; on a board, rather compress on a workstation and copy the result: measuring a ready .tflite or .onnx needs only "
    "'edgesmith[board]'."
)


def import_keras() -> Any:
    """Keras 3 on the TensorFlow backend.

    Raises:
        InputError: not installed, or Keras already runs on another backend in this process.
    """
    # Keras reads the backend once, at import, and the environment wins over ~/.keras/keras.json.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keras = _import("keras", extra="tflite", after="tensorflow")
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Keras was imported earlier in this process on the {keras.backend.backend()} backend.",
            next_step="Set KERAS_BACKEND=tensorflow before the first `import keras`.",
        )
    return keras


def import_tensorflow() -> Any:
    """TensorFlow. Never reach for `tf.keras`: what it is depends on what was imported before.

    Raises:
        InputError: not installed.
    """
    return _import("tensorflow", extra="tflite")


def import_tf_keras() -> Any:
    """tf_keras, which is Keras 2; always after Keras 3, so that both keep their own name.

    Raises:
        InputError: not installed.
    """
    import_keras()
    return _import("tf_keras", extra="tflite")


def import_onnx() -> Any:
    """The `onnx` package.

    Raises:
        InputError: not installed.
    """
    return _import("onnx", extra="onnx")


def import_onnxruntime() -> Any:
    """The `onnxruntime` package, its telemetry switched off: nothing of a user's models is told to anybody.

    Raises:
        InputError: not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return _import("onnxruntime", extra="onnx")


@contextlib.contextmanager
def third_party_warnings() -> Iterator[None]:
    """Ignores the warnings that the frameworks raise about their own code when they load, save and read weights."""
    with warnings.catch_warnings():
        # Keras 3.15 and TensorFlow 2.21 lack the `copy` argument that numpy 2 asks `__array__` for.
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        # tf_keras advises its own format when HDF5 is used; h5py and both Keras do so for files we only read.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(tf_)?keras\.|h5py")
        yield


def _import(name: str, *, extra: str, after: str | None = None) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with DESCRIPTOR_2:
            if (module := sys.modules.get(name)) is not None:
                return module
            return _import_quietly(name, after)
    except ImportError as error:
        raise InputError(
            f"This needs the Python package {error.name or name}, and it cannot be imported: {error}.",
            next_step=f"pip install 'edgesmith[{extra}]'{_ON_A_BOARD}",
        ) from error


def _import_quietly(name: str, after: str | None) -> Any:
    with _without_native_noise(), warnings.catch_warnings():
        # Deprecations inside these packages are theirs to fix; ours are raised outside of this block.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if after is not None:
            importlib.import_module(after)
        module = importlib.import_module(name)
    if tensorflow := sys.modules.get("tensorflow"):
        # Its warnings are advice on speed to whoever writes the training loop. Asking for the logger here also gives it
        # the real stderr: made later, inside a redirection, its handler would hold a stream that is closed by then.
        tensorflow.get_logger().setLevel("ERROR")
    return module


@contextlib.contextmanager
def _without_native_noise() -> Iterator[None]:
    """Holds back what is written to file descriptor 2 and lets through all but the known lines."""
    try:
        saved = os.dup(2)
    except OSError:  # a process without stderr has no noise to hold back
        yield
        return
    with tempfile.TemporaryFile() as held:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not _NOISE.search(line):
                    os.write(2, line)
