"""What TensorRT says: to stderr and into a file, never to stdout, which is the protocol."""

import sys

KEPT = 60
FILE_BYTES = 4 << 20


class Log:
    """The messages of one build or one load.

    Attributes:
        errors: the first of them, in order.
        warnings: likewise.
    """

    def __init__(self, path=None):
        """`path`: a file for everything but what is verbose; None for none."""
        self.errors, self.warnings = [], []
        self._stream = open(path, "wb") if path else None  # noqa: SIM115 - closed by close()
        self._room = FILE_BYTES

    def add(self, letter, text):
        """Takes one message: letter F, E, W, I or V."""
        line = "[%s] %s" % (letter, text.rstrip())
        if letter in "FE":
            self._keep(self.errors, text)
        elif letter == "W":
            self._keep(self.warnings, text)
        if letter in "FEW":
            sys.stderr.write("TensorRT " + line + "\n")
        if self._stream is not None and letter != "V" and self._room > 0:
            data = line.encode("utf-8", "replace") + b"\n"
            self._room -= len(data)
            self._stream.write(data)

    def begin_anew(self):
        """Forgets what was said so far: the next try is judged by what it says itself. The file keeps all."""
        self.errors, self.warnings = [], []

    def close(self):
        """Closes the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def last_errors(self):
        """For a message: the first error is the cause, those after it follow from it."""
        return " | ".join(self.errors[:2]) or "TensorRT gave no reason"

    @staticmethod
    def _keep(lines, text):
        # The first ones: an error is followed by those that it causes.
        if len(lines) < KEPT and text not in lines:
            lines.append(text.strip())


def logger(trt, log):
    """A logger for TensorRT that fills a `Log`. Its own prints to stdout."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            # An exception here would end the process: TensorRT calls from C++ that must not throw.
            try:
                log.add(letters.get(severity, "I"), str(msg))
            except (OSError, ValueError) as error:
                sys.stderr.write("TensorRT's message was lost: %s\n" % error)

    letters = {
        trt.ILogger.Severity.INTERNAL_ERROR: "F",
        trt.ILogger.Severity.ERROR: "E",
        trt.ILogger.Severity.WARNING: "W",
        trt.ILogger.Severity.INFO: "I",
        trt.ILogger.Severity.VERBOSE: "V",
    }
    return Logger()
