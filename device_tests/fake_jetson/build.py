"""Compiles the FAKE libcudart with the system's C compiler, under the name that a real one of that version has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from edgesmith.errors import InfrastructureError

SOURCE = Path(__file__).parent / "cudart.c"
SONAMES = {
    "10.2": "libcudart.so.10.2",
    "11.4": "libcudart.so.11.0",
    "12.2": "libcudart.so.12",
    "12.6": "libcudart.so.12",
    "13.0": "libcudart.so.13",
    "13.2": "libcudart.so.13",
}
"""CUDA version -> file name. All of CUDA 11 is called 11.0; before that, and since, the name tells the version."""

COMPILE_SECONDS = 120


def build_cudart(version: str, folder: Path, compiler: str | None = None) -> Path:
    """Puts libcudart of a CUDA version into a folder; returns its path.

    Args:
        version: of JetPack's, see `SONAMES`.
        folder: made where it is missing. For `LD_LIBRARY_PATH`, or name the path in `EDGESMITH_LIBCUDART`.
        compiler: a C compiler; the one in the variable CC, else cc.

    Raises:
        InfrastructureError: no compiler, or it failed.
    """
    if version not in SONAMES:
        raise InfrastructureError(f"There is no fake of CUDA {version}, only of {', '.join(SONAMES)}.")
    asked = compiler or os.environ.get("CC", "cc")
    found = shutil.which(asked)
    if found is None:
        raise InfrastructureError(
            f"The fake Jetson's libcudart is compiled here, and there is no C compiler {asked!r}.",
            next_step="Install one (Debian and Ubuntu: apt-get install gcc libc6-dev), or name one in the variable CC.",
        )
    major, minor = version.split(".")
    library = folder / SONAMES[version]
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_name(library.name + f".{os.getpid()}")
    argv = [found, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread"]
    argv += [f"-DFAKE_CUDA_VERSION={int(major) * 1000 + int(minor) * 10}", f"-Wl,-soname,{library.name}"]
    argv += ["-o", str(unfinished), str(SOURCE)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS)
    if done.returncode:
        raise InfrastructureError(f"{found} could not compile the fake libcudart of CUDA {version}:\n{done.stderr}")
    unfinished.replace(library)
    return library
