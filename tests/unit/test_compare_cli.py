"""`edgesmith compare` over the command line's own entry: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import targets
from edgesmith import cli
from edgesmith.progress import Silent
from edgesmith.report.per_layer import print_layers
from edgesmith.types import OpPlan, QuantPlan, Scheme
from optimizer.load import load_model
from optimizer.per_layer import PerLayer, TensorRow
from targets import plan_files
from targets.artifact_tensors import Grid
from targets.base import CompileRequest
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from tests import damaged_artifacts, tiny_networks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.keras, net.tflite, bad.tflite (layer `residual`), data.npz."""
    folder = tmp_path_factory.mktemp("compare")
    model = tiny_networks.record(tiny_networks.network(), folder / "net.keras")
    calibration = tiny_networks.samples(tiny_networks.pictures(32))
    request = CompileRequest(scheme=Scheme.INT8, calibration=calibration, out_dir=folder, name="net")
    made = targets.get("tflite").compile(model, request, Silent()).path
    damaged_artifacts.tflite(made, folder / "bad.tflite", "residual_bn", weights=damaged_artifacts.shifted)
    np.savez(folder / "data.npz", x=tiny_networks.pictures(20, seed=5), y=np.arange(20) % 4)
    return folder


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    for path in files.iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["edgesmith", "compare", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return Done(code=int(end.value.code or 0), out=out, err=err)

    return run


Call = Callable[..., Done]


def test_outputs(call: Call):
    done = call("net.keras", "net.tflite", "--data", "data.npz", "--json")
    assert done.code == 0
    told = done.json
    assert told["samples"] == 20  # all there are, fewer than the default 32
    assert 30.0 < told["sqnr_db"] < 60.0
    assert 0.999 < told["cosine"] < 1.0
    assert told["top1_agreement"] >= 0.9
    worse = call("net.keras", "bad.tflite", "--data", "data.npz", "--json", "--samples", "8").json
    assert worse["samples"] == 8
    assert worse["sqnr_db"] < told["sqnr_db"]


def test_only_a_bound_of_the_users_decides_the_exit_code(call: Call):
    assert call("net.keras", "net.tflite", "--data", "data.npz", "--min-sqnr-db", "20", "-q").code == 0
    done = call("net.keras", "net.tflite", "--data", "data.npz", "--min-sqnr-db", "90", "-q")
    assert done.code == 1
    assert "SQNR" in done.out
    assert "Below the bound of 90 dB." in done.out


def test_a_model_is_itself(call: Call):
    told = call("net.tflite", "net.tflite", "--data", "data.npz", "--json").json
    assert (told["sqnr_db"], told["sqnr_db_reason"], told["max_abs"]) == (None, "the values are the same", 0.0)


def test_per_layer_names_the_layer_and_writes_the_repro(call: Call, tmp_path: Path):
    arguments = ("--per-layer", "net.keras", "bad.tflite", "--data", "data.npz", "-q", "--min-sqnr-db", "20")
    done = call(*arguments)
    assert done.code == 1
    assert "First bad layer: residual (Conv)" in done.out
    assert "its own weights, bias or scales are off" in done.out
    assert "Repro: edgesmith-repro" in done.out
    told = json.loads((tmp_path / "edgesmith-repro" / "repro.json").read_text())
    assert told["layer"] == "residual"
    assert told["command"] == ["edgesmith", "compare", *arguments]


def test_per_layer_without_a_bound_of_the_users_ends_well(call: Call, tmp_path: Path):
    """The bound is then that of int8: 10 dB."""
    done = call("--per-layer", "net.keras", "bad.tflite", "--data", "data.npz", "--json", "--repro", "there")
    assert done.code == 0
    told = done.json
    assert told["min_sqnr_db"] == 10.0
    assert told["noisiest"]["layer"] == "residual"
    assert [row["layer"] for row in told["tensors"]][:3] == ["image", "stem", "separable"]
    assert (told["repro"] is None) is (told["first_bad"] is None)
    assert (tmp_path / "there").exists() is (told["first_bad"] is not None)


def test_per_layer_of_a_sound_file_writes_nothing(call: Call, tmp_path: Path):
    done = call("--per-layer", "net.keras", "net.tflite", "--data", "data.npz", "--min-sqnr-db", "20", "-q")
    assert done.code == 0
    assert "No tensor is below 20 dB: 11 compared over 20 samples." in done.out
    assert not (tmp_path / "edgesmith-repro").exists()
    assert call(
        "--per-layer", "net.keras", "bad.tflite", "--data", "data.npz", "--min-sqnr-db", "20", "--no-repro", "-q"
    ).code == 1  # fmt: skip
    assert not (tmp_path / "edgesmith-repro").exists()


def test_the_plan_that_an_artifact_follows_is_the_reference_inside(call: Call, files: Path, tmp_path: Path):
    """`hidden` and `head` in the plan's network have other scales, as after equalization; so has the artifact."""
    graph = make_plan_graph(load_model(files / "net.keras", workdir=tmp_path / "work"), Silent())
    hidden, head = (next(op for op in graph.ops if op.layer == layer) for layer in ("hidden", "head"))
    assert hidden.weight is not None
    assert hidden.bias is not None
    assert head.weight is not None
    factors = np.geomspace(0.1, 10.0, 24).astype(np.float32)
    along = [factors if axis == hidden.weight_axis else np.ones(1, np.float32) for axis in range(2)]
    against = [1 / factors if axis == head.input_axis else np.ones(1, np.float32) for axis in range(2)]
    repaired = graph.with_constants(
        {
            hidden.weight: graph.constants[hidden.weight] * np.outer(*along),
            hidden.bias: graph.constants[hidden.bias] * factors,
            head.weight: graph.constants[head.weight] * np.outer(*against),
        }
    )
    ops = tuple(OpPlan(name=op.name, layer=op.layer, kind=op.kind, precision="float32") for op in graph.ops)
    plan = QuantPlan(model_sha256="0", calibration_sha256="0", ops=ops, tensors=())
    plan_files.write(Planned(plan=plan, graph=repaired, integers={}), tmp_path / "plan")
    repaired.write(tmp_path / "repaired.onnx")
    arguments = ("--per-layer", "net.keras", "repaired.onnx", "--data", "data.npz", "--json")
    without, given = (
        {row["layer"]: row for row in call(*arguments, *more).json["tensors"]} for more in ((), ("--plan", "plan"))
    )
    assert without["hidden"]["rescaled"]
    assert without["hidden"]["sqnr_db"] < 10.0
    assert without["hidden"]["rescaled_sqnr_db"] > 100.0
    assert given["hidden"]["sqnr_db"] is None or given["hidden"]["sqnr_db"] > 100.0
    assert not given["hidden"]["rescaled"]
    graph.with_constants({head.weight: -graph.constants[head.weight]}).write(tmp_path / "other.onnx")
    plan_files.write(
        Planned(plan=plan, graph=PlanGraph.read(tmp_path / "other.onnx"), integers={}), tmp_path / "of_another"
    )
    done = call(*arguments, "--plan", "of_another")
    assert done.code == 2
    assert "another network" in done.err


def test_the_evaluation_set_of_a_config(call: Call, tmp_path: Path):
    (tmp_path / "edgesmith.yaml").write_text("model: net.keras\ndata: {evaluation: {source: data.npz, scale: 2}}\n")
    doubled = call("net.keras", "net.tflite", "--data", "edgesmith.yaml", "--json").json
    plain = call("net.keras", "net.tflite", "--data", "data.npz", "--json").json
    assert doubled["samples"] == plain["samples"]
    assert doubled["sqnr_db"] != plain["sqnr_db"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.keras", "net.tflite", "--data", "data.npz"), "nowhere.keras"),
        (("net.keras", "nowhere.tflite", "--data", "data.npz"), "nowhere.tflite: no such file"),
        (("net.keras", "net.tflite", "--data", "nowhere.npz"), "nowhere.npz: no such file or folder"),
        (("--per-layer", "net.tflite", "net.tflite", "--data", "data.npz"), "a .tflite file does not tell its layers"),
        (("--per-layer", "net.keras", "net.keras", "--data", "data.npz"), "no target runs files of this kind"),
        (("net.keras", "net.tflite", "--data", "small.npz"), "the model takes"),
        (("net.keras", "net.tflite", "--data", "nan.npz"), "NaN or infinite"),
    ],
)
def test_what_cannot_be_used_exits_2(arguments: tuple[str, ...], said: str, call: Call, tmp_path: Path):
    np.savez(tmp_path / "small.npz", x=np.zeros((12, 4, 4, 3), np.float32))
    np.savez(tmp_path / "nan.npz", x=np.full((12, 8, 8, 3), np.nan, np.float32))
    done = call(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def row(layer: str, **changes: Any) -> TensorRow:
    given: dict[str, Any] = {
        "layer": layer,
        "kind": "Conv",
        "tensor": f"{layer}:0",
        "artifact_tensor": layer,
        "matched": "name",
        "sqnr_db": 40.0,
        "own_sqnr_db": 41.0,
        "float_range": (-1.0, 1.0),
        "artifact_range": (-1.0, 1.0),
        "grid": Grid(dtype="int8", scale=0.01, zero_point=0),
        "saturated": 0,
        "values": 1000,
        "dead_channels": 0,
        "channels": 8,
        "rescaled_sqnr_db": 41.5,
        "rescaled": False,
        "bad": False,
    }
    return TensorRow(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"own_sqnr_db": 5.5}, "its own weights, bias or scales are off"),
        ({"own_sqnr_db": 40.0}, "what reaches it is off"),
        ({"saturated": 250}, "250 of 1,000 values are cut off"),
        ({"dead_channels": 3}, "3 of 8 channels are dead"),
    ],
)
def test_the_table_says_why(changes: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]):
    bad = row("[b]conv[/b]", sqnr_db=5.0, bad=True, **changes)
    rows = (
        row("stem", sqnr_db=3.0, own_sqnr_db=None, rescaled=True),
        bad,
        row("head", matched="place", sqnr_db=-np.inf, bad=True, grid=None, float_range=(1.84e-10, 0.999)),
    )
    found = PerLayer(
        rows=rows, missing=("x",), min_sqnr_db=10.0, samples=4, worst_sample=0, graph=None, pairs={}  # type: ignore[arg-type]
    )  # fmt: skip
    print_layers(found, None, console=Console(width=130))
    out = capsys.readouterr().out
    assert "First bad layer: [b]conv[/b] (Conv), 5.0 dB, bound 10 dB." in out
    assert why in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["stem"].endswith("rescaled")
    assert lines["stem"].split()[2] == "41.5"
    assert lines["[b]conv[/b]"].endswith("<- first bad")
    assert "1.8e-10 .. 0.999" in lines["head"]
    assert "NaN" in lines["head"]
    assert lines["head"].endswith("bad, by place")
    assert "1 tensors of the float model" in out
