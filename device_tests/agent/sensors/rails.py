"""Power rails as the kernel shows them: INA3221 (hwmon from JetPack 5 on, iio in JetPack 4) and INA238 (Thor).

A rail is one file of power, or one of voltage and one of current. They are opened once and read again and again:
reading needs no root, and every read asks the chip.
"""

import contextlib
import os

from device_tests.agent.reading import number

_MONITORS = ("ina3221", "ina238", "ina226", "ina219", "ina2xx")
_CHANNELS = (1, 2, 3)
_MOST_BYTES = 64


class Rail:
    """One power rail.

    Attributes:
        source: the chip.
        name: as the board labels it.
        path: of its current or its power.
        files: those that are multiplied.
        scale: from their product to milliwatts.
        update_ms: how long the chip itself measures for one value, where the kernel tells.
    """

    def __init__(self, source, name, files, scale, update_ms=None):
        self.source = source
        self.name = name
        self.files = list(files)
        self.path = self.files[-1]
        self.scale = scale
        self.update_ms = update_ms

    def mw(self, root):
        """Milliwatts now, or None."""
        with Open(root, [self]) as opened:
            return opened.mw()[0]

    def as_dict(self):
        """For another process; `from_dict` makes the rail of it again."""
        return {
            "source": self.source,
            "name": self.name,
            "files": self.files,
            "scale": self.scale,
            "update_ms": self.update_ms,
        }


def from_dict(told):
    """The rail of `Rail.as_dict`."""
    return Rail(told["source"], told["name"], told["files"], told["scale"], told["update_ms"])


class Open:
    """Rails whose files are open. A context manager."""

    def __init__(self, root, rails):
        self._rails = []
        for rail in rails:
            fds = []
            try:
                for path in rail.files:
                    fds.append(os.open(root.path(path), os.O_RDONLY))  # noqa: PERF401 - each is closed on failure
            except OSError:
                for fd in fds:
                    os.close(fd)
                fds = []
            self._rails.append((fds, rail.scale))

    def mw(self):
        """Milliwatts of every rail, None for one that cannot be read: channels that are off answer with an error."""
        return [_product(fds, scale) for fds, scale in self._rails]

    def close(self):
        """Closes the files."""
        for fds, _ in self._rails:
            while fds:
                os.close(fds.pop())

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()


def find(root):
    """The rails of this board, in the order of its chips. Not those that are not connected, and no sums."""
    found = _hwmon(root)
    known = {os.path.realpath(root.path(rail.path)) for rail in found}
    return found + [rail for rail in _iio(root) if os.path.realpath(root.path(rail.path)) not in known]


def _hwmon(root):
    found = []
    for folder in root.glob("/sys/class/hwmon/hwmon*"):
        chip = root.text(folder + "/name") or ""
        if not chip.startswith(_MONITORS):
            continue
        update_ms = root.number(folder + "/update_interval")
        if root.exists(folder + "/power1_input"):
            # Microwatts.
            found.append(Rail(chip, _single(root, folder, chip), [folder + "/power1_input"], 1e-3, update_ms))
            continue
        for channel in _CHANNELS:
            files = ["%s/in%d_input" % (folder, channel), "%s/curr%d_input" % (folder, channel)]
            label = root.text("%s/in%d_label" % (folder, channel)) or "channel %d" % channel
            if root.exists(files[1]) and _is_rail(label):
                # Millivolts and milliamperes.
                found.append(Rail(chip, label, files, 1e-3, update_ms))
    return found


def _single(root, folder, chip):
    """Name of a chip with one channel."""
    label = root.text(folder + "/in1_label")
    if label is None and chip == "ina238" and _is_thor(root):
        # Its driver knows no labels; tegrastats calls this one VIN.
        return "VIN"
    return label or chip


def _is_thor(root):
    return "nvidia,tegra264" in root.strings("/sys/firmware/devicetree/base/compatible") + root.strings(
        "/proc/device-tree/compatible"
    )


def _is_rail(label):
    return label != "NC" and "sum of shunt" not in label


def _iio(root):
    found = []
    places = root.glob("/sys/bus/iio/devices/iio:device*/rail_name_[0-9]") or root.glob(
        "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_[0-9]"
    )
    for place in places:
        folder, channel = os.path.dirname(place), place[-1]
        label = root.text(place)
        if label is None or not _is_rail(label):
            continue
        power = "%s/in_power%s_input" % (folder, channel)
        pair = ["%s/in_voltage%s_input" % (folder, channel), "%s/in_current%s_input" % (folder, channel)]
        if root.exists(power) or not root.exists(pair[1]):
            # Milliwatts.
            found.append(Rail("ina3221x", label, [power], 1.0))
        else:
            found.append(Rail("ina3221x", label, pair, 1e-3))
    return found


def _product(fds, scale):
    if not fds:
        return None
    product = 1
    for fd in fds:
        value = None
        with contextlib.suppress(OSError):
            value = number(os.pread(fd, _MOST_BYTES, 0))
        if value is None:
            return None
        product *= value
    return product * scale
