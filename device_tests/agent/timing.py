"""How a latency is taken: the clock, the warm-up that ends when the median stands still, and one window.

One timed run is: inputs in (the model's own dtype, prepared before), invoke, outputs out.
"""

import time

try:
    now_ns = time.perf_counter_ns  # novermin
except AttributeError:  # Python 3.6

    def now_ns():
        """Nanoseconds of a monotonic clock, at the resolution of a float."""
        return int(time.perf_counter() * 1e9)


BLOCK_RUNS = 3
BLOCK_S = 0.03
FLAT_BLOCKS = 3
FLAT_WITHIN = 0.10
REWARM_RUNS = 3


def overhead_ns(pairs=1001, clock=now_ns):
    """Median cost of reading the clock twice; part of every sample, stated and not subtracted."""
    gaps = []
    for _ in range(pairs):
        start = clock()
        gaps.append(clock() - start)
    return median(gaps)


def median(values):
    """The middle value, the lower one of two, so that it is always a value that was seen."""
    return sorted(values)[(len(values) - 1) // 2]


def is_flat(medians):
    """Whether the last `FLAT_BLOCKS` block medians lie within `FLAT_WITHIN` of the smallest of them."""
    last = medians[-FLAT_BLOCKS:]
    return len(last) == FLAT_BLOCKS and max(last) - min(last) <= FLAT_WITHIN * min(last)


def settles(samples):
    """Whether the moving median of runs that somebody else took became flat, by the blocks of `warm_up`."""
    medians, block = [], []
    for taken in samples:
        block.append(taken)
        if len(block) >= BLOCK_RUNS and sum(block) >= BLOCK_S * 1e9:
            medians.append(median(block))
            block = []
    return any(is_flat(medians[:end]) for end in range(FLAT_BLOCKS, len(medians) + 1))


def warm_up(run, max_s, clock=now_ns):
    """Runs until the moving median is flat.

    A block is at least `BLOCK_RUNS` runs and `BLOCK_S` seconds. Flat: see `is_flat`.

    Args:
        run: called with a sample's index; returns the nanoseconds it took.
        max_s: stop here, flat or not.
        clock: nanoseconds; another one where a board is scripted.

    Returns:
        (nanoseconds of every run, whether it became flat).
    """
    samples, medians = [], []
    end = clock() + int(max_s * 1e9)
    while True:
        block = _at_least(run, len(samples), BLOCK_RUNS, BLOCK_S, clock)
        samples += block
        medians.append(median(block))
        if is_flat(medians):
            return samples, True
        if clock() >= end:
            return samples, False


def window(run, first, runs, seconds, clock=now_ns):
    """One turn of an artifact.

    Its first `REWARM_RUNS` runs find caches that another artifact has filled: they are kept apart.

    Returns:
        (nanoseconds of the runs kept apart, nanoseconds of the timed runs).
    """
    rewarm = [run(first + index) for index in range(REWARM_RUNS)]
    return rewarm, _at_least(run, first + REWARM_RUNS, runs, seconds, clock)


def _at_least(run, first, runs, seconds, clock):
    taken = []
    end = clock() + int(seconds * 1e9)
    while len(taken) < runs or clock() < end:
        taken.append(run(first + len(taken)))
    return taken
