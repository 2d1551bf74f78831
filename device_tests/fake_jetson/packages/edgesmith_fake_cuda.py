"""The FAKE libcudart for the fake packages beside this file: the one that EDGESMITH_LIBCUDART names."""

import ctypes
import os

NOT_INITIALIZED, INVALID_CONTEXT = 3, 201

_LIBRARY = ctypes.CDLL(os.environ["EDGESMITH_LIBCUDART"])
for _name in ("cudaGetErrorName", "cudaGetErrorString"):
    getattr(_LIBRARY, _name).restype = ctypes.c_char_p


def call(name, *args):
    """The status. Whole numbers are passed as addresses, which suits every argument there is."""
    function = getattr(_LIBRARY, name)
    return function(*[ctypes.c_void_p(arg) if isinstance(arg, int) else arg for arg in args])


def asks(name, *args, kind=ctypes.c_int):
    """(status, the number that the function writes through its first argument)."""
    found = kind()
    status = call(name, ctypes.byref(found), *args)
    return status, found.value


def words(name, status):
    """CUDA's name of a status, or its words."""
    return getattr(_LIBRARY, name)(status)


def has(name):
    """Whether this version has a function."""
    return hasattr(_LIBRARY, name)


def versions():
    """(the library's, the driver's) as CUDA numbers them."""
    return _LIBRARY.fakeCudaVersion(), asks("cudaDriverGetVersion")[1]
