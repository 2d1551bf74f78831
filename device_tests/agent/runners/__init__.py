"""One file per runtime; its name is the key. Each has `PACKAGES`, `probe()` and `Runner(path, threads, options)`.

One whose artifacts are finished on the board has `build(path, options, folder, event, ...)`, too, and its runner may
have `parts(sample)` and `layers(sample, runs)`; see `child`. One that has two kinds of runner has `runner(path,
threads, options)`, which chooses.

A program that takes the times itself is a runner, too: it has `settle(sample, max_s, deadline)`, `timed(sample, runs,
seconds, deadline)`, `parts_of(sample, runs, deadline)` and `peak_rss()` instead of being called, and says by
`no_outputs`, `next_step` and `no_power` what it does not tell. See `tensorrt.trtexec_alone`.
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


def opened(name, path, threads, options):
    """A runner that has read the artifact at `path`. Raises what it raises."""
    module = load(name)
    return (module.runner if hasattr(module, "runner") else module.Runner)(path, threads, options)


def load(name):
    """The module of a runner.

    Raises:
        Refusal: no such runner.
    """
    if name not in names():
        raise Refusal("unknown-runner", "no runner %r; there are %s" % (name, ", ".join(names())))
    return importlib.import_module(__name__ + "." + name)
