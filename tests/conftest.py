"""What every test shares: where the data is, and that no test is skipped unseen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ("tests.ssh_boards", "tests.devices_desk", "tests.lab.fixtures")

ROOT = Path(__file__).resolve().parent.parent
NEED_A_LAB = {"netns", "arm64"}
"""Markers of tests that say what this machine lacks and are skipped, unless the lab was promised."""
EXPECTED_SKIPS = ROOT / "tests" / "expected_skips.txt"


# No deadline: how long an example takes says something of the machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", derandomize=False, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Examples are the same ones every time, unless somebody looks for new ones: a change is judged, not luck.

    A shell that runs us in the background has Ctrl-C ignored, and what tests start would inherit that.
    """
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("repeatable")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _expected_skips() -> set[str]:
    lines = EXPECTED_SKIPS.read_text(encoding="utf-8").splitlines()
    return {line.split("#")[0].strip() for line in lines} - {""}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skip that is not on the list is a hole in the suite that nobody sees: it fails the session."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    allowed = set() if os.environ.get("EDGESMITH_REQUIRE_LAB") == "1" else NEED_A_LAB
    skipped = {
        report.nodeid.split("[")[0]
        for report in reporter.stats.get("skipped", [])
        if allowed.isdisjoint(report.keywords)
    }
    unexpected = sorted(skipped - _expected_skips())
    if unexpected and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(
            f"unexpected skips (list them in {EXPECTED_SKIPS.name} with a reason): {unexpected}", red=True
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _own_lease_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The lease of "local" while tests run: not that of whoever else uses this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESMITH_LEASE_DIR", str(tmp_path_factory.mktemp("local") / "lease"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine remembers of boards while tests run: a board of a test is nobody's lasting quarantine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with CIFAR-10 and the MLPerf Tiny models; its absence fails the tests that are marked `data`."""
    place = Path(os.environ.get("EDGESMITH_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.fail(f"{place}: no test data here; set EDGESMITH_DATA to the folder with cifar10-jpeg.tar.")
    return place
