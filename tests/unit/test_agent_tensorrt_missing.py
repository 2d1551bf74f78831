"""A board that has TensorRT while this Python has not: why, and the command that mends it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import missing
from tests.board_trees import Tree

LIBRARY = "/usr/lib/aarch64-linux-gnu/libnvinfer.so.8"


def told(folder: Path, *, version: str = "3.8", in_venv: bool = False) -> str:
    text = missing.missing_binding(Root(str(folder)), version=version, prefix="/home/me/venv", in_venv=in_venv)
    assert "\n" not in text
    assert text.startswith("No module named 'tensorrt'")
    return text


def test_a_board_without_tensorrt_says_so_in_a_word(tmp_path: Path):
    assert told(tmp_path) == "No module named 'tensorrt'"


def test_a_virtual_environment_is_opened_to_the_systems_packages(tmp_path: Path):
    Tree(tmp_path).write(LIBRARY, "").write("/usr/lib/python3.8/dist-packages/tensorrt/__init__.py", "")
    text = told(tmp_path, in_venv=True)
    assert (
        "/usr/lib/python3.8/dist-packages/tensorrt is there, and this virtual environment does not look at it" in text
    )
    assert (
        "sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' /home/me/venv/pyvenv.cfg"
        in text
    )
    assert "python3 -m venv --system-site-packages" in text


def test_the_command_for_a_virtual_environment_works(tmp_path: Path):
    """The sed line on a real pyvenv.cfg, as `python -m venv` writes it."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    Tree(tmp_path).write("/usr/lib/python3.8/dist-packages/tensorrt/__init__.py", "")
    root = Root(str(tmp_path))
    text = missing.missing_binding(root, version="3.8", prefix=str(place), in_venv=True)
    command = text[text.index("sed -i") : text.index(" (or make")]
    assert sys.base_prefix not in _site_packages(place)
    subprocess.run(["sh", "-c", command], check=True)
    assert sys.base_prefix in _site_packages(place)


def _site_packages(place: Path) -> str:
    asked = [place / "bin" / "python", "-c", "import site; print(*site.getsitepackages())"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout


def test_another_pythons_binding_is_left_to_that_python(tmp_path: Path):
    Tree(tmp_path).write(LIBRARY, "").write("/usr/lib/python3.6/dist-packages/tensorrt/__init__.py", "")
    text = told(tmp_path, in_venv=True)
    assert text.endswith("is for Python 3.6, this is 3.8: use /usr/bin/python3.6 for this board")


def test_a_python_of_its_own_is_pointed_to_the_packages(tmp_path: Path):
    Tree(tmp_path).write("/usr/lib/python3/dist-packages/tensorrt/__init__.py", "")
    assert told(tmp_path).endswith("PYTHONPATH=/usr/lib/python3/dist-packages, or use /usr/bin/python3")


def test_a_library_without_its_binding_is_a_package_away(tmp_path: Path):
    Tree(tmp_path).write(LIBRARY, "")
    text = told(tmp_path)
    assert text.endswith("its Python binding is not: sudo apt-get install python3-libnvinfer")


def test_trtexec_is_named_where_it_could_do_the_work(tmp_path: Path):
    Tree(tmp_path).write(LIBRARY, "").write("/usr/src/tensorrt/bin/trtexec", "")
    assert told(tmp_path).endswith("(or have trtexec used, which is here and needs no Python)")


def test_a_package_whose_files_are_gone_is_installed_again(tmp_path: Path):
    Tree(tmp_path).write(LIBRARY, "").tool("dpkg-query", "printf 'install ok installed'")
    assert told(tmp_path).endswith("its files are gone: sudo apt-get install --reinstall python3-libnvinfer")


def test_a_module_that_is_there_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tensorrt.py").write_text("raise AssertionError('only looked for, not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert missing.binding() is None
