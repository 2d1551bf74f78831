"""`tensorrt:` of the config in a run: what of it goes into files, what is said of it, and what is refused early."""

from __future__ import annotations

from collections.abc import Collection

from edgesmith.config import Config, LoadedConfig, TensorRt
from edgesmith.errors import ConfigError
from edgesmith.types import Artifact, BoardInfo, Device, Finding
from targets import tensorrt_versions
from targets.board_runtime import profile_of, runtime_facts
from targets.tensorrt_asked import TARGET

_SECTION = "tensorrt"


def opset(config: Config, target: str) -> int | None:
    """The operator set that a target's files may have, at most; None: whatever the board reads."""
    return config.tensorrt.opset if target == TARGET else None


def shown(settings: TensorRt) -> str:
    """What the board is asked, for people; empty where that is nothing."""
    return ", ".join(
        name if value is True else f"{name} {value}"
        for name, value in settings.model_dump(exclude_defaults=True).items()
    )


def findings(config: Config, judged: Collection[str]) -> tuple[Finding, ...]:
    """What a reader should know of the section, besides what it did.

    Args:
        judged: keys of the targets that the run has artifacts of.
    """
    if _SECTION not in config.model_fields_set or not judged:
        return ()
    if TARGET not in judged:
        text = "The config has a section `tensorrt:`, and no device is judged with TensorRT: it changed nothing."
        step = "Name a Jetson among `devices`, or take the section out."
        return (Finding(severity="warning", code="tensorrt_unused", text=text, next_step=step),)
    if config.tensorrt.dla_core is None:
        return ()
    text = (
        "A DLA computes in float16 and int8, not in float32: float32 files run on the GPU, so a speedup over the float "
        "model compares the DLA with the GPU."
    )
    return (Finding(severity="info", code="float_on_gpu", text=text),)


def refuse_ready(loaded: LoadedConfig, artifact: Artifact, device: Device, info: BoardInfo | None) -> None:
    """`refuse`, for a file that is written already.

    Raises:
        ConfigError: as `refuse`; or an operator set is asked for.
    """
    if artifact.target != TARGET:
        return
    if loaded.config.tensorrt.opset is not None:
        raise ConfigError(
            f"{loaded.where(_SECTION, 'opset')}: opset: {artifact.path.name} is ready: nothing writes it anew.",
            next_step="Leave it out, or give the model that the file was made from.",
        )
    refuse(loaded, device, info)


def refuse(loaded: LoadedConfig, device: Device, info: BoardInfo | None) -> None:
    """Refuses what the TensorRT of a board, or the board, does not have. What is not known is the board's to refuse.

    Raises:
        ConfigError: names file and line, and what to do.
    """
    asked = loaded.config.tensorrt
    profile = profile_of(device, info)
    runtime = None if info is None else runtime_facts(device, info, TARGET)
    reads = None if runtime is None else tensorrt_versions.reads(runtime)

    def refusal(key: str, why: str, step: str) -> ConfigError:
        return ConfigError(f"{loaded.where(_SECTION, key)}: {key}: {device.name}: {why}.", next_step=step)

    if asked.opset is not None and reads is not None and asked.opset > reads.opset:
        step = f"Choose one from {tensorrt_versions.OLDEST_OPSET} to {reads.opset}, or leave it out."
        raise refusal("opset", f"{reads.label} does not read operator set {asked.opset}", step)
    if asked.version_compatible and reads is not None and not reads.version_compatible:
        why = f"{reads.label} builds no version-compatible engines; 8.6 and later do"
        raise refusal("version_compatible", why, "Leave it out, or update JetPack.")
    if asked.dla_core is None:
        return
    on_gpu = "Leave it out: the GPU computes the network then."
    if profile is not None and profile.jetson is not None and asked.dla_core >= profile.jetson.dla:
        cores = profile.jetson.dla
        has = f"{profile.title} has no DLA" if not cores else f"{profile.title} has the DLA cores 0 to {cores - 1}"
        raise refusal("dla_core", has, on_gpu if not cores else "Choose one of them, or leave it out.")
    if reads is not None and not reads.dla:
        why = f"{reads.label} uses no DLA. Those up to 10.7 do, and 11.4.1 on AGX Orin does again; none of JetPack 7.0"
        raise refusal("dla_core", f"{why} to 7.2.1 does", on_gpu)
