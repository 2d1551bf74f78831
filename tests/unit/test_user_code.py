"""Functions of the user: found where they should be, blamed where they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from calibration import user_code
from edgesmith.errors import DataError, ModelError


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("data:load", True),
        ("my.package.data:load_all", True),
        ("data/test.npz", False),
        ("C:/data", False),
        ("data:", False),
        ("a:b:c", False),
    ],
)
def test_what_reads_as_a_reference(text: str, is_one: bool):
    assert user_code.is_reference(text) is is_one


def test_a_module_beside_the_config(tmp_path: Path):
    (tmp_path / "beside_config.py").write_text("import beside_helper\ndef load(): return beside_helper.VALUE\n")
    (tmp_path / "beside_helper.py").write_text("VALUE = 5\n")
    before = list(sys.path)
    assert user_code.load_function("beside_config:load", tmp_path)() == 5
    assert sys.path == before


def test_a_module_in_a_package_beside_the_config(tmp_path: Path):
    package = tmp_path / "beside_package"
    package.mkdir()
    (package / "__init__.py").write_text("from beside_package.data import load\n")
    (package / "data.py").write_text("def load(): return 6\n")
    assert user_code.load_function("beside_package.data:load", tmp_path)() == 6
    assert user_code.load_function("beside_package:load", tmp_path)() == 6


def test_an_installed_function():
    assert user_code.load_function("math:floor", None)(1.5) == 1


def test_a_name_that_is_taken_still_means_the_users_file(tmp_path: Path):
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name_twice.py").write_text(f"def load(): return {value}\n")
    assert user_code.load_function("same_name_twice:load", tmp_path / "one")() == 1
    assert user_code.load_function("same_name_twice:load", tmp_path / "two")() == 2
    assert user_code.load_function("same_name_twice:load", tmp_path / "one")() == 1
    # edgesmith has a package of this name itself.
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "load.py").write_text("def read(): return 3\n")
    assert user_code.load_function("calibration.load:read", tmp_path)() == 3


def test_no_such_module(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        user_code.load_function("no_such_thing.data:load", tmp_path)
    assert caught.value.what == (
        f"no_such_thing.data:load: there is no module 'no_such_thing' in {tmp_path} or among the installed packages."
    )
    assert "beside the config" in caught.value.next_step
    assert caught.value.exit_code == 2


def test_no_such_function(tmp_path: Path):
    (tmp_path / "has_others.py").write_text("def train(): ...\ndef test(): ...\n")
    with pytest.raises(DataError, match=r"'has_others' has no function 'load'\.\nIt has: test, train\."):
        user_code.load_function("has_others:load", tmp_path)


def test_not_a_reference():
    with pytest.raises(DataError, match=r"'data\.npz' is not of the form package\.module:function"):
        user_code.load_function("data.npz", None)


def test_a_module_that_fails_on_import(tmp_path: Path):
    (tmp_path / "needs_missing.py").write_text("x = 1\nimport not_installed_here\n")
    with pytest.raises(DataError) as caught:
        user_code.load_function("needs_missing:load", tmp_path)
    assert "raised ModuleNotFoundError: No module named 'not_installed_here'" in caught.value.what
    assert f"{tmp_path}/needs_missing.py:2 in <module>" in caught.value.what


def test_a_module_with_a_syntax_error(tmp_path: Path):
    (tmp_path / "half_written.py").write_text("def load(:\n")
    with pytest.raises(DataError, match=r"raised SyntaxError: .*half_written\.py:1\)"):
        user_code.load_function("half_written:load", tmp_path)


def test_the_users_own_line_is_blamed_not_the_librarys(tmp_path: Path):
    (tmp_path / "bad_json.py").write_text("import json\ndef load():\n    return json.loads('{')\n")
    function = user_code.load_function("bad_json:load", tmp_path)
    says = r"raised json\.decoder\.JSONDecodeError: .*bad_json\.py:3 in load\)"
    with pytest.raises(DataError, match=says), user_code.blaming("bad_json:load", tmp_path):
        function()


def test_typed_errors_and_interrupts_pass_through():
    with pytest.raises(ModelError), user_code.blaming("a:b", None):
        raise ModelError("mine")
    with pytest.raises(KeyboardInterrupt), user_code.blaming("a:b", None):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="raised SystemExit: 3"), user_code.blaming("a:b", None):
        sys.exit(3)
