"""NVIDIA's command-line tools of a fake Jetson: nvpmodel, jetson_clocks, tegrastats, and sudo.

Small shell programs that keep their state in the files of the tree they lie in, so that what was set, and that it was
put back, can be read there by anybody at any time. They say FAKE where a person would see them.

var/lib/fake_jetson/ of the tree:
    calls             every call, one a line
    rebooted          there, once somebody has answered yes to nvpmodel's question
    nvpmodel.delay_s, jetson_clocks.delay_s  how long a change takes
    sudo_asks         there: sudo asks for a password
    gpu_stays_loose   there: jetson_clocks leaves the GPU's clock loose, as on some boards
    tegrastats.root, tegrastats.user  the lines it tells
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgesmith.errors import InputError

_HERE = Path(__file__).parent
_PLACES = {
    "nvpmodel": "usr/sbin/nvpmodel",
    "jetson_clocks": "usr/bin/jetson_clocks",
    "tegrastats": "usr/bin/tegrastats",
    "sudo": "usr/bin/sudo",
}
STATE = "var/lib/fake_jetson"
_GPU_MIN_HZ = 306000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One power mode.

    Attributes:
        gpu_mask: GPU cores that are off; nvpmodel asks for a restart before it changes that.
    """

    name: str
    cpu_khz: int
    gpu_hz: int
    gpu_mask: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a JetPack's tools know.

    Attributes:
        gpu: its name under devfreq.
        now: number of the mode that is on.
    """

    gpu: str
    modes: tuple[Mode, ...]
    now: int


_ORIN_NANO = (
    Mode(name="15W", cpu_khz=1497600, gpu_hz=612000000),
    Mode(name="25W", cpu_khz=1344000, gpu_hz=918000000),
    Mode(name="MAXN_SUPER", cpu_khz=1728000, gpu_hz=1020000000),
    Mode(name="7W", cpu_khz=960000, gpu_hz=408000000, gpu_mask=252),
)
_THOR = (
    Mode(name="MAXN", cpu_khz=2601000, gpu_hz=1575000000),
    Mode(name="120W", cpu_khz=2601000, gpu_hz=1386000000),
)

TOOLS = {
    "4.6": Tools(
        gpu="57000000.gpu",
        modes=(
            Mode(name="MAXN", cpu_khz=1479000, gpu_hz=921600000),
            Mode(name="5W", cpu_khz=918000, gpu_hz=640000000),
        ),
        now=1,
    ),
    "5.1": Tools(
        gpu="17000000.gv11b",
        modes=(
            Mode(name="MODE_15W_2CORE", cpu_khz=1907200, gpu_hz=1109250000),
            Mode(name="MODE_15W_4CORE", cpu_khz=1420800, gpu_hz=1109250000),
            Mode(name="MODE_15W_6CORE", cpu_khz=1420800, gpu_hz=1109250000),
            Mode(name="MODE_10W_2CORE", cpu_khz=1497600, gpu_hz=803250000, gpu_mask=1),
        ),
        now=2,
    ),
    "6.2": Tools(
        gpu="17000000.gpu",
        modes=_ORIN_NANO,
        now=2,
    ),
    "7.0": Tools(
        gpu="gpu-gpc-0",
        modes=_THOR,
        now=1,
    ),
    "7.2": Tools(
        gpu="17000000.gpu",
        modes=_ORIN_NANO,
        now=2,
    ),
}
"""By JetPack. The clocks of the modes are the real ones, or near them. Which mode takes a restart is as told of the
Orin Nano (7W), and made up elsewhere. The lines of tegrastats, in `lines/`, are real ones, filled up where the record
of them was shortened."""


def write_tools(folder: Path, jetpack: str) -> None:
    """Puts the tools into a tree, with nvpmodel's files and the clocks that they set.

    Clocks that the tree has already stay, but for the limits of the mode that is on.

    Args:
        folder: the tree's top, which stands for "/".
        jetpack: one of `TOOLS`.

    Raises:
        InputError: another JetPack.
    """
    if jetpack not in TOOLS:
        raise InputError(f"no fake tools for JetPack {jetpack}; there are {', '.join(TOOLS)}.")
    tools = TOOLS[jetpack]
    for name, place in _PLACES.items():
        program = folder / place
        program.parent.mkdir(parents=True, exist_ok=True)
        program.unlink(missing_ok=True)
        program.write_text((_HERE / f"{name}.sh").read_text())
        program.chmod(0o755)
    _write(folder / "etc/nvpmodel.conf", _conf(tools, _clocks(folder, tools)))
    _write(folder / "var/lib/nvpmodel/status", f"pmode:{tools.now:04d} fmode:quiet\n")
    for who in ("root", "user"):
        _write(folder / STATE / f"tegrastats.{who}", (_HERE / "lines" / f"{jetpack}.{who}.txt").read_text())
    _write(folder / STATE / "calls", "")
    if jetpack.startswith("4."):
        _write(folder / STATE / "jetpack4", "")


def calls(folder: Path) -> list[str]:
    """What the tools of a tree were asked, in order."""
    return (folder / STATE / "calls").read_text().splitlines()


def _conf(tools: Tools, cpu_min_khz: int) -> str:
    parts = [
        f"< POWER_MODEL ID={number} NAME={mode.name} >\nCPU_ONLINE CORE_0 1\n"
        f"TPC_POWER_GATING TPC_PG_MASK {mode.gpu_mask}\nCPU MIN_FREQ {cpu_min_khz}\nCPU MAX_FREQ {mode.cpu_khz}\n"
        f"GPU MIN_FREQ {_GPU_MIN_HZ}\nGPU MAX_FREQ {mode.gpu_hz}\n"
        for number, mode in enumerate(tools.modes)
    ]
    return "# FAKE, of edgesmith\n" + "\n".join(parts) + f"\n< PM_CONFIG DEFAULT={tools.now} >\n"


def _clocks(folder: Path, tools: Tools) -> int:
    """Lays out the clocks; tells the lowest one of the CPU, in kHz."""
    mode = tools.modes[tools.now]
    policies = sorted((folder / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    if not policies:
        policies = [folder / "sys/devices/system/cpu/cpufreq/policy0"]
        _write(policies[0] / "scaling_governor", "schedutil\n")
        _write(policies[0] / "scaling_min_freq", "115200\n")
        _write(policies[0] / "scaling_cur_freq", "729600\n")
    for policy in policies:
        _write(policy / "scaling_max_freq", f"{mode.cpu_khz}\n")
    gpu = folder / "sys/class/devfreq" / tools.gpu
    for place in {gpu, *(folder / "sys/class/devfreq").glob("*")}:
        _write(place / "governor", "nvhost_podgov\n")
        _write(place / "min_freq", f"{_GPU_MIN_HZ}\n")
        _write(place / "max_freq", f"{mode.gpu_hz}\n")
        _write(place / "cur_freq", f"{_GPU_MIN_HZ}\n")
    return int((policies[0] / "scaling_min_freq").read_text())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
