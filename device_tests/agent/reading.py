"""How the agent looks at its board: files below a root, and commands with a time limit. It only ever reads."""

import glob
import os
import re
import subprocess

COMMAND_S = 5

# A command over SSH gets a short PATH: nvpmodel and its like lie in sbin.
_TOOL_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/vc/bin")


class Root:
    """A board's file system and its tools.

    Attributes:
        top: "/" on a board; a folder where a test has laid one out.
    """

    def __init__(self, top: str = "/") -> None:
        self.top = top

    def path(self, path):
        """Where a board's absolute path lies."""
        return os.path.join(self.top, path.lstrip("/"))

    def text(self, path):
        """The file's text without NULs and outer space; None where it cannot be read, or is empty."""
        try:
            with open(self.path(path), "rb") as stream:
                return stream.read().replace(b"\0", b"").decode("utf-8", "replace").strip() or None
        except OSError:
            return None

    def strings(self, path):
        """The NUL-separated strings of a device tree's property."""
        try:
            with open(self.path(path), "rb") as stream:
                return [part.decode("utf-8", "replace") for part in stream.read().split(b"\0") if part]
        except OSError:
            return []

    def number(self, path):
        """The whole number in the file, or None."""
        return number(self.text(path))

    def glob(self, pattern):
        """Absolute paths of the board that fit, zone2 before zone10."""
        cut = len(self.top.rstrip("/"))
        return sorted((found[cut:] for found in glob.glob(self.path(pattern))), key=_naturally)

    def exists(self, path):
        """Whether the path is there."""
        return os.path.exists(self.path(path))

    def writable(self, path):
        """Whether we may write there. Nothing is written."""
        return os.access(self.path(path), os.W_OK)

    def tool(self, name):
        """The full path of a program, or None."""
        on_path = os.environ.get("PATH", "").split(os.pathsep) if self.top == "/" else []
        folders = on_path + [self.path(folder) for folder in _TOOL_FOLDERS]
        places = [os.path.join(folder, name) for folder in folders if folder]
        return next((place for place in places if os.path.isfile(place) and os.access(place, os.X_OK)), None)

    def command(self, *argv, codes=(0,)):
        """What a program prints to stdout; None where it is not there, fails or takes more than `COMMAND_S` seconds."""
        tool = self.tool(argv[0])
        if tool is None:
            return None
        try:
            done = subprocess.run(
                [tool, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_S,
                check=False,
                env=dict(os.environ, LC_ALL="C"),
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode("utf-8", "replace").strip() if done.returncode in codes else None


def number(text):
    """The text as a whole number, or None."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _naturally(path):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
