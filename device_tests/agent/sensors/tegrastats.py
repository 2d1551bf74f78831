"""One line of tegrastats as figures. What it cannot read, it keeps and does not guess.

The line differs by release and by who asks:
    JetPack 4 (L4T 32): rails without a unit, on the AGX Xavier under the names of temperatures ("GPU 1155/1155").
    JetPack 5 and 6 (35, 36): a date in front, "mW", engines that are "off", lists of clocks.
    JetPack 7 (38, 39): "current/average/peak" for rails, "current/max" for temperatures, clocks without a load.
    Who is not root sees no IRAM, no clock of GPU and memory, and on some releases no engines.
"""

import re
from datetime import datetime

_N = r"\d{1,9}(?:\.\d{1,6})?"
_CLOCKS = r"(\d{1,6}|\[[\d, ]{1,200}\])"

# Engines that stand with a bare number, which is their clock. Others must say what their number is.
_BARE = re.compile(r"(APE|NVENC|NVDEC|NVJPG|NVDLA|MSENC|VIC|OFA|PVA|SE)\d*$")
_OFFLINE_C = -256
# The PMIC of these boards has no sensor: its zone is a constant.
_PMIC_C = (50, 100)


def parse(line):
    """The figures of one line.

    Returns:
        "date": of the board's clock, ISO without a zone, or None.
        "ram": {"used_mb", "total_mb", "lfb_blocks", "lfb_block_kb"}; lfb: the largest free blocks. None where not told.
        "swap": {"used_mb", "total_mb", "cached_mb"}; "iram": {"used_kb", "total_kb", "lfb_kb"}; or None.
        "cpus": per core {"percent", "mhz"}, None for a core that is off. mhz may be None.
        "engines": name without "_FREQ" -> {"on", "percent", "mhz"}; percent may be None, mhz is a list, empty where not
            told. EMC is the memory, GR3D the GPU.
        "mts": {"foreground_percent", "background_percent"} or None.
        "temperatures": name -> {"celsius", "max_celsius"}; the latter may be None.
        "rails": name -> {"current_mw", "average_mw", "peak_mw"}; average and peak are since tegrastats started.
        "dropped": what is known to mean nothing: sensors that are off, constants, rails that are not connected.
        "unparsed": the rest, as it stood there.
    """
    found = {
        "date": None,
        "ram": None,
        "swap": None,
        "iram": None,
        "cpus": [],
        "engines": {},
        "mts": None,
        "temperatures": {},
        "rails": {},
        "dropped": [],
        "unparsed": [],
    }
    for take, match in tokens(line):
        if take is None:
            found["unparsed"].append(match)
        elif take(found, match) is False:
            # Its form is known, its content is not: a second one of the same name, a month 13, a load of 101 %.
            found["unparsed"].append(match.group())
    return found


def tokens(line):
    """Parts of the line in order: (function, match), or (None, text) for a stretch that nothing fits."""
    position, since, until = 0, None, 0
    while True:
        word = _WORD.search(line, position)
        if word is None:
            break
        take, match = _fitting(line, word.start())
        if take is None:
            since = word.start() if since is None else since
            position = until = word.end()
            continue
        if since is not None:
            yield None, line[since:until]
            since = None
        yield take, match
        position = match.end()
    if since is not None:
        yield None, line[since:until]


def _fitting(line, position):
    for pattern, take in _TOKENS:
        match = pattern.match(line, position)
        if match:
            return take, match
    return None, None


def _take_date(found, match):
    if found["date"] is not None:
        return False
    try:
        moment = datetime.strptime(match.group(), "%m-%d-%Y %H:%M:%S")  # noqa: DTZ007 - it tells no zone
    except ValueError:
        return False
    found["date"] = moment.isoformat()
    return True


def _take_ram(found, match):
    used, total, blocks, block, unit = match.groups()
    lfb = {
        "lfb_blocks": None if blocks is None else int(blocks),
        "lfb_block_kb": None if block is None else int(block) * (1024 if unit == "MB" else 1),
    }
    return _once(found, "ram", dict({"used_mb": int(used), "total_mb": int(total)}, **lfb))


def _take_swap(found, match):
    used, total, cached = match.groups()
    cached = None if cached is None else int(cached)
    return _once(found, "swap", {"used_mb": int(used), "total_mb": int(total), "cached_mb": cached})


def _take_iram(found, match):
    used, total, lfb = (int(text) for text in match.groups())
    return _once(found, "iram", {"used_kb": used, "total_kb": total, "lfb_kb": lfb})


