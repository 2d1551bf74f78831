"""From a finished run to releases on boards: what is chosen, what is refused, and who is touched in which order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from device_tests.fleet import Fleet, Outcome
from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.quarantine import BoardStates, boards_folder
from device_tests.release_board import ModelReleases
from device_tests.releases import Deployed, State
from edgesmith import cli, deploying, known_answers
from edgesmith.deploy_plan import DeployPlan, default_name
from edgesmith.deploying import Row, deploy_run, exit_code, listing
from edgesmith.errors import ConnectionLost, EdgesmithError, GateFailed, InputError, InternalError
from edgesmith.progress import Silent
from edgesmith.result import ArtifactRecord, DataRecord, DeviceResult, EngineRecord, LatencyRecord, Result, read_result
from edgesmith.types import Device, Verdict
from tests.tiny_artifacts import artifact

X = np.array([[4, 8, 12, 0], [0, 4, 8, 0]], np.float32)
Y = np.array([[1, 2, 3], [0, 1, 2]], np.float32)
SSH = Device(name="pi", transport="ssh")


def row(device: str, file: str = "dense.onnx", **changes: Any) -> DeviceResult:
    kind = file.rpartition(".")[2]
    made = artifact(file, kind)
    record = ArtifactRecord(
        path=f"artifacts/{file}",
        format=kind,
        precision="float32",
        sha256=made.sha256,
        size_bytes=made.size_bytes,
        gzip_bytes=0,
        sparsity=0.0,
    )
    base: dict[str, Any] = {
        "device": device,
        "emulated": False,
        "target": {"onnx": "onnxruntime"}.get(kind, kind),
        "variant": "compressed",
        "artifact": record,
        "latency_ms": LatencyRecord(p50=1.0, p90=None, p95=1.5, p99=None, n=100),
        "accuracy": None,
        "agreement": None,
        "peak_rss_bytes": None,
        "energy_mj": None,
        "validity": "VALID",
        "verdict": "PASS",
        "threads": 1,
    }
    return DeviceResult(**{**base, **changes})


ENGINE = EngineRecord(
    key="0" * 64,
    sha256="0" * 64,
    size_bytes=1,
    cached=False,
    because="no engine of this network is on the board: build it first",
    seconds=1.0,
    tensorrt="10.3.0",
    cuda="12.6",
    compute="8.7",
    gpu="NVIDIA Jetson Orin Nano",
    precision=("fp16",),
    layer_count=1,
    layer_precisions={"fp16": 1},
    device_memory_bytes=None,
    notes=(),
    fake=False,
)


def latency(p50: float) -> LatencyRecord:
    return LatencyRecord(p50=p50, p90=None, p95=None, p99=None, n=100)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder with the given rows."""

    def make(*rows: DeviceResult, **changes: Any) -> Path:
        folder = tmp_path / "runs" / "20261122-071500-beef"
        for one in rows:
            if one.artifact is not None:
                place = folder / one.artifact.path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(artifact(place.name, one.artifact.format).path.read_bytes())
            known_answers.keep(folder, one.device, one.target, one.variant, X, [Y])
        config = {
            "model": "nets/my kws.v2.keras",
            "data": {"evaluation": {"source": "e.npz", "scale": 0.5, "resize": [4, 1]}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        data = DataRecord(role="evaluation", source="e.npz: 2 samples; halved", n=2, sha256="0" * 64, synthetic=False)
        base: dict[str, Any] = {
            "run_id": folder.name,
            "state": "finished",
            "verdict": "PASS",
            "exit_code": 0,
            "started_at": "2026-11-22T07:15:00+00:00",
            "config_sha256": "0" * 64,
            "config_path": str(tmp_path / "edgesmith.yaml"),
            "model": "my kws.v2.keras",
            "toolchain": {},
            "data": (data,),
            "results": rows,
        }
        Result(**{**base, **changes}).write(folder / "result.json")
        return folder

    return make


def chosen(folder: Path, device: Device = SSH, **options: str) -> str:
    return DeployPlan(folder, **options).requests([device])[device.name].artifact.path.name


def test_the_fastest_that_passed_on_the_board_goes_to_it(make_run: Callable[..., Path]):
    folder = make_run(
        row("pi", "dense.onnx", latency_ms=latency(2.0)),
        row("pi", "dense.tflite", latency_ms=latency(3.0)),
        row("pi", "dense_int8.tflite", latency_ms=latency(0.1), verdict="FAIL"),
        row("pi", "dense.tflite", variant="float", latency_ms=latency(0.2)),
        row("other", "dense_int8.tflite", latency_ms=latency(0.1)),
    )
    assert chosen(folder) == "dense.onnx"
    assert chosen(folder, target="tflite") == "dense.tflite"
    assert chosen(folder, variant="float") == "dense.tflite"
    assert chosen(folder, Device(name="other", transport="ssh")) == "dense_int8.tflite"


def test_a_request_says_what_the_run_knows(make_run: Callable[..., Path]):
    folder = make_run(row("pi", "dense_int8.tflite", threads=2))
    plan = DeployPlan(folder)
    request = plan.requests([SSH], keep=5)["pi"]
    assert (plan.name, request.name, request.keep, request.threads) == ("my-kws.v2", "my-kws.v2", 5, 2)
    assert (request.runner, request.run_id) == ("tflite", folder.name)
    assert request.quantization == ((1.0, -128), (0.5, -128))
    assert [spec.dtype for spec in request.artifact.signature.inputs] == ["int8"]
    told = request.preprocessing
    assert (told.text, told.dtype, told.low, told.high) == ("e.npz: 2 samples; halved", "float32", 0.0, 12.0)
    assert (told.resize, told.color, told.scale, told.offset) == ((4, 1), None, 0.5, 0.0)
    assert (request.measured.p50_ms, request.measured.p95_ms, request.measured.emulated) == (1.0, 1.5, False)
    np.testing.assert_array_equal(request.x, X)
    np.testing.assert_array_equal(request.outputs[0], Y)


def test_where_there_is_only_a_float_model_it_goes(make_run: Callable[..., Path]):
    assert chosen(make_run(row("pi", variant="float"))) == "dense.onnx"


def test_where_nothing_passed_nothing_is_released(make_run: Callable[..., Path]):
    folder = make_run(row("pi", verdict="FAIL"), row("pi", "dense.tflite", variant="float"))
    with pytest.raises(
        GateFailed, match=r"pi: nothing to release: of run .*-beef, onnxruntime compressed FAIL"
    ) as told:
        chosen(folder)
    assert "edgesmith report" in told.value.next_step
    with pytest.raises(GateFailed, match="no artifact is tflite compressed"):
        chosen(folder, target="tflite")


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.PASS])
def test_only_a_pass_is_a_pass(make_run: Callable[..., Path], verdict: Verdict):
    with pytest.raises(GateFailed):
        chosen(make_run(row("pi", verdict=verdict)))


