"""A program of the board as a process of ours: in a group of its own, read line by line, surely ended."""

import contextlib
import os
import queue
import signal
import subprocess

from device_tests.agent.protocol import Lines, Refusal

ENDS_S = 5
_DEATH_SIGNAL = 1


def start(argv, code, stderr=subprocess.DEVNULL, ends_with_us=False):
    """Starts it, with nothing on its stdin, its messages in English, and its stdout for us.

    Args:
        argv: the program and its arguments.
        code: of the refusal.
        stderr: as `subprocess.Popen` takes it.
        ends_with_us: where we are killed, the kernel kills it, too. It does so when the thread ends that has started
            the program: that is to be the main one.

    Raises:
        Refusal: `code`: it does not start.
    """
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # A group of its own, to be ended with all that it has started; and no terminal to ask on.
            start_new_session=True,
            preexec_fn=_death_with_us() if ends_with_us else None,  # noqa: PLW1509 - one call of C, with no lock held
            env=dict(os.environ, LC_ALL="C"),
        )
    except OSError as error:
        raise Refusal(code, "%s does not start: %s" % (argv[0], error)) from None


def run(argv, code, deadline, heard, ends_with_us=False):
    """Runs it to its end, or to the deadline: then it is ended.

    Args:
        argv, code, ends_with_us: see `start`.
        deadline: for all of it, however much it has to say.
        heard: called with every line of its stdout and stderr.

    Returns:
        Its exit status, negative for a signal; None where it was not done in time.

    Raises:
        Refusal: `code`: it does not start.
    """
    process = start(argv, code, subprocess.STDOUT, ends_with_us)
    try:
        lines = Lines(os.dup(process.stdout.fileno()))
        while True:
            line = lines.get(_left(deadline))
            if line is None:
                break
            heard(line.decode("utf-8", "replace").rstrip())
        return process.wait(_left(deadline))
    except (queue.Empty, subprocess.TimeoutExpired):
        return None
    finally:
        end(process)


def end(process, asked_s=None):
    """Ends it with its group, and waits for that a little: what a driver holds, or root's, may outlast its killing.

    Args:
        process: of `start`.
        asked_s: seconds that it is given to go by itself; None for none.
    """
    if asked_s is not None:
        _tell(process, signal.SIGTERM)
        _await(process, asked_s)
    # Even where it has gone: a child of its own that holds the pipe would keep whoever reads it.
    _tell(process, signal.SIGKILL)
    _await(process, ENDS_S)
    process.stdout.close()


def _tell(process, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _await(process, seconds):
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _left(deadline):
    if not deadline.remaining_s:
        raise queue.Empty
    return deadline.remaining_s


def _death_with_us():
    """For between fork and exec, where nothing may be imported: the C library is looked up before."""
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return lambda: prctl(_DEATH_SIGNAL, signal.SIGKILL)
