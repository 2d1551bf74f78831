"""One file per runtime; its name is the key. Each has `PACKAGES`, `probe()` and `Runner(path, threads, options)`.

One whose artifacts are finished on the board has `build(path, options, folder, event, ...)`, too, and its runner may
have `parts(sample)` and `layers(sample, runs)`; see `child`.
"""

import collections
import importlib
import pkgutil

from device_tests.agent.protocol import Refusal

Input = collections.namedtuple("Input", "name shape dtype quantization")
"""An input of a model: `shape` of one sample, without the batch dimension, None where a size is free; `quantization`
is (scale, zero point) or None."""


def names():
    """Keys of all runners."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name):
    """The module of a runner.

    Raises:
        Refusal: no such runner.
    """
    if name not in names():
        raise Refusal("unknown-runner", "no runner %r; there are %s" % (name, ", ".join(names())))
    return importlib.import_module(__name__ + "." + name)