def test_a_board_that_the_run_did_not_measure_gets_nothing(make_run: Callable[..., Path]):
    with pytest.raises(InputError, match=r"pi: not measured in run .*-beef, which knows other") as told:
        chosen(make_run(row("other")))
    assert "`edgesmith run --device pi` measures it there" in told.value.next_step


def test_a_scripted_board_proves_nothing(make_run: Callable[..., Path]):
    with pytest.raises(InputError, match="pi: a scripted board"):
        chosen(make_run(row("pi", fake=True)))
    with pytest.raises(InputError, match="pi: a scripted board"):
        chosen(make_run(row("pi")), Device(name="pi", transport="fake"))


def test_of_an_engine_that_the_board_built_the_file_and_its_options_are_released(make_run: Callable[..., Path]):
    made = row("jetson", "dense.onnx", target="tensorrt", engine=ENGINE, latency_ms=latency(0.1))
    assert made.artifact is not None
    options = {"precision": ["fp16"], "dla_core": 0}
    asked = made.model_copy(update={"artifact": made.artifact.model_copy(update={"build": options})})
    folder = make_run(asked, row("jetson", "dense.onnx", latency_ms=latency(2.0)))
    device = Device(name="jetson", transport="ssh")
    request = DeployPlan(folder).requests([device])["jetson"]
    assert (request.runner, request.artifact.build) == ("tensorrt", options)
    assert request.measured.engine is not None
    assert (request.measured.engine.key, request.measured.engine.tensorrt) == (ENGINE.key, "10.3.0")


def test_what_trtexec_timed_alone_is_passed_over_and_refused_where_there_is_nothing_else(
    make_run: Callable[..., Path],
):
    folder = make_run(
        row("jetson", "dense.onnx", target="tensorrt", engine=ENGINE, latency_ms=latency(0.1)),
        row("jetson", "dense.onnx", latency_ms=latency(2.0)),
    )
    (folder / "answers" / "jetson-tensorrt-compressed-0.npy").unlink()
    device = Device(name="jetson", transport="ssh")
    assert DeployPlan(folder).requests([device])["jetson"].runner == "onnxruntime"
    with pytest.raises(InputError, match="could not be checked: trtexec alone tells none"):
        chosen(folder, device, target="tensorrt")


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_a_run_that_is_not_finished_is_refused(make_run: Callable[..., Path], state: str):
    with pytest.raises(InputError, match=f"the run is {state}, not finished"):
        DeployPlan(make_run(row("pi"), state=state))


