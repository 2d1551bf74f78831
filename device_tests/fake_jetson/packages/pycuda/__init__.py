"""FAKE pycuda, see `driver`."""

VERSION = (2026, 1)
VERSION_STATUS = ".fake"
VERSION_TEXT = "2026.1.fake"
