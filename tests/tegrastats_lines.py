"""Lines of tegrastats from every generation of Jetsons, and what they tell.

Those whose record was shortened ("...") are as short here: what is left out must come back as unparsed, not as a
figure. Whole lines are from boards of people who published their logs.
"""

from __future__ import annotations

from typing import Any

from device_tests.agent.sensors import tegrastats

NOTHING: dict[str, Any] = tegrastats.parse("")


def ram(used: int, total: int, blocks: int, block_kb: int) -> dict[str, int]:
    return {"used_mb": used, "total_mb": total, "lfb_blocks": blocks, "lfb_block_kb": block_kb}


def swap(used: int, total: int, cached: int) -> dict[str, int]:
    return {"used_mb": used, "total_mb": total, "cached_mb": cached}


def load(percent: float | None, *mhz: int) -> dict[str, Any]:
    return {"on": True, "percent": percent, "mhz": list(mhz)}


OFF = {"on": False, "percent": None, "mhz": []}


def cores(mhz: int | None, *percents: float | None) -> list[dict[str, Any] | None]:
    return [None if percent is None else {"percent": percent, "mhz": mhz} for percent in percents]


def degrees(**zones: float | tuple[float, float]) -> dict[str, dict[str, float | None]]:
    return {
        name: {"celsius": now[0], "max_celsius": now[1]}
        if isinstance(now, tuple)
        else {"celsius": now, "max_celsius": None}
        for name, now in zones.items()
    }


def rails(**told: tuple[int, ...]) -> dict[str, dict[str, int | None]]:
    return {
        name: {"current_mw": now[0], "average_mw": now[1], "peak_mw": now[2] if len(now) > 2 else None}
        for name, now in told.items()
    }


