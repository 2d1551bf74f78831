"""The shapes that inputs with open sizes are built for."""

from device_tests.agent.protocol import Refusal
from device_tests.agent.runners import Input


def ranges(inputs, asked):
    """Input -> [smallest, likeliest, largest], for those inputs that have an open size.

    Samples are run one at a time, so an open batch alone is built for 1. What else is open has to be said.

    Args:
        inputs: (name, shape) each, an open size is -1.
        asked: the same map as the result, None where nothing was said.

    Raises:
        Refusal: "profile-missing"; "bad-params" where what was said does not fit.
    """
    asked = asked or {}
    unknown = sorted(set(asked) - {name for name, _ in inputs})
    if unknown:
        raise Refusal("bad-params", "shapes for %r, which is no input: %s" % (unknown[0], _named(inputs)))
    found, missing = {}, []
    for name, shape in inputs:
        if name in asked:
            _check(name, shape, asked[name])
        if -1 not in shape:
            continue
        if name in asked:
            found[name] = asked[name]
        elif -1 in shape[1:]:
            missing.append("%s %s" % (name, shape))
        else:
            found[name] = [[1, *shape[1:]]] * 3
    if missing:
        raise Refusal(
            "profile-missing",
            "sizes besides the batch are open (%s): say the smallest, likeliest and largest shape" % ", ".join(missing),
        )
    return found


def one_at_a_time(name, shape, dtype):
    """An input as samples are run: one after the other.

    Args:
        name: of the input.
        shape: with the batch, an open size is -1.
        dtype: numpy's.

    Raises:
        Refusal: "model-refused": it takes more than one sample at a time.
    """
    if not shape or shape[0] not in (1, -1):
        raise Refusal(
            "model-refused",
            "its batch size is fixed (input shape %s) and samples are measured one at a time: "
            "export it with batch size 1 or a dynamic batch" % shape,
        )
    return Input(name=name, shape=[size if size >= 0 else None for size in shape[1:]], dtype=dtype, quantization=None)


def _check(name, shape, asked):
    for one in asked:
        if len(one) != len(shape) or any(own not in (-1, size) for own, size in zip(shape, one)):
            raise Refusal("bad-params", "shape %s does not fit input %r, which is %s" % (list(one), name, shape))


def _named(inputs):
    return ", ".join("%s %s" % (name, shape) for name, shape in inputs)
