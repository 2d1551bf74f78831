"""Power over spans of time: mean, maximum and energy, with the rate that they rest on."""

import numpy as np

ENOUGH_HZ = 350
"""Below this rate, changes of power are missed that matter: at 1 Hz, energies were off by up to 80 % in a study of
these sensors (arXiv 2206.10377)."""
_FEW = 20


class Samples:
    """Power as it was read.

    Attributes:
        source: by what: chips, or tegrastats.
        t_ns: int64 [n], ascending, on the clock of `timing.now_ns`, which all processes of the board share.
        mw: float64 [n, rails], without NaN.
        names: of the rails.
        covers: what their total covers, see `totals`.
        failed: reads that gave no value, and are left out.
        reason: why there are none; empty where there are.
    """

    def __init__(self, source, t_ns, mw, names, total, covers, update_ms=None, reason=""):
        """`total`: numbers of the rails that are added up; `update_ms`: of the slowest chip, where told."""
        t_ns = np.asarray(t_ns, np.int64)
        mw = np.asarray(mw, np.float64).reshape(len(t_ns), len(names))
        good = np.isfinite(mw).all(axis=1)
        self.source = source
        self.t_ns = t_ns[good]
        self.mw = mw[good]
        self.names = list(names)
        self.covers = covers
        self.failed = int((~good).sum())
        self.reason = reason
        self._total = list(total)
        self._update_ms = update_ms

    def over(self, spans, runs=None):
        """Power in some spans of time.

        Args:
            spans: (start, end) in ns.
            runs: how often something was done in them.

        Returns:
            "mean_mw", "max_mw", "energy_mj" of the total, "energy_mj_per_run" where `runs` is told; "seconds";
            "samples", "rate_hz", "longest_gap_ms", "failed": what it rests on; "half_rate_error": how much the energy
            changes with every second sample left out, a fraction; "statement": on the rate, empty where it is enough;
            "source", "covers", "rails": per rail "name", "mean_mw", "max_mw", "energy_mj"; "reason": why there is no
            figure. Every figure is None then.
        """
        found = _nothing(self.source, self.covers)
        found["failed"] = self.failed
        inside = [_inside(self.t_ns, start, end) for start, end in spans]
        count = int(sum(stop - start for start, stop in inside))
        seconds = sum(end - start for start, end in spans) / 1e9
        if self.reason or not count or seconds <= 0:
            found["reason"] = self.reason or "power was not read while it ran: it took %.4f s in all" % seconds
            return found
        rails = [self._column(self.mw[:, number], spans, inside, seconds) for number in range(len(self.names))]
        total = self.mw[:, self._total].sum(axis=1)
        found.update(self._column(total, spans, inside, seconds))
        found["rails"] = [dict(rail, name=name) for name, rail in zip(self.names, rails)]
        found["seconds"] = seconds
        found["samples"] = count
        found["rate_hz"] = count / seconds
        found["longest_gap_ms"] = _longest_gap(self.t_ns, spans) / 1e6
        found["half_rate_error"] = self._half_rate_error(total, spans, found["energy_mj"], count)
        found["statement"] = self._statement(found)
        if runs:
            found["energy_mj_per_run"] = found["energy_mj"] / runs
        return found

    def _column(self, mw, spans, inside, seconds):
        energy = sum(_energy_mj(self.t_ns, mw, start, end) for start, end in spans)
        peak = max(mw[start:stop].max() for start, stop in inside if stop > start)
        return {"mean_mw": energy / seconds, "max_mw": float(peak), "energy_mj": energy}

    def _half_rate_error(self, total, spans, energy, count):
        if count < _FEW or not energy:
            return None
        half = sum(_energy_mj(self.t_ns[::2], total[::2], start, end) for start, end in spans)
        return abs(half - energy) / energy

    def _statement(self, found):
        told = []
        if found["rate_hz"] < ENOUGH_HZ:
            text = "power was read %.0f times a second, below %d fast changes are missed" % (
                found["rate_hz"],
                ENOUGH_HZ,
            )
            if found["half_rate_error"] is not None:
                text += ": half that rate would change the energy by %.1f %%" % (100 * found["half_rate_error"])
            told.append(text)
        if self._update_ms is not None and self._update_ms > 1000.0 / ENOUGH_HZ:
            told.append("the chip measures %g ms for each of its values" % self._update_ms)
        return "; ".join(told)


def none(reason):
    """Samples that are none, and why."""
    return Samples("", [], [], [], [], "", reason=reason)


def _nothing(source, covers):
    figures = "mean_mw max_mw energy_mj energy_mj_per_run seconds rate_hz longest_gap_ms half_rate_error"
    found = dict.fromkeys(figures.split())
    found.update(samples=0, statement="", source=source, covers=covers, rails=[], reason=None)
    return found


def _inside(t_ns, start, end):
    """First and one past the last number of the samples in a span."""
    return int(np.searchsorted(t_ns, start, "left")), int(np.searchsorted(t_ns, end, "right"))


def _energy_mj(t_ns, mw, start, end):
    """Milliwatts over a span, linear between samples; at its ends what lies between the samples around them."""
    moments = _moments(t_ns, start, end)
    power = np.interp(moments, t_ns, mw)
    # mW * ns = 1e-9 mJ.
    return float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(moments)) / 1e9)


def _moments(t_ns, start, end):
    """The ends of a span and the reads in it."""
    first, last = _inside(t_ns, start, end)
    return np.concatenate([[start], t_ns[first:last], [end]])


def _longest_gap(t_ns, spans):
    """The longest time within a span without a read, in ns."""
    return max(float(np.diff(_moments(t_ns, start, end)).max()) for start, end in spans)