def _take_mts(found, match):
    front, back = (int(text) for text in match.groups())
    if max(front, back) > 100:
        return False
    return _once(found, "mts", {"foreground_percent": front, "background_percent": back})


def _take_cpus(found, match):
    cores = []
    for text in match.group(1).split(","):
        core = _CORE.match(text.strip())
        if core is None or found["cpus"]:
            return False
        if core.group(1) is None:
            cores.append(None)
            continue
        # One clock behind the list is the clock of all.
        mhz = core.group(2) or match.group(2)
        cores.append({"percent": _number(core.group(1)), "mhz": None if mhz is None else int(mhz)})
        if cores[-1]["percent"] > 100:
            return False
    found["cpus"] = cores
    return True


def _take_temperature(found, match):
    name, now, top = match.group(1), float(match.group(2)), match.group(3)
    if now == _OFFLINE_C or (name.lower() == "pmic" and now in _PMIC_C):
        found["dropped"].append(match.group())
        return True
    top = None if top is None or float(top) == _OFFLINE_C else float(top)
    return _once(found["temperatures"], name, {"celsius": now, "max_celsius": top})


def _take_rail(found, match):
    name, now, mean = match.group("name", "now", "mean")
    peak = match.groupdict().get("peak")
    if name == "NC":
        found["dropped"].append(match.group())
        return True
    peak = None if peak is None else int(peak)
    return _once(found["rails"], name, {"current_mw": int(now), "average_mw": int(mean), "peak_mw": peak})


def _take_engine(found, match):
    name, value, percent, clocks = match.groups()
    try:
        mhz = [int(text) for text in (clocks or "").strip("[]").split(",") if text.strip()]
    except ValueError:
        return False
    percent = None if percent is None else _number(percent)
    if percent is not None and percent > 100:
        return False
    return _once(found["engines"], _plain(name), {"on": value.lower() != "off", "percent": percent, "mhz": mhz})


def _take_bare_clock(found, match):
    name, mhz = match.groups()
    if _plain(name) == name and not _BARE.match(name):
        return False
    return _once(found["engines"], _plain(name), {"on": True, "percent": None, "mhz": [int(mhz)]})


def _plain(name):
    return name[: -len("_FREQ")] if name.endswith("_FREQ") else name


def _once(place, name, value):
    """Puts it there, where nothing is yet: of two answers we do not choose one."""
    if place.get(name) is not None:
        return False
    place[name] = value
    return True


def _number(text):
    return float(text) if "." in text else int(text)


def _token(pattern, take):
    # ASCII: int() and float() would take the digits of other scripts, too.
    return re.compile(pattern + r"(?!\S)", re.ASCII), take


_WORD = re.compile(r"\S+", re.ASCII)
_CORE = re.compile(r"(?:off|(%s)%%(?:@(\d{1,6}))?)$" % _N, re.ASCII)
_RAIL = r"(?P<name>[A-Za-z]\w*) (?P<now>\d{1,9})%s/(?P<mean>\d{1,9})%s"
_TOKENS = [
    _token(r"\d\d-\d\d-\d{4} \d\d:\d\d:\d\d", _take_date),
    _token(r"RAM (\d{1,9})/(\d{1,9})MB(?: \(lfb (\d{1,9})x(\d{1,9})(MB|kB)\))?", _take_ram),
    _token(r"SWAP (\d{1,9})/(\d{1,9})MB(?: \(cached (\d{1,9})MB\))?", _take_swap),
    _token(r"IRAM (\d{1,9})/(\d{1,9})kB ?\(lfb (\d{1,9})kB\)", _take_iram),
    _token(r"CPU \[([^\[\]]{1,2000})\](?:@(\d{1,6}))?", _take_cpus),
    _token(r"MTS fg (\d{1,9})% bg (\d{1,9})%", _take_mts),
    _token(r"([A-Za-z][\w.-]*)@(-?%s)C(?:/(-?%s)C)?" % (_N, _N), _take_temperature),
    _token(_RAIL % ("mW", "mW") + r"(?:/(?P<peak>\d{1,9})mW)?", _take_rail),
    _token(_RAIL % ("", ""), _take_rail),
    _token(r"([A-Za-z]\w*) (off|OFF|(?=[\d@])(?:(%s)%%)?(?:@%s)?)" % (_N, _CLOCKS), _take_engine),
    _token(r"([A-Za-z]\w*) (\d{1,6})", _take_bare_clock),
]
