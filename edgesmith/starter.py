"""`edgesmith init`: a first config for a model and its data, commented so that it can be read and changed."""

from __future__ import annotations

import os
from pathlib import Path

from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.files import write_text

_CALIBRATION = 256
_KERAS = """\
recipe:
  - prune: {schedule: polynomial, final_sparsity: 0.5, epochs: 3}   # fine-tunes on data.train
  - quantize: {scheme: int8}        # or int8-float-io, int16x8, int4-weights, float16, dynamic, none
"""
_ONNX = """\
recipe:                             # pruning needs a Keras model: ONNX has no training graph
  - quantize: {scheme: int8}        # or int8-float-io, int16x8, int4-weights, float16, dynamic, none
"""
_TEMPLATE = """\
# What edgesmith does: `edgesmith run`. What can be written here: docs/config.md
model: {model}
data:                               # .npz with x and y, a folder class/name.jpg, or package.module:function
{data}
task: {{metric: top1}}                # top1, top5, mae, agreement, or package.module:function
{recipe}devices: [local]                    # names from devices.yaml; `local` is this machine
budget:                             # the bar; a ratio is against the float model on the same board
  accuracy_drop_pp: 1.0             # percentage points
  size_ratio: 0.5
"""


def write_starter(model: Path, data: Path, out: Path, *, force: bool = False) -> tuple[str, ...]:
    """Writes a config.

    Args:
        model: the trained model.
        data: an .npz, a folder of classes, or a folder with train/ and test/.
        out: where the config goes; its paths are written relative to it.
        force: replace an existing file.

    Returns:
        Lines to show: what was written, and what to do next.

    Raises:
        ConfigError: the file is there already.
        ModelError: there is no such model.
        DataError: the data is neither of the three.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already.", next_step="--force replaces it; --out writes elsewhere.")
    if not model.exists():
        raise ModelError(f"{model}: no such model.", next_step="Give a .keras, .h5, SavedModel folder or .onnx.")
    here = out.resolve().parent
    is_onnx = model.suffix == ".onnx"
    text = _TEMPLATE.format(
        model=_quoted(model, here),
        data="\n".join(f"  {line}" for line in _data_lines(data, here, training=not is_onnx)),
        recipe=_ONNX if is_onnx else _KERAS,
    )
    write_text(out, text)
    return (f"wrote {out}", f"next: edgesmith plan {out}; edgesmith run {out}")


def _data_lines(data: Path, here: Path, *, training: bool) -> list[str]:
    if data.is_file() and data.suffix == ".npz":
        return _parted(_quoted(data, here), training=training)
    if data.is_dir():
        train, test = data / "train", data / "test"
        if train.is_dir() and test.is_dir():
            enough = sum(path.is_file() for path in train.glob("*/*")) >= _CALIBRATION
            few = f", samples: {_CALIBRATION}" if enough else ""
            lines = [f"calibration: {{source: {_quoted(train, here)}{few}}}"]
            lines += [f"evaluation: {_quoted(test, here)}"]
            return [f"train: {_quoted(train, here)}", *lines] if training else lines
        if any(child.is_dir() for child in data.iterdir()):
            return _parted(_quoted(data, here), training=training)
    raise DataError(
        f"{data}: no data that can be read.",
        next_step="Give an .npz with x and y, a folder class/name.jpg, or a folder with train/ and test/ in it.",
    )


def _parted(source: str, *, training: bool) -> list[str]:
    """One source in three disjoint parts; by content, so that equal samples are never on both sides."""
    lines = [
        f"calibration: {{source: {source}, part: [0.7, 0.8]}}",
        f"evaluation: {{source: {source}, part: [0.8, 1.0]}}",
    ]
    return [f"train: {{source: {source}, part: [0.0, 0.7]}}", *lines] if training else lines


def _quoted(path: Path, here: Path) -> str:
    """A path relative to the config's folder, as YAML."""
    relative = os.path.relpath(path.resolve(), here)
    return "'" + relative.replace("'", "''") + "'"
