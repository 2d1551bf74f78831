"""File trees of boards as their own kernels show them, laid out in a folder: what a probe reads, without the board."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

CPUINFO = {
    "cortex-a53": ("0x41", "0xd03", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a57": ("0x41", "0xd07", "fp asimd evtstrm aes pmull sha1 sha2 crc32"),
    "cortex-a72": ("0x41", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "0x41",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
    "nvidia-carmel": (
        "0x4e",
        "0x004",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm",
    ),
    "cortex-a78ae": ("0x41", "0xd42", "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm asimddp"),
    "neoverse-v3ae": ("0x41", "0xd83", "fp asimd aes crc32 atomics fphp asimdhp asimddp sve sve2 i8mm bf16"),
    "armv7": (
        "0x41",
        "0xd03",
        "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32",
    ),
}
DEBIAN = {"bullseye": "11", "bookworm": "12", "trixie": "13"}
UBUNTU = {"bionic": "18.04", "focal": "20.04", "jammy": "22.04", "noble": "24.04"}


@dataclass
class Tree:
    """A board's files below `top`.

    Attributes:
        top: the folder that stands for "/".
    """

    top: Path

    def write(self, path: str, text: str) -> Tree:
        """Puts a file there."""
        place = self.top / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return self

    def tool(self, name: str, script: str) -> Tree:
        """Puts a program there."""
        path = f"/usr/bin/{name}"
        self.write(path, f"#!/bin/sh\n{script}\n")
        (self.top / path.lstrip("/")).chmod(0o755)
        return self

    def board(self, model: str, *compatible: str) -> Tree:
        """Device tree."""
        base = "/sys/firmware/devicetree/base"
        self.write(f"{base}/model", model + "\0")
        return self.write(f"{base}/compatible", "".join(f"{text}\0" for text in compatible))

    def system(self, codename: str) -> Tree:
        """/etc/os-release."""
        debian = codename in DEBIAN
        name, number = ("Debian GNU/Linux", DEBIAN[codename]) if debian else ("Ubuntu", UBUNTU[codename])
        lines = [
            f'PRETTY_NAME="{name} {number} ({codename})"',
            f'VERSION_ID="{number}"',
            f"VERSION_CODENAME={codename}",
            f"ID={'debian' if debian else 'ubuntu'}",
        ]
        return self.write("/etc/os-release", "\n".join(lines) + "\n")

    def processor(self, cpu: str, cores: int, online: str = "") -> Tree:
        """/proc/cpuinfo, and which cores there are."""
        implementer, part, features = CPUINFO[cpu]
        one = f"Features\t: {features}\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n\n"
        self.write("/proc/cpuinfo", "".join(f"processor\t: {core}\n{one}" for core in range(cores)))
        self.write("/sys/devices/system/cpu/present", f"0-{cores - 1}\n")
        return self.write("/sys/devices/system/cpu/online", (online or f"0-{cores - 1}") + "\n")

    def memory(self, megabytes: int, swap: int = 0) -> Tree:
        """/proc/meminfo."""
        lines = {"MemTotal": megabytes, "MemAvailable": megabytes * 3 // 4, "SwapTotal": swap}
        return self.write("/proc/meminfo", "".join(f"{key}: {value * 1024} kB\n" for key, value in lines.items()))

    def clock(self, policy: int, cpus: str, governor: str, low: int, high: int, now: int) -> Tree:
        """A cpufreq policy."""
        folder = f"/sys/devices/system/cpu/cpufreq/policy{policy}"
        values = {
            "related_cpus": cpus,
            "scaling_governor": governor,
            "scaling_available_governors": "performance powersave schedutil ",
            "scaling_min_freq": low,
            "scaling_max_freq": high,
            "cpuinfo_max_freq": high,
            "scaling_cur_freq": now,
        }
        for name, value in values.items():
            self.write(f"{folder}/{name}", f"{value}\n")
        return self

    def bare_clock(self, now: int) -> Tree:
        """Only the first core's clock, as some kernels show it, and no policy."""
        shutil.rmtree(self.top / "sys/devices/system/cpu/cpufreq")
        return self.write("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", f"{now}\n")

    def zone(self, number: int, kind: str, millidegrees: int) -> Tree:
        """A thermal zone."""
        folder = f"/sys/class/thermal/thermal_zone{number}"
        return self.write(f"{folder}/type", kind + "\n").write(f"{folder}/temp", f"{millidegrees}\n")

    def cooling(self, number: int, kind: str, state: int, most: int = 3) -> Tree:
        """What the kernel can do against heat."""
        folder = f"/sys/class/thermal/cooling_device{number}"
        self.write(f"{folder}/type", kind + "\n").write(f"{folder}/cur_state", f"{state}\n")
        return self.write(f"{folder}/max_state", f"{most}\n")

    def over_current(self, number: int, *counts: int) -> Tree:
        """Counts of over-current events, oc1 first."""
        folder = f"/sys/class/hwmon/hwmon{number}"
        self.write(f"{folder}/name", "soctherm_oc\n")
        for event, count in enumerate(counts, start=1):
            self.write(f"{folder}/oc{event}_event_cnt", f"{count}\n").write(f"{folder}/oc{event}_throt_en", "1\n")
        return self

    def gpu(self, name: str, low_khz: int, high_khz: int, now_khz: int, governor: str = "nvhost_podgov") -> Tree:
        """A clock of the GPU, in hertz as devfreq tells it."""
        folder = f"/sys/class/devfreq/{name}"
        for file, khz in (("min_freq", low_khz), ("max_freq", high_khz), ("cur_freq", now_khz)):
            self.write(f"{folder}/{file}", f"{khz * 1000}\n")
        return self.write(f"{folder}/governor", governor + "\n")

    def ina3221(self, number: int, *labels: str) -> Tree:
        """A power monitor as JetPack 5 and later show it: 5 V, 0.4 A on every channel."""
        folder = f"/sys/class/hwmon/hwmon{number}"
        self.write(f"{folder}/name", "ina3221\n")
        for channel, label in enumerate(labels, start=1):
            self.write(f"{folder}/in{channel}_label", label + "\n").write(f"{folder}/in{channel}_input", "5000\n")
            self.write(f"{folder}/curr{channel}_input", "400\n")
            self.write(f"{folder}/in{channel + 3}_input", "400\n")
        self.write(f"{folder}/in7_label", "sum of shunt voltages\n").write(f"{folder}/in7_input", "1200\n")
        return self.write(f"{folder}/curr4_input", "1200\n").write(f"{folder}/update_interval", "2\n")

    def ina3221_iio(self, number: int, *labels: str) -> Tree:
        """The same monitor as JetPack 4 shows it."""
        folder = f"/sys/bus/iio/devices/iio:device{number}"
        for channel, label in enumerate(labels):
            self.write(f"{folder}/rail_name_{channel}", label + "\n").write(
                f"{folder}/in_power{channel}_input", "900\n"
            )
        return self

    def l4t(self, major: int, revision: str) -> Tree:
        """/etc/nv_tegra_release."""
        text = f"# R{major} (release), REVISION: {revision}, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: x\n"
        return self.write("/etc/nv_tegra_release", text)

    def packages(self, **versions: str) -> Tree:
        """dpkg-query that knows these packages, "_" for "-" in names; exit status 1, as where a pattern fits none."""
        lines = [f"{name.replace('_', '-')} {text} install ok installed" for name, text in versions.items()]
        lines.append("libcudnn7 7.0-1 deinstall ok config-files")
        return self.tool("dpkg-query", "cat <<'END'\n" + "\n".join(lines) + "\nEND\nexit 1")

    def nvpmodel(self, number: int, *modes: str) -> Tree:
        """nvpmodel's files."""
        text = "".join(
            f"< POWER_MODEL ID={index} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for index, name in enumerate(modes)
        )
        self.write("/etc/nvpmodel.conf", "# comment\n" + text)
        return self.write("/var/lib/nvpmodel/status", f"pmode:{number:04d} fmode:quiet\n")


