"""What every CUDA provider must do, over the FAKE libcudart of every CUDA that a JetPack has. Nothing here is a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.agent import cuda
from device_tests.agent.cuda import CudaError, CudaMissing
from device_tests.fake_jetson.build import build_cudart
from tests.fake_cuda import CASES, VERSIONS, FakeCuda, packages_over

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

WITH_GRAPHS = [case for case in CASES if case[0] != "pycuda"]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {version: build_cudart(version, tmp_path_factory.mktemp("cuda") / version) for version in VERSIONS}


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def fake(case: tuple[str, str], libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    with packages_over(libraries[case[1]], monkeypatch) as found:
        yield found


@pytest.fixture
def runtime(case: tuple[str, str], fake: FakeCuda) -> Iterator[Any]:
    made = cuda.choose(case[0])
    yield made
    made.close()
    assert fake.live() == {}


@contextlib.contextmanager
def refused(code: int | None, words: str) -> Iterator[None]:
    with pytest.raises(CudaError, match=words) as caught:
        yield
    assert caught.value.code == code


def test_it_tells_what_it_is(case: tuple[str, str], runtime: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_COMPUTE", "7.2")
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_MEMORY_BYTES", str(4 << 30))
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_DEVICES", "3")
    assert (runtime.name, runtime.version(), runtime.driver_version()) == (*case, case[1])
    assert runtime.origin
    assert runtime.device_count() == 3
    assert runtime.compute_capability() == "7.2"
    assert (runtime.attribute("integrated"), runtime.attribute("clock_khz")) == (1, 1020000)
    assert runtime.memory() == (4 << 30, 4 << 30)
    runtime.malloc(1 << 20)
    assert runtime.memory() == ((4 << 30) - (1 << 20), 4 << 30)
    with refused(1, "there are .*compute_major"):
        runtime.attribute("warp_speed")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int64", "bool"])
def test_arrays_go_there_and_come_back(runtime: Any, dtype: str):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    stream, address = runtime.stream(), runtime.malloc(values.nbytes)
    sent, back = runtime.pinned(values.shape, dtype), runtime.pinned(values.shape, dtype)
    assert (sent.shape, sent.dtype) == ((2, 3, 4), dtype)
    assert sent.flags["C_CONTIGUOUS"]
    assert sent.flags["WRITEABLE"]
    sent[:] = values
    runtime.copy_to_device(address, sent, stream)
    runtime.copy_to_host(back, address, stream)
    runtime.stream_synchronize(stream)
    assert np.array_equal(back, values)
    pageable = np.zeros_like(values)
    runtime.copy_to_host(pageable, address, stream)
    runtime.stream_synchronize(stream)
    assert np.array_equal(pageable, values)


def test_scalars_empty_arrays_and_arrays_that_are_read_only(runtime: Any):
    stream = runtime.stream()
    scalar, empty = runtime.pinned((), "float32"), runtime.pinned((0, 5), np.float32)
    assert (scalar.shape, empty.shape, empty.dtype) == ((), (0, 5), np.float32)
    runtime.copy_to_device(runtime.malloc(0), empty, stream)
    constant = np.array(7.5, np.float32)
    constant.flags.writeable = False
    address = runtime.malloc(4)
    runtime.copy_to_device(address, constant, stream)
    runtime.copy_to_host(scalar, address, stream)
    runtime.stream_synchronize(stream)
    assert scalar == 7.5
    assert runtime.pinned(6, "int8").shape == (6,)


def test_a_pinned_copy_waits_for_its_stream_and_nobody_waits_for_it(runtime: Any, fake: FakeCuda):
    first, second = runtime.stream(), runtime.stream()
    address, elsewhere = runtime.malloc(4), runtime.malloc(4)
    sent, back, other = (runtime.pinned(4, "uint8") for _ in range(3))
    sent[:], back[:], other[:] = 1, 0, 0
    with fake.held(first):
        runtime.copy_to_device(address, sent, first)
        runtime.copy_to_host(back, address, first)
        runtime.copy_to_device(elsewhere, sent, second)
        runtime.copy_to_host(other, elsewhere, second)
        runtime.stream_synchronize(second)
        assert other.tolist() == [1, 1, 1, 1]
        assert back.tolist() == [0, 0, 0, 0]
        # Queued is not copied: what is written now is what arrives.
        sent[:] = 9
    runtime.stream_synchronize(first)
    assert back.tolist() == [9, 9, 9, 9]


def test_a_destroyed_stream_finishes_its_work_and_freeing_waits_for_it(runtime: Any, fake: FakeCuda):
    stream, address = runtime.stream(), runtime.malloc(4)
    back = runtime.pinned(4, "uint8")
    back[:] = 0
    with fake.held(stream):
        fake.enqueue(stream, lambda: time.sleep(0.01))
        runtime.copy_to_host(back, address, stream)
        runtime.stream_destroy(stream)
        assert not back.any()
    runtime.free(address)
    assert back.all()


def test_events_agree_with_the_clock_on_the_wall(runtime: Any, fake: FakeCuda):
    stream, start, end = runtime.stream(), runtime.event(), runtime.event()
    before = time.perf_counter()
    runtime.event_record(start, stream)
    fake.enqueue(stream, lambda: time.sleep(0.03))
    runtime.event_record(end, stream)
    runtime.event_synchronize(end)
    wall_ms = (time.perf_counter() - before) * 1e3
    # Both clocks are monotonic, and the events lie within what the wall clock saw.
    assert 30 <= runtime.elapsed_ms(start, end) <= wall_ms + 0.01
    assert runtime.elapsed_ms(end, start) == pytest.approx(-runtime.elapsed_ms(start, end))
    runtime.event_record(start, stream)
    runtime.event_synchronize(start)
    assert runtime.elapsed_ms(start, end) < 0


def test_an_event_has_no_time_before_the_stream_has_come_past_it(runtime: Any, fake: FakeCuda):
    stream, start, end = runtime.stream(), runtime.event(), runtime.event()
    with refused(400, "invalid resource handle"):
        runtime.elapsed_ms(start, end)
    runtime.event_record(start, stream)
    with fake.held(stream):
        runtime.event_record(end, stream)
        with refused(600, "not ready"):
            runtime.elapsed_ms(start, end)
    runtime.event_synchronize(end)
    assert runtime.elapsed_ms(start, end) >= 0


@pytest.mark.parametrize("case", WITH_GRAPHS, indirect=True, ids="-".join)
def test_a_graph_repeats_what_was_queued(runtime: Any, fake: FakeCuda):
    stream, address = runtime.stream(), runtime.malloc(8)
    sent, back = runtime.pinned(8, "uint8"), runtime.pinned(8, "uint8")
    sent[:], back[:] = 1, 0
    ran: list[int] = []
    with runtime.capture(stream) as graph:
        runtime.copy_to_device(address, sent, stream)
        fake.enqueue(stream, lambda: ran.append(1))
        runtime.copy_to_host(back, address, stream)
        assert graph.handle is None
        with refused(400, "not recorded to its end"):
            runtime.graph_launch(graph, stream)
    runtime.stream_synchronize(stream)
    assert (ran, back.any()) == ([], False)
    for value in (5, 6):
        sent[:] = value
        runtime.graph_launch(graph, stream)
        runtime.stream_synchronize(stream)
        assert back.tolist() == [value] * 8
    assert ran == [1, 1]
    runtime.graph_destroy(graph)
    with refused(400, "destroyed already"):
        runtime.graph_launch(graph, stream)
    assert "executables" not in fake.live()
    assert "graphs" not in fake.live()


@pytest.mark.parametrize("case", WITH_GRAPHS, indirect=True, ids="-".join)
def test_what_must_not_be_recorded_spoils_the_graph_and_not_the_stream(runtime: Any, fake: FakeCuda):
    stream, address, back = runtime.stream(), runtime.malloc(4), runtime.pinned(4, "uint8")
    recording = "when stream is capturing"
    with refused(901, "previous error during capture"), runtime.capture(stream), refused(900, recording):
        runtime.malloc(4)
    with refused(900, recording), runtime.capture(stream):
        runtime.stream_synchronize(stream)
    with pytest.raises(ZeroDivisionError), runtime.capture(stream) as graph:
        runtime.copy_to_host(back, address, stream)
        raise ZeroDivisionError
    with refused(400, "not recorded to its end"):
        runtime.graph_launch(graph, stream)
    with pytest.raises(CudaError) as caught, runtime.capture(stream), runtime.capture(stream):
        pass
    assert caught.value.code == 401
    assert {"graphs", "executables"}.isdisjoint(fake.live())
    runtime.copy_to_host(back, address, stream)
    runtime.stream_synchronize(stream)


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITH_GRAPHS], indirect=True, ids="-".join)
def test_a_provider_without_graphs_says_so_beforehand(runtime: Any):
    stream = runtime.stream()
    assert not runtime.supports_graphs
    with refused(801, "has no CUDA graphs"), runtime.capture(stream):
        raise AssertionError


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "ctypes"], indirect=True, ids="-".join)
def test_only_cuda_10_makes_graphs_the_old_way(case: tuple[str, str], runtime: Any, monkeypatch: pytest.MonkeyPatch):
    """From 12 on the old name takes other arguments."""
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaGraphInstantiate=999")
    stream = runtime.stream()
    old = case[1] == "10.2"
    with refused(999, "cudaGraphInstantiate") if old else contextlib.nullcontext(), runtime.capture(stream):
        pass


def test_an_error_has_cudas_number_and_cudas_words(runtime: Any, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_MEMORY_BYTES", "1000")
    with refused(2, "out of memory"):
        runtime.malloc(1001)
    address, stream, array = runtime.malloc(1000), runtime.stream(), runtime.pinned(8, "int8")
    with refused(1, "1001 bytes do not fit into the 1000"):
        runtime.copy_to_device(address, np.zeros(1001, "int8"), stream)
    with refused(1, "invalid argument"):
        runtime.copy_to_device(address + 999, array, stream)
    with refused(1, "not contiguous"):
        runtime.copy_to_device(address, np.zeros((4, 4), "int8")[:, :2], stream)
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaStreamSynchronize=719,cudaEventSynchronize=719")
    with refused(719, "unspecified launch failure"):
        runtime.stream_synchronize(stream)
    monkeypatch.delenv("EDGESMITH_FAKE_CUDA_FAIL")
    # Nobody else, TensorRT say, finds our error where it asks for its own.
    assert fake.library.cudaPeekAtLastError() == 0


def test_what_is_gone_cannot_be_used_or_freed_again(runtime: Any):
    stream, event, address = runtime.stream(), runtime.event(), runtime.malloc(16)
    array = runtime.pinned((2, 2), "float32")
    runtime.free(address)
    with refused(1, "freed already"):
        runtime.free(address)
    runtime.free_pinned(array)
    with refused(1, "freed already"):
        runtime.free_pinned(np.zeros(3))
    runtime.event_destroy(event)
    runtime.stream_destroy(stream)
    for use in (
        lambda: runtime.event_destroy(event),
        lambda: runtime.event_synchronize(event),
        lambda: runtime.stream_destroy(stream),
        lambda: runtime.stream_synchronize(stream),
        lambda: runtime.copy_to_device(address, np.zeros(4), stream),
        lambda: runtime.elapsed_ms(event, event),
    ):
        with refused(400, "destroyed already"):
            use()


def test_closing_frees_everything(case: tuple[str, str], fake: FakeCuda):
    runtime: Any = cuda.choose(case[0])
    with runtime:
        stream = runtime.stream()
        runtime.event_record(runtime.event(), stream)
        runtime.copy_to_device(runtime.malloc(64), runtime.pinned(64, "uint8"), stream)
        runtime.stream()
        if runtime.supports_graphs:
            with runtime.capture(stream):
                pass
        assert {"device", "host", "streams", "events"} <= set(fake.live())
    assert fake.live() == {}
    runtime.close()
    with refused(1, "this runtime is closed"):
        runtime.malloc(1)


@pytest.mark.parametrize("case", WITH_GRAPHS, indirect=True, ids="-".join)
def test_closing_frees_the_rest_where_something_fails(
    case: tuple[str, str], fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
):
    runtime: Any = cuda.choose(case[0])
    runtime.malloc(64)
    runtime.stream()
    events = [runtime.event()]
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaEventDestroy=719")
    with refused(719, "cudaEventDestroy"):
        runtime.close()
    assert fake.live() == {"events": 1}
    # An error that was there first is the one that is told.
    with pytest.raises(ZeroDivisionError), cuda.choose(case[0]) as other:
        events.append(other.event())
        raise ZeroDivisionError
    monkeypatch.delenv("EDGESMITH_FAKE_CUDA_FAIL")
    assert [fake.library.cudaEventDestroy(ctypes.c_void_p(event)) for event in events] == [0, 0]


def test_no_gpu(runtime: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_DEVICES", "0")
    for use in (runtime.device_count, runtime.select, lambda: runtime.malloc(1)):
        with refused(100, "no CUDA-capable device is detected"):
            use()


@pytest.mark.parametrize(
    ("driver", "words"), [("0", "there is no NVIDIA driver here"), ("9020", "driver speaks CUDA 9.2")]
)
def test_no_driver_or_one_that_is_too_old(
    case: tuple[str, str], fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, driver: str, words: str
):
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_DRIVER", driver)
    if case[0] == "pycuda":
        # Its extension is linked against the driver's library.
        with pytest.raises(CudaMissing, match="ImportError"):
            cuda.choose("pycuda")
        return
    with cuda.choose(case[0]) as runtime:
        with refused(35, words):
            runtime.device_count()
        with refused(35, "cudaErrorInsufficientDriver|dlopen libcuda"):
            runtime.select()
        assert runtime.driver_version() == (None if driver == "0" else "9.2")


def test_a_gpu_that_is_not_there(runtime: Any):
    with refused(101, "invalid device ordinal"):
        runtime.select(index=1)
    assert runtime.device_count() == 1


@pytest.mark.parametrize("case", WITH_GRAPHS, indirect=True, ids="-".join)
def test_waiting_yields_the_processor_where_asked(case: tuple[str, str], runtime: Any, fake: FakeCuda):
    def flags() -> int:
        found = ctypes.c_uint()
        assert fake.library.cudaGetDeviceFlags(ctypes.byref(found)) == 0
        return found.value

    runtime.select()
    runtime.select()
    assert flags() == 4
    if case[1] == "10.2":
        # There it cannot be changed once the GPU is in use, which must not go unnoticed.
        with refused(708, "while device is active"):
            runtime.select(blocking_sync=False)
    else:
        runtime.select(blocking_sync=False)
        assert flags() == 1


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "pycuda"], indirect=True, ids="-".join)
def test_pycuda_yields_by_waiting_for_an_event(runtime: Any, monkeypatch: pytest.MonkeyPatch):
    """It cannot set the flags of the primary context."""
    stream = runtime.stream()
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaStreamSynchronize=719")
    runtime.stream_synchronize(stream)
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_FAIL", "cudaEventSynchronize=719")
    with refused(719, "cuEventSynchronize"):
        runtime.stream_synchronize(stream)
    runtime.select(blocking_sync=False)
    runtime.stream_synchronize(stream)


def test_a_probe_says_all_at_once(case: tuple[str, str], fake: FakeCuda):
    found = cuda.probe(case[0])
    assert found.pop("origin")
    assert found == {
        "provider": case[0],
        "version": case[1],
        "driver": case[1],
        "devices": 1,
        "compute": "8.7",
        "memory": {"free_bytes": 8 << 30, "total_bytes": 8 << 30},
        "graphs": case[0] != "pycuda",
    }
    assert fake.live() == {}
