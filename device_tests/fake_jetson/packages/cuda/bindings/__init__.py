"""FAKE cuda.bindings, see `runtime`."""

__version__ = "fake"
