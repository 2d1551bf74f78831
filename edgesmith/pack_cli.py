"""`edgesmith pack` and `edgesmith unpack`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesmith.cli_options import Json, print_json


def pack(
    model: Annotated[Path, typer.Argument(help="A Keras model: .keras, or whole-model .h5.")],
    out: Annotated[Path, typer.Argument(help="The packed file to write, by custom .esm.")],
    as_json: Json = False,
) -> None:
    """Writes a model as few bytes: Huffman codes of shared values and of the distances between weights that are left.

    The weights that come back are equal bit for bit. What was neither pruned nor clustered hardly shrinks.
    """
    import tempfile

    from edgesmith.files import gzip_size
    from optimizer.load import load_model, open_keras
    from optimizer.packing.packed import save_packed

    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(model, workdir=Path(folder))
        packed = save_packed(open_keras(loaded), out)
    sizes = {
        "float_bytes": packed.float_bytes,
        "file_bytes": model.stat().st_size,
        "gzip_bytes": gzip_size(model),
        "packed_bytes": packed.size_bytes,
        "ratio": round(packed.float_bytes / packed.size_bytes, 2),
    }
    if as_json:
        tensors = [
            {"name": t.name, "float_bytes": t.float_bytes, "packed_bytes": t.packed_bytes, "coding": t.coding}
            for t in packed.tensors
        ]
        print_json({"model": str(model), "packed": str(out), **sizes, "tensors": tensors})
        return
    width = max((len(t.name) for t in packed.tensors), default=0)
    for t in packed.tensors:
        typer.echo(f"{t.name:{width}} {t.float_bytes:>11,} -> {t.packed_bytes:>9,} bytes  {t.coding}")
    typer.echo(
        f"{out}: {packed.size_bytes:,} bytes, {sizes['ratio']} times less than the weights in float32 "
        f"({packed.float_bytes:,}); {model.name} {sizes['file_bytes']:,}, with gzip {sizes['gzip_bytes']:,}."
    )


def unpack(
    packed: Annotated[Path, typer.Argument(help="A file that `edgesmith pack` wrote.")],
    out: Annotated[Path, typer.Argument(help="The .keras file to write.")],
    as_json: Json = False,
) -> None:
    """Writes the Keras model of a packed file, with exactly the weights that were packed."""
    from edgesmith.errors import ConfigError
    from edgesmith.files import sha256_file
    from optimizer.load import save_keras
    from optimizer.packing.packed import load_packed

    if out.suffix != ".keras":
        raise ConfigError(f"{out} has to end in .keras, which is what Keras reads.")
    model = save_keras(load_packed(packed), out, sha256=sha256_file(packed), origin=str(packed))
    if as_json:
        print_json({"packed": str(packed), "model": str(out), "parameters": model.parameters})
        return
    typer.echo(f"{out}: {model.parameters:,} parameters")