def raspberry_pi(top: Path, kind: str, codename: str = "bookworm", *, armv7: bool = False) -> Tree:
    """A Raspberry Pi: kind "3", "4", "5" or "zero-2-w"."""
    model, name, chip, cpu, memory = {
        "3": ("Raspberry Pi 3 Model B Plus Rev 1.3", "3-model-b-plus", "bcm2837", "cortex-a53", 906),
        "4": ("Raspberry Pi 4 Model B Rev 1.4", "4-model-b", "bcm2711", "cortex-a72", 3792),
        "5": ("Raspberry Pi 5 Model B Rev 1.0", "5-model-b", "bcm2712", "cortex-a76", 8054),
        "zero-2-w": ("Raspberry Pi Zero 2 W Rev 1.0", "model-zero-2-w", "bcm2837", "cortex-a53", 416),
    }[kind]
    high = {"3": 1400000, "4": 1800000, "5": 2400000, "zero-2-w": 1000000}[kind]
    tree = Tree(top).board(model, f"raspberrypi,{name}", f"brcm,{chip}").system(codename).memory(memory, 200)
    tree.processor("armv7" if armv7 else cpu, 4).clock(0, "0 1 2 3", "ondemand", 600000, high, 600000)
    tree.zone(0, "cpu-thermal", 48312).write("/proc/uptime", "361.20 1400.00\n")
    adc = ""
    if kind == "5":
        adc = "  VDD_CORE_A current(7)=1.42880000A\\n  VDD_CORE_V volt(15)=0.90659250V\\n  EXT5V_V volt(24)=5.05V\\n"
    script = f"case $1 in get_throttled) echo throttled=0x50005;; pmic_read_adc) printf '{adc}'; test -n '{adc}';; esac"
    return tree.tool("vcgencmd", script)


