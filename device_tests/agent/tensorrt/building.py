"""An engine from an ONNX file, on the board that will run it."""

import contextlib
import os
from datetime import datetime, timezone

from device_tests.agent.protocol import Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import (
    api,
    engine_io,
    engines,
    failures,
    identity,
    layers,
    memory_plan,
    onnx_nodes,
    opening,
    progress,
    shapes,
)
from device_tests.agent.tensorrt.log import Log, logger
from device_tests.agent.tensorrt.timing_cache import TimingCache


def build(
    onnx_path, options, folder, event, deadline=None, rebuild=False, low_memory=None, timing_cache=None, root=None
):
    """Builds an engine, or finds the one that was built.

    Args:
        onnx_path: the network.
        options: see `identity.identity`; also "workspace_bytes", "cuda", and "float32": names of nodes that are not
            to be computed in float16. Those follow from the file, so they are no part of the identity.
        folder: of all engines.
        event: told how far it is.
        deadline: when to give up; TensorRT before 10 cannot be asked to stop, the agent ends its process then.
        rebuild: build even where there is a sound engine.
        low_memory: see `memory_plan.plan`.
        timing_cache: path of one from another board.
        root: the board.

    Returns:
        The engine's record (`engines`), with "cached", "because" (why the engines that are there were not the one that
        is asked for; None where one was), "path" and "timing_cache".

    Raises:
        Refusal: of `failures`; "no-int8", "no-dla", "profile-missing", "bad-params", "no-gpu", "timeout".
        ImportError: TensorRT is not there.
    """
    root = root or Root()
    here = opening.opened(options.get("cuda") or "auto", root)
    with here.cuda:
        options = identity.onnx_sha256(onnx_path, options)
        wanted = identity.identity(options, here.version, here.compute, here.gpu)
        key, store = identity.key(wanted), engines.Engines(folder)
        known = TimingCache(folder, here.version, here.compute)
        why = "it was to be built again" if rebuild else memory_plan.why_again(store.record(key), options)
        if why is None and store.is_sound(key):
            return _told(store, store.record(key), known, cached=True)
        because = why or store.why_not(wanted)
        free_bytes = None if here.cuda.attribute("integrated") else here.cuda.memory()[0]
        limits = memory_plan.plan(
            root,
            free_bytes,
            os.path.getsize(onnx_path),
            options.get("workspace_bytes"),
            options.get("optimization_level"),
            low_memory,
        )
        known.give(timing_cache)
        part = store.part(key)
        try:
            with contextlib.closing(Log(os.path.join(part, engines.LOG))) as log:
                told = progress.Progress(event, deadline)
                work = _Build(here, onnx_path, wanted, limits, log, told, known, options.get("float32") or ())
                with told:
                    plan = work.run()
                    record = dict(work.facts(plan, part), key=key, identity=wanted, seconds=round(told.elapsed_s, 1))
            return _told(store, store.store(part, plan, record), known, cached=False, because=because)
        except Refusal as refusal:
            refusal.facts["log"] = store.give_up(part)
            raise
        except BaseException:
            store.give_up(part)
            raise


def _told(store, record, known, cached, because=None):
    path = os.path.join(store.folder(record["key"]), engines.PLAN)
    return dict(record, cached=cached, because=because, path=path, timing_cache=known.told())


