"""trtexec, NVIDIA's own program for building and timing engines: found, asked for its version, run with a deadline.

It needs no Python binding. JetPack puts it beside TensorRT's samples, where no PATH leads.

The version is that of the banner it begins with, whatever it is asked:
    &&&& RUNNING TensorRT.trtexec [TensorRT v8201] # ...            8.2.1; seen in logs of 8.0 to 8.6
    &&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] # ...    10.3.0; seen of 10.0 to 11.1, with a build number
                                                                    or without
A dotted one, v11.1.0.106, was seen in other programs' test data only, and is understood as well.
"""

import os
import re

from device_tests.agent import tool_process
from device_tests.agent.protocol import Deadline, Refusal

PLACE = "/usr/src/tensorrt/bin/trtexec"
ASKING_S = 30

_BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v(\d+(?:\.\d+)*)\]")
_LINE = re.compile(r"(?:\[\d\d/\d\d/\d{4}-[\d:]+\] )?\[([FEWIV])\] (?:\[TRT\] )?(.*)", re.DOTALL)
# Causes in lines of their own, with no mark of the log: the parser's second line, and what ends the program.
_LOOSE = re.compile(r"\[\d+\] Assertion failed|In node -?\d+ with name|terminate called|Cuda failure|\s*what\(\):")
_FAILED = "&&&& FAILED"


class Trtexec:
    """The program of a board.

    Attributes:
        path: of the program.
        version: of its TensorRT, as numbers: (10, 3, 0).
        fake: it says of itself that it is a stand-in.
    """

    def __init__(self, path, version, fake=False):
        self.path, self.version, self.fake = path, version, fake

    @property
    def text(self):
        """Its version as text."""
        return ".".join(str(part) for part in self.version)

    @property
    def name(self):
        """Program and version, for people."""
        return "%strtexec of TensorRT %s" % ("FAKE " if self.fake else "", self.text)

    def run(self, arguments, deadline, log, heard=None):
        """Runs it to its end.

        Args:
            arguments: after the program's name.
            deadline: when it is ended, with all that it has started.
            log: `log.Log` that takes what it says.
            heard: called with every line; nothing where None.

        Returns:
            Its exit status, negative for a signal; one that says it failed has none of 0.

        Raises:
            Refusal: "timeout"; "no-trtexec": it does not start.
        """
        return _run([self.path, *arguments], deadline, log, heard)


def find(root):
    """The board's trtexec: the one on the PATH, else JetPack's.

    Raises:
        Refusal: "no-trtexec": there is none, or it does not tell its version.
    """
    path = place(root)
    if path is None:
        raise Refusal("no-trtexec", "this board has no trtexec: sudo apt-get install libnvinfer-bin")
    told = []
    _run([path, "--help"], Deadline(ASKING_S), None, told.append)
    found = next((hit for hit in map(_BANNER.search, told) if hit), None)
    if found is None:
        first = " | ".join(told[:2]) or "nothing"
        raise Refusal("no-trtexec", "%s does not tell its version; it says: %s" % (path, first))
    return Trtexec(path, numbers(found.group(1)), fake=any("FAKE" in line for line in told[:5]))


def place(root):
    """Where the program lies; None where there is none."""
    found = root.tool("trtexec")
    if found is not None:
        return found
    path = root.path(PLACE)
    return path if os.path.isfile(path) and os.access(path, os.X_OK) else None


def numbers(text):
    """The banner's version as numbers. Up to 9 one digit stands for the minor version, from 10 on two."""
    if "." in text:
        return tuple(int(part) for part in text.split("."))
    number = int(text)
    if number < 10000:
        return (number // 1000, number // 100 % 10, number % 100)
    return (number // 10000, number // 100 % 100, number % 100)


def _run(argv, deadline, log, heard):
    failed = []

    def take(text):
        if text.startswith(_FAILED):
            failed.append(text)
        _take(text, log, heard)

    # A build would go on for minutes on a board that is free, were we killed.
    status = tool_process.run(argv, "no-trtexec", deadline, take, ends_with_us=True)
    if status is None:
        facts = {"errors": log.errors[:10]} if log is not None else {}
        raise Refusal("timeout", "trtexec was ended: it was not done in time", **facts)
    return 1 if failed and not status else status


def _take(text, log, heard):
    if heard is not None:
        heard(text)
    if log is None or not text:
        return
    found = _LINE.fullmatch(text)
    if found:
        log.add(found.group(1), found.group(2))
    else:
        log.add("E" if _LOOSE.match(text) else "I", text)
