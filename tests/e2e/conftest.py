"""A trained project that end-to-end tests share."""

from __future__ import annotations

import shutil

import pytest

from tests.e2e.project import Project, make_project


@pytest.fixture(autouse=True)
def _alone(nobodys_ssh_setup: None) -> None:
    """No test of this folder sees the developer's own SSH set-up."""


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trained net with its data; its first run, which every later one builds on, is done."""
    project = make_project(tmp_path_factory.mktemp("digits"))
    project.write_config()
    first = project.edgesmith("run")
    assert first.returncode == 0, first.stdout + first.stderr
    shutil.copytree(project.root / "runs" / "latest", project.root / "first")
    return project


@pytest.fixture
def digits(trained_digits: Project) -> Project:
    """The same, with its base config again, whatever the test before wrote."""
    trained_digits.write_config()
    (trained_digits.root / "devices.yaml").unlink(missing_ok=True)
    return trained_digits