def jetson(top: Path, kind: str) -> Tree:
    """A Jetson: kind "nano", "xavier-nx", "agx-xavier", "agx-orin", "orin-nano", "orin-nano-jetpack7" or "thor"."""
    tree = Tree(top)
    if kind == "nano":
        tree.board("NVIDIA Jetson Nano Developer Kit", "nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,tegra210")
        tree.system("bionic").processor("cortex-a57", 4).memory(3956, 1978).l4t(32, "7.4")
        tree.clock(0, "0 1 2 3", "schedutil", 102000, 1479000, 102000)
        tree.zone(0, "AO-therm", 41000).zone(1, "CPU-therm", 32500).zone(2, "PMIC-Die", 100000)
        tree.ina3221_iio(0, "POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU").nvpmodel(1, "MAXN", "5W")
        tree.gpu("57000000.gpu", 76800, 640000, 76800).cooling(0, "pwm-fan", 2).cooling(1, "gpu-balanced", 0)
        tree.write("/usr/local/cuda/version.txt", "CUDA Version 10.2.300\n").tool("jetson_clocks", "exit 1")
        return tree.packages(libnvinfer8="8.2.1-1+cuda10.2", libcudnn8="8.2.1.32-1+cuda10.2")
    if kind == "xavier-nx":
        tree.board("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3509-0000+p3668-0000", "nvidia,tegra194")
        tree.system("focal").processor("nvidia-carmel", 6, "0-3").memory(6849, 3424).l4t(35, "4.1")
        for first in (0, 2, 4):
            tree.clock(first, f"{first} {first + 1}", "schedutil", 115200, 1907200, 1190400)
        tree.zone(0, "CPU-therm", 40500).zone(1, "GPU-therm", 39000).ina3221(0, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
        tree.nvpmodel(2, "MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_15W_6CORE")
        tree.gpu("17000000.gv11b", 114750, 1109250, 114750).cooling(0, "pwm-fan", 1).cooling(1, "CPU-balanced", 0)
        return tree.packages(
            nvidia_l4t_core="35.4.1-20230801124926",
            libnvinfer8="8.5.2-1+cuda11.4",
            cuda_cudart_11_4="11.4.298-1",
            nvidia_jetpack="5.1.2-b104",
        )
    if kind == "agx-xavier":
        tree.board("Jetson-AGX", "nvidia,p2972-0000", "nvidia,tegra194").system("bionic").processor("nvidia-carmel", 8)
        tree.memory(31919, 15959).l4t(32, "7.4").clock(0, "0 1 2 3 4 5 6 7", "schedutil", 115200, 2265600, 1190400)
        tree.ina3221_iio(0, "GPU", "CPU", "SOC").ina3221_iio(1, "CV", "VDDRQ", "SYS5V")
        return tree.gpu("17000000.gv11b", 114750, 1377000, 1377000).nvpmodel(0, "MAXN", "MODE_10W")
    if kind == "agx-orin":
        tree.board("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005", "nvidia,tegra234")
        tree.system("jammy").processor("cortex-a78ae", 12).memory(62841, 31420).l4t(36, "4.4")
        tree.clock(0, "0 1 2 3 4 5 6 7 8 9 10 11", "schedutil", 115200, 2201600, 729600)
        tree.ina3221(3, "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0").ina3221(4, "NC", "VDDQ_VDD2_1V8AO", "NC")
        return tree.gpu("17000000.gpu", 306000, 1300500, 306000).nvpmodel(0, "MAXN", "MODE_15W")
    if kind.startswith("orin-nano"):
        seven = kind.endswith("7")
        tree.board(
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            "nvidia,p3768-0000+p3767-0005-super",
            "nvidia,p3767-0005",
            "nvidia,tegra234",
        )
        tree.system("noble" if seven else "jammy").processor("cortex-a78ae", 6).memory(7620, 3810)
        tree.l4t(*((39, "2.0") if seven else (36, "4.4"))).tool("sudo", "exit 0").tool("jetson_clocks", "exit 1")
        tree.clock(0, "0 1 2 3", "schedutil", 115200, 1728000, 729600)
        tree.clock(4, "4 5", "schedutil", 115200, 1728000, 729600)
        tree.zone(0, "cpu-thermal", 46125).zone(1, "gpu-thermal", 46500).zone(10, "tj-thermal", 46500)
        tree.zone(2, "cv0-thermal", -256000).ina3221(1, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
        tree.nvpmodel(2, "15W", "25W", "MAXN_SUPER", "7W").gpu("17000000.gpu", 306000, 1020000, 306000)
        tree.over_current(3, 0, 15, 37).cooling(0, "pwm-fan", 2).cooling(1, "cpu-throttle-alert", 0, 2)
        tree.write("/usr/local/cuda/version.json", '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}')
        return tree.packages(libnvinfer10="10.3.0.30-1+cuda12.5", libcudnn9_cuda_12="9.3.0.75-1")
    tree.board("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008", "nvidia,tegra264")
    tree.system("noble").processor("neoverse-v3ae", 14, "0-11,13").memory(125749).l4t(38, "4.0")
    tree.clock(0, "0 1 2 3 4 5 6 7 8 9 10 11 12 13", "schedutil", 54000, 2601000, 2601000)
    tree.zone(0, "cpu-thermal", 58250).zone(1, "tj-thermal", 66625).nvpmodel(1, "MAXN", "120W")
    tree.write("/sys/class/hwmon/hwmon3/name", "ina238\n").write("/sys/class/hwmon/hwmon3/power1_input", "124486000\n")
    tree.gpu("gpu-gpc-0", 314000, 1575000, 314000).gpu("gpu-nvd-0", 314000, 1692000, 314000)
    tree.cooling(7, "pwm-fan", 1).cooling(8, "cpu-throttle-alert", 0, 2).cooling(12, "devfreq-gpu-gpc-0", 0, 169)
    tree.ina3221(2, "VDD_GPU", "NC", "VIN_SYS_5V0").write("/usr/src/tensorrt/bin/trtexec", "")
    return tree.write("/usr/lib/aarch64-linux-gnu/libnvinfer.so.10.13.3", "").write(
        "/usr/lib/aarch64-linux-gnu/libnvinfer.so.10", ""
    )


def workstation(top: Path) -> Tree:
    """An x86-64 machine."""
    tree = Tree(top).system("noble").memory(32000, 8000)
    flags = "fpu vme sse4_1 avx avx2 fma f16c avx512f avx512bw avx512_vnni avx_vnni"
    tree.write("/proc/cpuinfo", f"processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7\nflags\t\t: {flags}\n")
    tree.zone(0, "acpitz", 27800).zone(1, "x86_pkg_temp", 51000)
    folder = "/sys/class/powercap/intel-rapl:0"
    return tree.write(f"{folder}/name", "package-0\n").write(f"{folder}/energy_uj", "262143\n")