def test_a_run_on_random_numbers_is_refused(make_run: Callable[..., Path]):
    data = DataRecord(role="calibration", source="synthetic", n=8, sha256="0" * 64, synthetic=True)
    with pytest.raises(InputError, match="made with calibration samples of random numbers"):
        DeployPlan(make_run(row("pi"), data=(data,)))


def test_what_changed_since_the_run_is_not_released(make_run: Callable[..., Path]):
    folder = make_run(row("pi"))
    (folder / "answers" / "pi-onnxruntime-compressed-0.npy").unlink()
    with pytest.raises(InputError, match=r"kept no answers of pi \(onnxruntime compressed\)"):
        chosen(folder)
    folder = make_run(row("pi"))
    (folder / "artifacts" / "dense.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match=r"dense\.onnx: gone, or no longer what the run judged"):
        chosen(folder)


def test_a_run_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="no such result"):
        DeployPlan(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [("kws.keras", "kws"), ("a/b c.onnx", "b-c"), ("$(id).keras", "id"), ("..x.keras", "x"), ("n\u00e4.keras", "n")],
)
def test_a_release_is_named_after_the_model(path: str, name: str):
    assert default_name(Path(path)) == name


def test_a_model_without_a_usable_name_asks_for_one(make_run: Callable[..., Path]):
    folder = make_run(row("pi"))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("my kws.v2", "\u30e2\u30c7\u30eb"))
    with pytest.raises(InputError, match="cannot name a release") as told:
        DeployPlan(folder)
    assert "--name NAME" in told.value.next_step
    assert DeployPlan(folder, name="kws").name == "kws"


def deployed(device: str) -> Deployed:
    from device_tests.release_board import Smoke

    smoke = Smoke(p50_ms=1.25, runs=30, runner="r 1", differences=(0.0,))
    version = "20261122-071530-ab12cd34"
    return Deployed(device=device, name="kws", version=version, state=State.DEPLOYED, before=None, smoke=smoke)


