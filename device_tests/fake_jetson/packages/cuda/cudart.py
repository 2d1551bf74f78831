"""FAKE cuda.cudart, the name of the same functions in NVIDIA's package before 12.8; see `edgesmith_fake_cudart`."""

from edgesmith_fake_cudart import *  # noqa: F403