def told(line: str, expected: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A line, and every figure of it that is not the one of an empty line."""
    return line, NOTHING | expected


LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "Nano R32, root": told(
        "RAM 331/3964MB (lfb 758x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [..%@102,...] "
        "EMC_FREQ 3%@204 GR3D_FREQ 0%@76 APE 25 PLL@20.5C CPU@23.5C PMIC@100C GPU@22.5C AO@27.5C thermal@23C "
        "POM_5V_IN 933/933 POM_5V_GPU 0/0 POM_5V_CPU 84/105",
        {
            "ram": ram(331, 3964, 758, 4096),
            "swap": swap(0, 1982, 0),
            "iram": {"used_kb": 0, "total_kb": 252, "lfb_kb": 252},
            "engines": {"EMC": load(3, 204), "GR3D": load(0, 76), "APE": load(None, 25)},
            "temperatures": degrees(PLL=20.5, CPU=23.5, GPU=22.5, AO=27.5, thermal=23),
            "rails": rails(POM_5V_IN=(933, 933), POM_5V_GPU=(0, 0), POM_5V_CPU=(84, 105)),
            "dropped": ["PMIC@100C"],
            "unparsed": ["CPU [..%@102,...]"],
        },
    ),
    "Nano R32, not root": told(
        "RAM 331/3964MB (lfb 758x4MB) SWAP 0/1982MB (cached 0MB) CPU [2%@102,0%@102,off,off] EMC_FREQ 0% GR3D_FREQ 0% "
        "APE 25 PLL@20.5C CPU@23.5C PMIC@100C GPU@22.5C AO@27.5C thermal@23C POM_5V_IN 933/933 POM_5V_GPU 0/0 "
        "POM_5V_CPU 84/105",
        {
            "ram": ram(331, 3964, 758, 4096),
            "swap": swap(0, 1982, 0),
            "cpus": cores(102, 2, 0, None, None),
            "engines": {"EMC": load(0), "GR3D": load(0), "APE": load(None, 25)},
            "temperatures": degrees(PLL=20.5, CPU=23.5, GPU=22.5, AO=27.5, thermal=23),
            "rails": rails(POM_5V_IN=(933, 933), POM_5V_GPU=(0, 0), POM_5V_CPU=(84, 105)),
            "dropped": ["PMIC@100C"],
        },
    ),
    "TX2 R32": told(
        "... GR3D_FREQ 0%@140 APE 150 MTS fg 0% bg 0% BCPU@30C MCPU@30C GPU@28C PLL@30C Tboard@26C Tdiode@27C "
        "PMIC@100C thermal@29.2C VDD_IN 1383/1383 VDD_CPU 153/191 VDD_GPU 76/76 VDD_SOC 384/384 VDD_WIFI 364/335 "
        "VDD_DDR 192/201",
        {
            "engines": {"GR3D": load(0, 140), "APE": load(None, 150)},
            "mts": {"foreground_percent": 0, "background_percent": 0},
            "temperatures": degrees(BCPU=30, MCPU=30, GPU=28, PLL=30, Tboard=26, Tdiode=27, thermal=29.2),
            "rails": rails(
                VDD_IN=(1383, 1383),
                VDD_CPU=(153, 191),
                VDD_GPU=(76, 76),
                VDD_SOC=(384, 384),
                VDD_WIFI=(364, 335),
                VDD_DDR=(192, 201),
            ),
            "dropped": ["PMIC@100C"],
            "unparsed": ["..."],
        },
    ),
    "AGX Xavier R32": told(
        "... GPU 1155/1155 CPU 385/385 SOC 2502/2502 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692",
        {
            "rails": rails(
                GPU=(1155, 1155), CPU=(385, 385), SOC=(2502, 2502), CV=(0, 0), VDDRQ=(192, 192), SYS5V=(2692, 2692)
            ),
            "unparsed": ["..."],
        },
    ),
    "AGX Xavier R32, whole": told(
        "RAM 10881/31919MB (lfb 4230x4MB) SWAP 0/15959MB (cached 0MB) "
        "CPU [17%@1190,17%@1190,18%@1190,25%@1190,17%@1336,15%@1340,23%@1543,15%@1574] EMC_FREQ 55%@2133 "
        "GR3D_FREQ 95%@1377 APE 150 MTS fg 0% bg 10% AO@48C GPU@54.5C Tdiode@53.25C PMIC@100C AUX@46C CPU@49C "
        "thermal@49.45C Tboard@47C GPU 18401/18525 CPU 2301/2330 SOC 4602/4602 CV 0/0 VDDRQ 2914/2911 SYS5V 4632/4620",
        {
            "ram": ram(10881, 31919, 4230, 4096),
            "swap": swap(0, 15959, 0),
            "cpus": [
                *cores(1190, 17, 17, 18, 25),
                *cores(1336, 17),
                *cores(1340, 15),
                *cores(1543, 23),
                *cores(1574, 15),
            ],
            "engines": {"EMC": load(55, 2133), "GR3D": load(95, 1377), "APE": load(None, 150)},
            "mts": {"foreground_percent": 0, "background_percent": 10},
            "temperatures": degrees(AO=48, GPU=54.5, Tdiode=53.25, AUX=46, CPU=49, thermal=49.45, Tboard=47),
            "rails": rails(
                GPU=(18401, 18525),
                CPU=(2301, 2330),
                SOC=(4602, 4602),
                CV=(0, 0),
                VDDRQ=(2914, 2911),
                SYS5V=(4632, 4620),
            ),
            "dropped": ["PMIC@100C"],
        },
    ),
    "Xavier NX R35, whole": told(
        "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) "
        "CPU [23%@1397,17%@1192,16%@1190,13%@1190,23%@1190,10%@1190] EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 "
        "APE 150 AUX@45C CPU@46.5C thermal@45.6C AO@45C GPU@45.5C PMIC@50C VDD_IN 2763mW/2846mW "
        "VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW",
        {
            "date": "2024-07-09T13:31:31",
            "ram": ram(3168, 6851, 2, 4096),
            "swap": swap(161, 3426, 0),
            "cpus": [*cores(1397, 23), *cores(1192, 17), *cores(1190, 16, 13, 23, 10)],
            "engines": {
                "EMC": load(2, 204),
                "GR3D": load(0, 114),
                "VIC": load(None, 115),
                "APE": load(None, 150),
            },
            "temperatures": degrees(AUX=45, CPU=46.5, thermal=45.6, AO=45, GPU=45.5),
            "rails": rails(VDD_IN=(2763, 2846), VDD_CPU_GPU_CV=(650, 670), VDD_SOC=(650, 711)),
            "dropped": ["PMIC@50C"],
        },
    ),
    "AGX Orin R35": told(
        "01-03-2023 16:07:54 RAM 2257/30536MB (lfb 5392x4MB) SWAP ... CPU [..@729 x12] EMC_FREQ 0%@204 GR3D_FREQ 0%@0 "
        "GR3D2_FREQ 0%@0 NVJPG1 729 VIC_FREQ 115 APE 233 CV0@-256C CPU@41.437C ... tj@41.656C "
        "VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV 796mW/796mW VIN_SYS_5V0 3522mW/3522mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW",
        {
            "date": "2023-01-03T16:07:54",
            "ram": ram(2257, 30536, 5392, 4096),
            "engines": {
                "EMC": load(0, 204),
                "GR3D": load(0, 0),
                "GR3D2": load(0, 0),
                "NVJPG1": load(None, 729),
                "VIC": load(None, 115),
                "APE": load(None, 233),
            },
            "temperatures": degrees(CPU=41.437, tj=41.656),
            "rails": rails(
                VDD_GPU_SOC=(2390, 2390),
                VDD_CPU_CV=(796, 796),
                VIN_SYS_5V0=(3522, 3522),
                VDDQ_VDD2_1V8AO=(301, 301),
            ),
            "dropped": ["CV0@-256C", "NC 0mW/0mW", "NC 0mW/0mW"],
            "unparsed": ["SWAP ...", "CPU [..@729 x12]", "..."],
        },
    ),
    "Orin Nano R35": told(
        "01-24-2024 09:17:09 RAM 3503/7337MB (lfb 7x1MB) SWAP 430/3668MB (cached 1MB) "
        "CPU [11%@729,13%@729,9%@729,18%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@305 GR3D2_FREQ 0%@0 VIC_FREQ 115 "
        "APE 174 CV0@42.718C CPU@44.093C ... VDD_IN 4915mW/4915mW VDD_CPU_GPU_CV 449mW/449mW VDD_SOC 1431mW/1431mW",
        {
            "date": "2024-01-24T09:17:09",
            "ram": ram(3503, 7337, 7, 1024),
            "swap": swap(430, 3668, 1),
            "cpus": cores(729, 11, 13, 9, 18, None, None),
            "engines": {
                "EMC": load(0, 2133),
                "GR3D": load(0, 305),
                "GR3D2": load(0, 0),
                "VIC": load(None, 115),
                "APE": load(None, 174),
            },
            "temperatures": degrees(CV0=42.718, CPU=44.093),
            "rails": rails(VDD_IN=(4915, 4915), VDD_CPU_GPU_CV=(449, 449), VDD_SOC=(1431, 1431)),
            "unparsed": ["..."],
        },
    ),
    "Orin Nano R36, root": told(
        "09-21-2025 15:38:17 RAM 3645/7620MB (lfb 63x4MB) SWAP 236/3810MB (cached 0MB) CPU [1%@729,...] "
        "EMC_FREQ 0%@204 GR3D_FREQ 0%@[305] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@44.125C "
        "soc2@43.375C soc0@42.125C gpu@44.531C tj@44.531C soc1@43.156C VDD_IN 2957mW/2957mW "
        "VDD_CPU_GPU_CV 486mW/486mW VDD_SOC 1012mW/1012mW",
        {
            "date": "2025-09-21T15:38:17",
            "ram": ram(3645, 7620, 63, 4096),
            "swap": swap(236, 3810, 0),
            "engines": {
                "EMC": load(0, 204),
                "GR3D": load(0, 305),
                "NVDEC": OFF,
                "NVJPG": OFF,
                "NVJPG1": OFF,
                "VIC": OFF,
                "OFA": OFF,
                "APE": load(None, 200),
            },
            "temperatures": degrees(cpu=44.125, soc2=43.375, soc0=42.125, gpu=44.531, tj=44.531, soc1=43.156),
            "rails": rails(VDD_IN=(2957, 2957), VDD_CPU_GPU_CV=(486, 486), VDD_SOC=(1012, 1012)),
            "unparsed": ["CPU [1%@729,...]"],
        },
    ),
    "AGX Orin R36, whole": told(
        "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU [14%@2188,5%@2112,"
        "8%@2035,14%@2201,46%@1267,47%@1267,2%@1267,10%@1267,4%@1036,5%@1036,6%@1036,10%@1036] EMC_FREQ 3%@2133 "
        "GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off NVJPG off NVJPG1 off VIC 36%@115 OFA off NVDLA0 off NVDLA1 off "
        "PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C soc0@49.093C tj@52.562C soc1@49.656C VDD_GPU_SOC 2412mW/2412mW "
        "VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW",
        {
            "date": "2026-05-09T18:42:06",
            "ram": ram(18207, 62841, 466, 4096),
            "swap": swap(86, 31420, 0),
            "cpus": [
                *cores(2188, 14),
                *cores(2112, 5),
                *cores(2035, 8),
                *cores(2201, 14),
                *cores(1267, 46, 47, 2, 10),
                *cores(1036, 4, 5, 6, 10),
            ],
            "engines": {
                "EMC": load(3, 2133),
                "GR3D": load(0, 0, 0),
                "NVENC": load(79, 166),
                "VIC": load(36, 115),
                "APE": load(None, 174),
                **dict.fromkeys(("NVDEC", "NVJPG", "NVJPG1", "OFA", "NVDLA0", "NVDLA1", "PVA0"), OFF),
            },
            "temperatures": degrees(cpu=52.562, soc2=48.437, soc0=49.093, tj=52.562, soc1=49.656),
            "rails": rails(VDD_GPU_SOC=(2412, 2412), VDD_CPU_CV=(1607, 1607), VIN_SYS_5V0=(4707, 4707)),
        },
    ),
    "Orin Nano R36, not root": told(
        "03-09-2026 14:12:52 RAM 1905/7620MB (lfb 36x4MB) SWAP 320/12002MB (cached 20MB) CPU [0%@729,...] GR3D_FREQ 0% "
        "cpu@46.125C ... VDD_IN 4742mW/4742mW VDD_CPU_GPU_CV 482mW/482mW VDD_SOC 1446mW/1446mW",
        {
            "date": "2026-03-09T14:12:52",
            "ram": ram(1905, 7620, 36, 4096),
            "swap": swap(320, 12002, 20),
            "engines": {"GR3D": load(0)},
            "temperatures": degrees(cpu=46.125),
            "rails": rails(VDD_IN=(4742, 4742), VDD_CPU_GPU_CV=(482, 482), VDD_SOC=(1446, 1446)),
            "unparsed": ["CPU [0%@729,...]", "..."],
        },
    ),
    "Thor R38, whole": told(
        "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,0%@972,8%@972,off] EMC_FREQ 0%@2750 "
        "GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 NVDEC1_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off APE 300 "
        "cpu@37.343C tj@38.875C soc012@37.468C gpu@38.875C soc345@37.406C VDD_GPU 1962mW/1962mW "
        "VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW",
        {
            "date": "2026-04-21T15:50:52",
            "ram": ram(105265, 125772, 34, 4096),
            "cpus": cores(972, 0, 0, 8, None),
            "engines": {
                "EMC": load(0, 2750),
                "GR3D": load(None, 314, 314, 314),
                "NVENC0": load(None, 314),
                "NVDEC1": load(None, 314),
                "VIC": OFF,
                "OFA": load(None, 315),
                "PVA0": OFF,
                "APE": load(None, 300),
            },
            "temperatures": degrees(cpu=37.343, tj=38.875, soc012=37.468, gpu=38.875, soc345=37.406),
            "rails": rails(
                VDD_GPU=(1962, 1962), VDD_CPU_SOC_MSS=(5887, 5887), VIN_SYS_5V0=(5635, 5635), VIN=(19780, 19780)
            ),
        },
    ),
    "Orin Nano R39": told(
        "09-01-2026 09:25:18 RAM 5739/7546MB (lfb 1x2MB) SWAP 2047/2048MB (cached 209MB) CPU [72%@1728,...] "
        "GR3D_FREQ 33% cpu@50C/50C soc2@47.937C/47.937C ... tj@50C/50C VDD_IN 9761mW/9761mW/9761mW "
        "VDD_CPU_GPU_CV 4238mW/4238mW/4238mW VDD_SOC 1825mW/1825mW/1825mW",
        {
            "date": "2026-09-01T09:25:18",
            "ram": ram(5739, 7546, 1, 2048),
            "swap": swap(2047, 2048, 209),
            "engines": {"GR3D": load(33)},
            "temperatures": degrees(cpu=(50, 50), soc2=(47.937, 47.937), tj=(50, 50)),
            "rails": rails(VDD_IN=(9761, 9761, 9761), VDD_CPU_GPU_CV=(4238, 4238, 4238), VDD_SOC=(1825, 1825, 1825)),
            "unparsed": ["CPU [72%@1728,...]", "..."],
        },
    ),
    "AGX Orin R39.2": told(
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,...] EMC_FREQ 3%@3199 "
        "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC0 off ... NVDLA0 off PVA0_FREQ off APE 174 cpu@52.968C/52.968C ... "
        "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/... VIN_SYS_5V0 5500mW/5500mW/5500mW",
        {
            "date": "2026-07-25T09:08:28",
            "ram": ram(20642, 62817, 1, 2048),
            "engines": {
                "EMC": load(3, 3199),
                "GR3D": load(12, 1300, 1300),
                "APE": load(None, 174),
                **dict.fromkeys(("NVENC0", "NVDEC0", "NVDLA0", "PVA0"), OFF),
            },
            "temperatures": degrees(cpu=(52.968, 52.968)),
            "rails": rails(VDD_GPU_SOC=(5139, 5139, 5139), VIN_SYS_5V0=(5500, 5500, 5500)),
            "unparsed": ["CPU [23%@2201,...]", "...", "...", "VDD_CPU_CV 3268mW/..."],
        },
    ),
    "Thor R39": told(
        "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] EMC_FREQ 34%@4266 "
        "GR3D_FREQ 87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.625C gpu@... "
        "soc012@.. VDD_GPU 37939mW/8660mW/37939mW VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW "
        "VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW",
        {
            "date": "2026-08-08T21:00:39",
            "ram": ram(8353, 125749, 31, 4096),
            "cpus": cores(2601, 90, 75, None, 7),
            "engines": {
                "EMC": load(34, 4266),
                "GR3D": load(87, 1574, 1574, 1574),
                "NVENC0": load(None, 1691),
                "VIC": OFF,
            },
            "temperatures": degrees(cpu=(58.25, 61.75), tj=(66.625, 66.625)),
            "rails": rails(
                VDD_GPU=(37939, 8660, 37939),
                VDD_CPU_SOC_MSS=(30059, 12281, 30059),
                VIN_SYS_5V0=(15486, 7424, 15486),
                VIN=(124486, 36487, 124486),
            ),
            "unparsed": ["gpu@... soc012@.."],
        },
    ),
    "Thor R39, idle": told(
        "CPU [0%,5%,off]@2601 EMC_FREQ @4266 GR3D_FREQ @[1574,1574,1574]",
        {
            "cpus": cores(2601, 0, 5, None),
            "engines": {"EMC": load(None, 4266), "GR3D": load(None, 1574, 1574, 1574)},
        },
    ),
}
