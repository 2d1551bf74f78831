"""Children from the agent's side: started, asked, timed, and buried with a certificate that names the cause."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading

from device_tests.agent.protocol import Lines, Refusal, Tail, request

_ALIVE = set()
_ENDED = threading.Event()


def end_all():
    """Ends every child of this agent, and lets it start none any more: it is leaving, or its board is another's."""
    _ENDED.set()
    for child in list(_ALIVE):
        child.kill()


class Child:
    """One child process. Use as a context manager: whatever happens, it is gone afterwards.

    Attributes:
        log: the last lines of its stderr.
    """

    def __init__(self, watch_for=None):
        """`watch_for`: text whose appearance in the log is noted in `watched`."""
        if _ENDED.is_set():
            raise Refusal("leaving", "the agent has ended its work")
        self._process = subprocess.Popen(
            [sys.executable, "-u", sys.argv[0], "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # onnxruntime 1.31 reports home otherwise: a file in ~/.cache, and threads beside what is timed.
            env=dict(os.environ, ORT_DISABLE_TELEMETRY="1"),
        )
        self._lines = Lines(os.dup(self._process.stdout.fileno()))
        self.log = _Watch(os.dup(self._process.stderr.fileno()), watch_for)
        self._next = 0
        _ALIVE.add(self)
        if _ENDED.is_set():
            self.kill()

    def call(self, method, params, deadline, event=None):
        """Asks the child and waits for its answer.

        Raises:
            Refusal: the child's own, or "runtime-crashed" with the signal, or "timeout".
        """
        self._next += 1
        message = request(self._next, method, params, deadline.remaining_s)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        while True:
            try:
                line = self._lines.get(deadline.remaining_s)
            except queue.Empty:
                self.kill()
                raise Refusal(
                    "timeout", "no answer to %r in time; it was ended" % method, stderr=list(self.log.lines)
                ) from None
            if line is None:
                raise self._certificate(method)
            told = json.loads(line.decode())
            if "error" in told:
                facts = dict(told["error"])
                facts["stderr"] = facts.get("stderr") or list(self.log.lines)[-10:]
                raise Refusal(facts.pop("code"), facts.pop("message"), **facts)
            if "result" in told:
                return told["result"]
            if event is not None:
                event(told)

    def _certificate(self, method):
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            return Refusal("runtime-crashed", "closed its output during %r and went on" % method)
        self.log.finish(2)
        facts = {"stderr": list(self.log.lines)[-10:], "during": method}
        if status < 0:
            facts["signal"] = _signal_name(-status)
            return Refusal("runtime-crashed", "%s during %r" % (facts["signal"], method), **facts)
        facts["exit_status"] = status
        return Refusal("runtime-crashed", "exit status %d during %r" % (status, method), **facts)

    def finish(self):
        """Ends the child in peace and reads the rest of its log."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self.log.finish(2)

    def kill(self):
        """Ends the child and whatever it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.kill()
        _ALIVE.discard(self)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


class _Watch(Tail):
    """A tail that remembers whether a text went by."""

    def __init__(self, fd, text):
        self._text = text
        self.watched = False
        super().__init__(fd)

    def seen(self, line):
        if self._text and self._text in line:
            self.watched = True


def _signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number
