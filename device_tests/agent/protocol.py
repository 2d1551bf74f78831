"""JSON lines between the workstation and the agent, and between the agent and its children.

A request is `{"id", "protocol", "method", "params", "timeout_s"}`. It is followed by any number of
`{"id", "event", ...}` and exactly one of `{"id", "result"}` or `{"id", "error": {"code", "message", ...}}`. A line
`{"heartbeat": true}` may stand between requests at any time; it has no answer.
The first line of a program is `MARKER`, so that what a login shell printed before it can be told apart.
"""

import collections
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback

PROTOCOL = 1
MARKER = "edgesmith-agent " + str(PROTOCOL)
GRACE_S = 10
HEARTBEAT = b'{"heartbeat": true}'


class Refusal(Exception):
    """An answer of the error kind.

    Attributes:
        code: stable word for programs.
        facts: further fields of the answer.
    """

    def __init__(self, code, message, **facts):
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = facts

    def as_dict(self):
        """The "error" field of an answer."""
        return dict(self.facts, code=self.code, message=self.message)


class Deadline:
    """A moment on the monotonic clock."""

    def __init__(self, seconds):
        self.at = time.monotonic() + seconds

    @property
    def remaining_s(self):
        """Seconds left; 0.0 once it has passed."""
        return max(0.0, self.at - time.monotonic())


class Lines:
    """Lines of a file descriptor, read in a thread so that waiting for one can have a deadline."""

    def __init__(self, fd, at_end=None, taken=None):
        """Starts to read.

        Args:
            fd: where from; closed by us.
            at_end: called in the reading thread once the other side has closed.
            taken: called there with every line; one that it takes, by a true answer, is not for `get`.
        """
        self._queue = queue.Queue()
        self._stream = os.fdopen(fd, "rb")
        self._at_end = at_end
        self._taken = taken
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        with self._stream:
            for line in self._stream:
                if self._taken is None or not self._taken(line):
                    self._queue.put(line)
        self._queue.put(None)
        if self._at_end is not None:
            self._at_end()

    def get(self, seconds=None):
        """The next line, or None at the end. Raises queue.Empty when none came in `seconds`."""
        line = self._queue.get(timeout=seconds)
        if line is None:
            self._queue.put(None)
        return line


class Tail:
    """The last lines of a stream, passed on to this program's stderr up to a limit: a board's link is thin."""

    PASSED_ON = 500

    def __init__(self, fd):
        self.lines = collections.deque(maxlen=40)
        self._passed = 0
        self._stream = os.fdopen(fd, "rb")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for raw in self._stream:
            line = raw.decode("utf-8", "replace").rstrip()
            self.lines.append(line)
            self.seen(line)
            if self._passed < self.PASSED_ON:
                self._passed += 1
                sys.stderr.write(line + "\n")

    def seen(self, line):
        """Called with every line."""

    def finish(self, seconds):
        """Waits for the end of the stream."""
        self._thread.join(seconds)


class Channel:
    """Where answers go: a private copy of stdout. What runtimes print to fd 1 lands on stderr instead."""

    def __init__(self):
        sys.stdout.flush()
        self._stream = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def write_marker(self):
        """Says that from here on every line is the protocol."""
        self._write(MARKER.encode())

    def send(self, message):
        """Writes one message."""
        self._write(json.dumps(message, allow_nan=False, sort_keys=True).encode())

    def _write(self, line):
        with self._lock:
            self._stream.write(line + b"\n")
            self._stream.flush()


def request(identity: int, method: str, params: dict, timeout_s: float) -> dict:
    """A request as the other side expects it."""
    return {"id": identity, "protocol": PROTOCOL, "method": method, "params": params, "timeout_s": timeout_s}


def answer(line, methods, channel):
    """Carries out one request line and sends its answer, whatever happens. For the main thread.

    A request that outlasts its time by `GRACE_S` ends the program by SIGALRM: the kernel keeps that promise even
    where a runtime hangs inside C.

    Args:
        line: bytes as they came.
        methods: name -> function(params, deadline, event); the result is JSON, `event(**fields)` reports on the way.
        channel: where the answer goes.
    """
    identity = None
    try:
        asked = _parse(line)
        identity = asked.get("id")
        if asked.get("protocol") != PROTOCOL:
            raise Refusal(
                "version-mismatch",
                "this agent speaks protocol %d, the request is of protocol %s" % (PROTOCOL, asked.get("protocol")),
                speaks=PROTOCOL,
            )
        name = asked.get("method")
        if name not in methods:
            raise Refusal("unknown-method", "no method %r; there are %s" % (name, ", ".join(sorted(methods))))

        def event(**fields):
            channel.send(dict(fields, id=identity))

        deadline = Deadline(float(asked.get("timeout_s", 60.0)))
        signal.alarm(int(deadline.remaining_s) + GRACE_S)
        message = {"id": identity, "result": methods[name](asked.get("params", {}), deadline, event)}
    except Refusal as refusal:
        message = {"id": identity, "error": refusal.as_dict()}
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        message = {"id": identity, "error": {"code": "system", "message": "%s: %s" % (type(error).__name__, error)}}
    except Exception as error:
        last = traceback.format_exc().strip().splitlines()[-6:]
        message = {
            "id": identity,
            "error": {"code": "internal", "message": "%s: %s" % (type(error).__name__, error), "stderr": last},
        }
    finally:
        signal.alarm(0)
    channel.send(message)


def _parse(line):
    try:
        asked = json.loads(line.decode())
    except ValueError as error:
        raise Refusal("bad-request", "not a JSON line: %s" % error) from None
    if not isinstance(asked, dict):
        raise Refusal("bad-request", "a request is a JSON object, this is %s" % type(asked).__name__)
    return asked
