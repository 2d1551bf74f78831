"""FAKE cuda.bindings.runtime, see `edgesmith_fake_cudart`."""

from edgesmith_fake_cudart import *  # noqa: F403