class _Build:
    """One build, from file to bytes."""

    def __init__(self, here, path, wanted, limits, log, told, known, float32):
        self._here, self._path, self._wanted, self._limits = here, path, wanted, limits
        self._log, self._told, self._known, self._float32 = log, told, known, frozenset(float32)
        self._logger = logger(here.trt, log)
        self._nodes = onnx_nodes.read(path)
        self._notes, self._has_levels = [], True
        self._inputs, self._outputs = [], []

    def run(self):
        """The engine as TensorRT serializes it; where memory runs out, with less and less effort."""
        while True:
            try:
                return self._once()
            except Refusal as refusal:
                limits = memory_plan.after(self._limits, refusal.code, self._has_levels)
                if limits is None:
                    raise
                self._limits = limits
                self._log.begin_anew()

    def _once(self):
        """One try. What it took is freed when this returns."""
        self._notes = []
        trt, wanted = self._here.trt, self._wanted
        builder = self._builder(trt)
        network = api.create_network(trt, builder)
        parser = api.create_parser(trt, network, self._logger, wanted["version_compatible"])
        self._told.stage("reading the network")
        if not parser.parse_from_file(self._path):
            raise failures.parse_failed(_errors(parser), self._nodes, self._log)
        config = builder.create_builder_config()
        api.limit_workspace(trt, config, self._limits["workspace_bytes"])
        api.tell_everything(trt, config)
        self._choose(trt, builder, network, config)
        self._inputs, self._outputs = api.network_inputs(network), api.network_outputs(network)
        ranges = shapes.ranges(self._inputs, wanted["profile"])
        if ranges and not api.add_profile(builder, config, ranges):
            raise Refusal("bad-params", "TensorRT refused the shapes %s: %s" % (ranges, self._log.last_errors()))
        self._known.put_into(config)
        monitor = progress.attach(trt, config, self._told)
        self._told.stage("building")
        plan = builder.build_serialized_network(network, config)
        del monitor
        if self._told.cancelled:
            raise Refusal("timeout", "the time was up after %d s of building" % self._told.elapsed_s)
        if plan is None:
            raise failures.build_failed(self._log, self._nodes, self._limits)
        self._known.take_from(config)
        return plan

    def facts(self, plan, part):
        """What the record says of the engine, read back from it; its layers go into `part`."""
        here, wanted = self._here, self._wanted
        self._told.stage("looking into the engine")
        runtime = api.runtime_for(here.trt, self._logger, wanted["dla_core"], wanted["version_compatible"])
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise Refusal("build-failed", "the engine cannot be read back: %s" % self._log.last_errors())
        tensors = {tensor.name: tensor for tensor in engine_io.tensors(here.trt, engine)}
        text = layers.inspected(here.trt, engine)
        rows = layers.rows(text, self._nodes)
        if text is not None:
            with open(os.path.join(part, engines.LAYERS), "wb") as stream:
                stream.write(text.encode("utf-8", "replace"))
        return {
            "built_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cuda": here.cuda.version(),
            # A stand-in for TensorRT says of itself that it is one.
            "fake": hasattr(here.trt, "FAKE"),
            "inputs": [_described(tensors[name]) for name, _ in self._inputs],
            "outputs": [_described(tensors[name]) for name in self._outputs],
            "device_memory_bytes": api.device_memory_bytes(engine),
            "memory": self._limits,
            "layer_count": len(rows),
            "precisions": layers.precisions(rows),
            "notes": self._limits["notes"] + self._notes + self._known.notes,
            "warnings": self._log.warnings[:20],
        }

    def _builder(self, trt):
        try:
            builder = trt.Builder(self._logger)
        except TypeError as error:
            # pybind11's way to say that the library gave nothing.
            told = "TensorRT gave no builder (%s): %s" % (error, self._log.last_errors())
            raise Refusal("build-failed", told) from None
        compute = self._here.compute
        if "int8" in self._wanted["precision"] and not api.computes_int8(builder, compute):
            told = "this GPU (compute capability %s) does not compute in int8: use fp16" % compute
            raise Refusal("no-int8", told, compute=compute)
        if "fp16" in self._wanted["precision"] and not api.computes_fp16(builder):
            self._notes.append("float16 is no faster than float32 on this GPU")
        return builder

    def _choose(self, trt, builder, network, config):
        """Sets what the options ask for, and notes what this TensorRT or GPU does not have."""
        wanted, level = self._wanted, self._limits["optimization_level"]
        api.set_precision(trt, config, wanted["precision"])
        if wanted["precision"] and not api.has_precision_flags(trt):
            self._notes.append("this TensorRT takes precisions from the file: no builder flag was set for them")
        if self._float32 and "fp16" in wanted["precision"]:
            kept = api.keep_in_float32(trt, network, config, self._float32)
            if kept is not None:
                self._notes.append("layers asked to stay in float32: %d" % kept)
        if wanted["sparsity"]:
            if api.computes_sparse(self._here.compute):
                api.use_sparsity(trt, config)
            else:
                self._notes.append("this GPU has no 2:4 sparsity: the flag was left out")
        if level is not None:
            self._has_levels = api.set_optimization_level(config, level)
            if not self._has_levels:
                self._notes.append("this TensorRT has no optimization levels: %d was left out" % level)
        if wanted["version_compatible"] and not api.make_version_compatible(trt, config):
            told = "TensorRT %s cannot build version-compatible engines; 8.6 and later can" % self._here.version
            raise Refusal("not-version-compatible", told)
        if wanted["dla_core"] is not None:
            self._use_dla(trt, builder, network, config)

    def _use_dla(self, trt, builder, network, config):
        core, cores = self._wanted["dla_core"], api.dla_cores(builder)
        if cores is not None and not 0 <= core < cores:
            told = "DLA core %d was asked for; TensorRT %s finds %d here" % (core, self._here.version, cores)
            raise Refusal("no-dla", told, cores=cores)
        if api.has_precision_flags(trt) and not self._wanted["precision"]:
            raise Refusal("no-dla", "a DLA computes in fp16 or int8, not in float32")
        api.use_dla(trt, config, core)
        takes, total = api.layers_on_dla(network, config)
        self._notes.append("DLA core %d can take %d of %d layers; the GPU computes the others" % (core, takes, total))


def _errors(parser):
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    return [{"code": str(one.code()), "node": int(one.node()), "text": str(one.desc())} for one in found]


def _described(tensor):
    return {"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype.name}