@pytest.fixture
def boards(make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Boards a, b, c of a run that are not reached: name -> what deploying to it comes to."""
    names = ("a", "b", "c")
    make_run(*(row(name) for name in names))
    entries = {"devices": {name: {"host": f"{name}.example"} for name in names}}
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    outcomes: dict[str, Any] = {name: deployed(name) for name in names}

    def each(fleet: Fleet, devices: Any, work: Any, done: Any, *, leased: bool) -> None:
        assert leased
        for device in devices:
            found = outcomes[device.name]
            error = found if isinstance(found, ConnectionLost) else None
            done(Outcome(device=device, value=None if error else found, error=error))

    monkeypatch.setattr(Fleet, "each", each)
    return outcomes


def run_deploy(tmp_path: Path, **options: Any) -> dict[str, str]:
    folder = tmp_path / "runs" / "20261122-071500-beef"
    rows = deploy_run(folder, devices=(), inventory=None, progress=Silent(), **options)
    return {one.device: one.state for one in rows}


def test_without_canaries_every_board_stands_for_itself(boards: dict[str, Any], tmp_path: Path):
    boards["a"] = GateFailed("a: no.")
    assert run_deploy(tmp_path) == {"a": "failed", "b": "deployed", "c": "deployed"}


@pytest.mark.parametrize("error", [GateFailed("no."), ConnectionLost("gone.")])
def test_a_canary_that_fails_stops_the_rest(boards: dict[str, Any], tmp_path: Path, error: EdgesmithError):
    boards["a"] = error
    assert run_deploy(tmp_path, canary=1) == {"a": "failed", "b": "untouched", "c": "untouched"}
    assert run_deploy(tmp_path, canary=2) == {"a": "failed", "b": "deployed", "c": "untouched"}


def test_canaries_that_pass_let_the_rest_in(boards: dict[str, Any], tmp_path: Path):
    boards["c"] = GateFailed("no.")
    assert run_deploy(tmp_path, canary=1) == {"a": "deployed", "b": "deployed", "c": "failed"}
    assert run_deploy(tmp_path, canary=9) == {"a": "deployed", "b": "deployed", "c": "failed"}


def test_a_quarantined_board_gets_no_release_and_fails_as_a_canary(boards: dict[str, Any], tmp_path: Path):
    inventory = deploying.load_inventory(tmp_path / "devices.yaml")
    BoardStates(boards_folder()).quarantine(inventory.get("a"), "hot", "ann@here")
    assert run_deploy(tmp_path, canary=1) == {"a": "failed", "b": "untouched", "c": "untouched"}


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([None, None], 0),
        ([GateFailed("x"), ConnectionLost("y")], 1),
        ([InputError("x"), None], 2),
        ([None, ConnectionLost("y")], 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst(errors: list[EdgesmithError | None], code: int):
    assert exit_code([Row(device="a", name="kws", error=error) for error in errors]) == code


def test_an_error_of_another_kind_is_no_success():
    assert exit_code([Row(device="a", name="kws", error=InternalError("x"))]) == 70


def test_rows_for_people():
    done = Row(device="a", name="kws", deployed=deployed("a"))
    assert done.lines == (
        "a: kws 20261122-071530-ab12cd34 deployed, checked there twice: p50 1.250 ms over 30 runs, r 1",
    )
    assert Row(device="a", name="kws").lines == ("a: untouched, since a canary failed",)
    assert Row(device="a", name="kws", error=GateFailed("a: no.", next_step="So.")).lines == (
        "GateFailed: a: no.\nSo.",
    )


def test_a_board_without_releases_says_so():
    empty = ModelReleases(
        name="kws", path="/r/kws", current=None, previous=None, unconfirmed=False, problem=None, releases=()
    )
    assert listing(()) == listing((empty,)) == ("nothing is released there",)


@contextlib.contextmanager
def two_boards(inventory: Path) -> Iterator[tuple[InProcessBoard, InProcessBoard]]:
    with folder_for_boards() as folder, InProcessBoard(folder / "a") as a, InProcessBoard(folder / "b") as b:
        entries = {}
        for name, board in (("a", a), ("b", b)):
            device = board.device(name)
            keys = ("host", "port", "user", "python", "workdir", "identity_file", "known_hosts", "lease_dir")
            entries[name] = {key: str(v) if isinstance(v := getattr(device, key), Path) else v for key in keys}
            entries[name]["releases"] = str(board.home / "releases")
        inventory.write_text(yaml.safe_dump({"devices": entries}))
        yield a, b


@pytest.mark.slow
@pytest.mark.usefixtures("nobodys_ssh_setup")
def test_two_boards_over_ssh_from_the_command_line(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def edgesmith(*arguments: str) -> tuple[int, Any, str]:
        found = runner.invoke(cli.app, [*arguments, "--devices-file", "devices.yaml", "--quiet"])
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found.exit_code, found.stdout, found.stderr

    with two_boards(tmp_path / "devices.yaml") as (a, b):
        folder = make_run(row("a"), row("b", "dense.tflite"))
        known_answers.keep(folder, "a", "onnxruntime", "compressed", X, [Y + 1])
        code, text, told = edgesmith("deploy", str(folder), "--canary", "1")
        assert code == 1
        assert "GateFailed: a: release " in told
        assert "output 0 is off by up to 1 (absolute), at most 0.0004 is allowed" in told
        assert "b: untouched, since a canary failed" in text
        assert list((a.home / "releases" / "my-kws.v2").iterdir()) == []
        assert not (b.home / "releases").exists()

        folder = make_run(row("a"), row("b", "dense.tflite"))
        code, text, told = edgesmith("deploy", str(folder), "--canary", "1", "--json")
        assert code == 0, told
        first = {one["device"]: one["version"] for one in json.loads(text)}
        assert (a.home / "releases/my-kws.v2/current/model.onnx").is_file()
        assert (b.home / "releases/my-kws.v2/current/model.tflite").is_file()
        assert read_result(folder / "result.json").run_id == folder.name

        folder = make_run(row("a", "dense.tflite"))
        assert edgesmith("deploy", str(folder))[0] == 0
        code, text, _ = edgesmith("devices", "releases", "a")
        assert code == 0
        assert text.count("tflite float32 p50 1.000 ms (ai-edge-litert ") == 1
        assert f"  {first['a']}  onnx float32 p50 1.000 ms (onnxruntime " in text
        code, text, _ = edgesmith("rollback", "my-kws.v2", "--device", "a")
        assert code == 0
        assert f"a: my-kws.v2 {first['a']} rolled back, checked there twice: p50 " in text
        assert (a.home / "releases/my-kws.v2/current").readlink() == Path(first["a"])
        code, _, told = edgesmith("rollback", "my-kws.v2", "--device", "a", "--device", "b")
        assert code == 2
        assert told.count("nothing of my-kws.v2 came before") == 2
