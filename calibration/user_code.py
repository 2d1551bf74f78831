"""`package.module:function` of the user: found beside the config or installed, and its errors told in its own terms."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesmith.errors import DataError, EdgesmithError

if TYPE_CHECKING:
    from types import ModuleType

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Whether `text` reads as `package.module:function`."""
    return _REFERENCE.fullmatch(text) is not None


@contextlib.contextmanager
def importable(root: Path | None) -> Iterator[None]:
    """Puts the config's folder first on the import path, for as long as the user's code runs."""
    entry = None if root is None else str(root.resolve())
    if entry is None or entry in sys.path:
        yield
        return
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


@contextlib.contextmanager
def blaming(reference: str, root: Path | None) -> Iterator[None]:
    """Turns whatever the user's code raises into a `DataError`: the last line of the traceback, and where.

    Args:
        reference: what was called, for the message.
        root: the config's folder; the innermost frame below it is named rather than one deep in a library.
    """
    try:
        with importable(root):
            yield
    except EdgesmithError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any error of foreign code, told with its place
        last = traceback.format_exception_only(error)[-1].strip()
        raise DataError(
            f"{reference} raised {last} ({_place(error, root)}).",
            next_step="This is your own function: call it by itself to see the whole traceback.",
        ) from None


def load_function(reference: str, root: Path | None) -> Callable[..., Any]:
    """Imports `package.module:function`.

    A module beside the config wins over one of the same name that is already loaded: a user's
    `calibration/load.py` is theirs, though edgesmith has a package `calibration` too.

    Args:
        reference: as written in the config.
        root: the config's folder; None = only what is installed.

    Raises:
        DataError: no such module or function, or the module fails on import.
    """
    if not is_reference(reference):
        raise DataError(f"'{reference}' is not of the form package.module:function.")
    module_name, _, name = reference.partition(":")
    with blaming(reference, root):
        try:
            module = _import(module_name, root)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            beside = "" if root is None else f" in {root} or"
            raise DataError(
                f"{reference}: there is no module '{error.name}'{beside} among the installed packages.",
                next_step="Put the file beside the config, or install the package into this environment.",
            ) from None
        function = getattr(module, name, None)
    if not callable(function):
        found = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise DataError(
            f"{reference}: '{module_name}' has no function '{name}'.",
            next_step=f"It has: {', '.join(found)}." if found else "It has no functions at all.",
        )
    return function  # type: ignore[no-any-return]  # getattr on a foreign module


def _import(name: str, root: Path | None) -> ModuleType:
    theirs = None if root is None else _file_of(name, root.resolve())
    if theirs is None:
        return importlib.import_module(name)
    top = sys.modules.get(name.partition(".")[0])
    if top is None:
        return importlib.import_module(name)
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() == theirs:
        return loaded
    # The name is taken by other code of this process: load theirs under a name of its own, whole each time.
    alias = f"_edgesmith_user_{hashlib.sha256(str(theirs).encode()).hexdigest()[:12]}"
    folder = [str(theirs.parent)] if theirs.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(alias, theirs, submodule_search_locations=folder)
    if spec is None or spec.loader is None:
        raise ImportError(f"{theirs} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return module


def _file_of(name: str, root: Path) -> Path | None:
    """The file a dotted name means below `root`."""
    base = root.joinpath(*name.split("."))
    for candidate in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate.resolve()
    return None


def _place(error: BaseException, root: Path | None) -> str:
    """`file:line in function` of the frame to blame."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    below = [] if root is None else [f for f in frames if Path(f.filename).is_relative_to(root.resolve())]
    own_folder = Path(__file__).parent
    foreign = [f for f in frames if not Path(f.filename).is_relative_to(own_folder)]
    frame = (below or foreign or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
