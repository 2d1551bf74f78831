"""What each TensorRT's Python interface has, as data: the classes a program on a board may touch, whole.

From 8.6.1 on read off NVIDIA's own bindings, which tests/conformance/test_tensorrt_api.py does again. For earlier
versions there are none to install: 8.2.1 and 8.5.2 are from NVIDIA's sources (python/src of NVIDIA/TensorRT). 8.0.1 and
8.4.1 have what both their neighbours had and what NVIDIA's documentation names for them; a name may be missing that
they had, none is here that they had not. The layers that a network can be given one by one (`add_...`) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

MEMBERS: Mapping[str, Mapping[str, str]] = {
    "tensorrt": {
        "8.0.1 to 10.16.1": "IAlgorithmSelector IInt8Calibrator IInt8EntropyCalibrator2",
        "8.0.1 to 11.4.0": (
            "Builder BuilderFlag DataType DeviceType Dims ErrorCode IBuilderConfig ICudaEngine IExecutionContext "
            "IHostMemory ILayer ILogger INetworkDefinition IOptimizationProfile IProfiler ITensor ITimingCache "
            "Logger NetworkDefinitionCreationFlag OnnxParser ParserError Profiler ProfilingVerbosity Runtime "
            "__version__ bool float16 float32 get_nv_onnx_parser_version get_plugin_registry "
            "init_libnvinfer_plugins int32 int8 nptype volume"
        ),
        "8.2.1 to 11.4.0": "EngineInspector LayerInformationFormat",
        "8.4.1 to 11.4.0": "MemoryPoolType",
        "8.5.2 to 11.4.0": "TensorIOMode uint8",
        "8.6.1 to 11.4.0": "HardwareCompatibilityLevel OnnxParserFlag fp8",
        "10.3.0 to 11.4.0": "ExecutionContextAllocationStrategy IProgressMonitor bfloat16 int4 int64",
        "10.13.3 to 11.4.0": "fp4",
    },
    "Builder": {
        "8.0.1 to 8.6.1": "build_engine max_batch_size",
        "8.0.1 to 10.16.1": "platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
        "8.0.1 to 11.4.0": (
            "build_serialized_network create_builder_config create_network create_optimization_profile "
            "error_recorder gpu_allocator"
        ),
        "8.2.1 to 11.4.0": "is_network_supported logger max_DLA_batch_size num_DLA_cores reset",
        "8.4.1 to 11.4.0": "max_threads",
        "8.6.1 to 11.4.0": "get_plugin_registry",
        "10.13.3 to 11.4.0": "build_engine_with_config build_serialized_network_to_stream",
    },
    "IBuilderConfig": {
        "8.0.1 to 8.6.1": "max_workspace_size min_timing_iterations",
        "8.0.1 to 10.16.1": (
            "algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag "
            "int8_calibrator quantization_flags set_calibration_profile set_quantization_flag"
        ),
        "8.0.1 to 11.4.0": (
            "DLA_core add_optimization_profile avg_timing_iterations can_run_on_DLA clear_flag "
            "create_timing_cache default_device_type flags get_device_type get_flag get_tactic_sources "
            "get_timing_cache is_device_type_set num_optimization_profiles profile_stream profiling_verbosity "
            "reset reset_device_type set_device_type set_flag set_tactic_sources set_timing_cache"
        ),
        "8.2.1 to 11.4.0": "engine_capability",
        "8.4.1 to 11.4.0": "get_memory_pool_limit set_memory_pool_limit",
        "8.5.2 to 11.4.0": "get_preview_feature set_preview_feature",
        "8.6.1 to 11.4.0": (
            "builder_optimization_level hardware_compatibility_level max_aux_streams plugins_to_serialize"
        ),
        "10.3.0 to 11.4.0": "progress_monitor runtime_platform",
        "10.13.3 to 11.4.0": "l2_limit_for_tiling max_num_tactics remote_auto_tuning_config tiling_optimization_level",
        "11.4.0 to 11.4.0": "all_build_routes build_route",
    },
    "INetworkDefinition": {
        "8.0.1 to 8.6.1": "has_explicit_precision",
        "8.0.1 to 11.4.0": (
            "get_input get_layer get_output has_implicit_batch_dimension mark_output mark_output_for_shapes name "
            "num_inputs num_layers num_outputs remove_tensor unmark_output unmark_output_for_shapes"
        ),
        "8.2.1 to 11.4.0": "error_recorder",
        "8.5.2 to 11.4.0": "set_weights_name",
        "8.6.1 to 11.4.0": "builder",
        "10.3.0 to 11.4.0": (
            "are_weights_marked_refittable flags get_flag is_debug_tensor mark_debug mark_weights_refittable "
            "unmark_debug unmark_weights_refittable"
        ),
        "10.13.3 to 11.4.0": "mark_unfused_tensors_as_debug_tensors unmark_unfused_tensors_as_debug_tensors",
    },
    "ITensor": {
        "8.0.1 to 10.16.1": "dynamic_range reset_dynamic_range set_dynamic_range",
        "8.0.1 to 11.4.0": (
            "allowed_formats broadcast_across_batch dtype is_execution_tensor is_network_input is_network_output "
            "is_shape_tensor location name shape"
        ),
        "8.5.2 to 11.4.0": "get_dimension_name set_dimension_name",
    },
    "ILayer": {
        "8.0.1 to 10.16.1": (
            "output_type_is_set precision precision_is_set reset_output_type reset_precision set_output_type"
        ),
        "8.0.1 to 11.4.0": "get_input get_output get_output_type name num_inputs num_outputs set_input type",
        "8.6.1 to 11.4.0": "metadata",
        "10.16.1 to 11.4.0": "num_ranks",
    },
    "IOptimizationProfile": {
        "8.0.1 to 11.4.0": "extra_memory_target get_shape get_shape_input set_shape set_shape_input",
        "11.4.0 to 11.4.0": "profile_stream",
    },
    "ITimingCache": {
        "8.0.1 to 11.4.0": "combine reset serialize",
        "10.13.3 to 11.4.0": "query queryKeys update",
    },
    "IHostMemory": {
        "8.0.1 to 11.4.0": "dtype nbytes",
    },
    "OnnxParser": {
        "8.0.1 to 10.16.1": "parse_with_weight_descriptors supports_model",
        "8.0.1 to 11.4.0": "clear_errors get_error num_errors parse parse_from_file supports_operator",
        "8.6.1 to 11.4.0": "clear_flag flags get_flag get_used_vc_plugin_libraries set_flag",
        "10.3.0 to 11.4.0": (
            "get_layer_output_tensor get_subgraph_nodes is_subgraph_supported num_subgraphs supports_model_v2"
        ),
        "10.13.3 to 11.4.0": "load_initializer load_model_proto parse_model_proto",
        "10.16.1 to 11.4.0": "set_builder_config",
    },
    "ParserError": {
        "8.0.1 to 11.4.0": "code desc file func line node",
        "10.3.0 to 11.4.0": "local_function_stack local_function_stack_size node_name node_operator",
    },
    "Runtime": {
        "8.0.1 to 11.4.0": "deserialize_cuda_engine gpu_allocator",
        "8.2.1 to 11.4.0": "DLA_core error_recorder logger num_DLA_cores",
        "8.4.1 to 11.4.0": "max_threads",
        "8.6.1 to 11.4.0": (
            "engine_host_code_allowed get_plugin_registry load_runtime tempfile_control_flags temporary_directory"
        ),
        "11.4.0 to 11.4.0": "dla_workspace_allocation_strategy",
    },
    "ICudaEngine": {
        "8.0.1 to 8.6.1": (
            "binding_is_input get_binding_bytes_per_component get_binding_components_per_element "
            "get_binding_dtype get_binding_format get_binding_format_desc get_binding_index get_binding_name "
            "get_binding_shape get_binding_vectorized_dim get_location get_profile_shape get_profile_shape_input "
            "is_execution_binding is_shape_binding max_batch_size num_bindings"
        ),
        "8.0.1 to 10.16.1": (
            "create_execution_context_without_device_memory device_memory_size has_implicit_batch_dimension"
        ),
        "8.0.1 to 11.4.0": "create_execution_context name num_layers num_optimization_profiles refittable serialize",
        "8.2.1 to 11.4.0": (
            "create_engine_inspector engine_capability error_recorder profiling_verbosity tactic_sources"
        ),
        "8.5.2 to 11.4.0": (
            "get_tensor_bytes_per_component get_tensor_components_per_element get_tensor_dtype get_tensor_format "
            "get_tensor_format_desc get_tensor_location get_tensor_mode get_tensor_name get_tensor_profile_shape "
            "get_tensor_shape get_tensor_vectorized_dim is_shape_inference_io num_io_tensors"
        ),
        "8.6.1 to 11.4.0": "hardware_compatibility_level num_aux_streams",
        "10.3.0 to 10.16.1": (
            "get_device_memory_size_for_profile minimum_weight_streaming_budget weight_streaming_budget"
        ),
        "10.3.0 to 11.4.0": (
            "create_serialization_config device_memory_size_v2 get_device_memory_size_for_profile_v2 "
            "get_tensor_profile_values get_weight_streaming_automatic_budget is_debug_tensor "
            "serialize_with_config streamable_weights_size weight_streaming_budget_v2 "
            "weight_streaming_scratch_memory_size"
        ),
        "10.13.3 to 11.4.0": "create_runtime_config",
        "10.16.1 to 11.4.0": "get_aliased_input_tensor get_engine_stat",
    },
    "IExecutionContext": {
        "8.0.1 to 8.6.1": (
            "execute execute_async execute_async_v2 get_binding_shape get_shape get_strides set_binding_shape "
            "set_shape_input"
        ),
        "8.0.1 to 10.16.1": "all_shape_inputs_specified",
        "8.0.1 to 11.4.0": (
            "active_optimization_profile all_binding_shapes_specified debug_sync device_memory engine execute_v2 "
            "name profiler set_optimization_profile_async"
        ),
        "8.2.1 to 11.4.0": "enqueue_emits_profile error_recorder report_to_profiler",
        "8.5.2 to 11.4.0": (
            "execute_async_v3 get_input_consumed_event get_max_output_size get_output_allocator "
            "get_tensor_address get_tensor_shape get_tensor_strides infer_shapes nvtx_verbosity "
            "persistent_cache_limit set_input_consumed_event set_input_shape set_output_allocator "
            "set_tensor_address temporary_allocator"
        ),
        "8.6.1 to 11.4.0": "set_aux_streams",
        "10.3.0 to 11.4.0": (
            "get_debug_listener get_debug_state set_all_tensors_debug_state set_debug_listener set_device_memory "
            "set_tensor_debug_state update_device_memory_size_for_shapes"
        ),
        "10.13.3 to 11.4.0": "get_runtime_config unfused_tensors_debug_state",
        "10.16.1 to 11.4.0": "set_communicator",
    },
    "EngineInspector": {
        "8.2.1 to 11.4.0": "error_recorder execution_context get_engine_information get_layer_information",
    },
    "ILogger": {
        "8.0.1 to 11.4.0": "ERROR INFO INTERNAL_ERROR Severity VERBOSE WARNING log",
    },
    "Logger": {
        "8.0.1 to 11.4.0": "ERROR INFO INTERNAL_ERROR Severity VERBOSE WARNING log min_severity",
    },
    "IProfiler": {
        "8.0.1 to 11.4.0": "report_layer_time",
    },
    "Profiler": {
        "8.0.1 to 11.4.0": "report_layer_time",
    },
    "IProgressMonitor": {
        "10.3.0 to 11.4.0": "phase_finish phase_start step_complete",
    },
    "BuilderFlag": {
        "8.0.1 to 8.6.1": "STRICT_TYPES",
        "8.0.1 to 10.16.1": "FP16 INT8",
        "8.0.1 to 11.4.0": "DEBUG DISABLE_TIMING_CACHE GPU_FALLBACK REFIT SPARSE_WEIGHTS TF32",
        "8.2.1 to 10.16.1": "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REJECT_EMPTY_ALGORITHMS",
        "8.2.1 to 11.4.0": "DIRECT_IO SAFETY_SCOPE",
        "8.5.2 to 8.6.1": "ENABLE_TACTIC_HEURISTIC",
        "8.6.1 to 10.16.1": "FP8",
        "8.6.1 to 11.4.0": "EXCLUDE_LEAN_RUNTIME VERSION_COMPATIBLE",
        "10.3.0 to 10.16.1": "BF16 INT4 WEIGHTLESS",
        "10.3.0 to 11.4.0": (
            "DISABLE_COMPILATION_CACHE ERROR_ON_TIMING_CACHE_MISS REFIT_IDENTICAL REFIT_INDIVIDUAL STRIP_PLAN "
            "WEIGHT_STREAMING"
        ),
        "10.13.3 to 10.16.1": "FP4",
        "10.13.3 to 11.4.0": "DISTRIBUTIVE_INDEPENDENCE EDITABLE_TIMING_CACHE MONITOR_MEMORY STRICT_NANS",
    },
    "NetworkDefinitionCreationFlag": {
        "8.0.1 to 8.6.1": "EXPLICIT_PRECISION",
        "8.0.1 to 10.16.1": "EXPLICIT_BATCH",
        "10.3.0 to 11.4.0": "STRONGLY_TYPED",
        "10.13.3 to 11.4.0": "PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS",
    },
    "ProfilingVerbosity": {
        "8.0.1 to 8.6.1": "DEFAULT VERBOSE",
        "8.0.1 to 11.4.0": "NONE",
        "8.2.1 to 11.4.0": "DETAILED LAYER_NAMES_ONLY",
    },
    "MemoryPoolType": {
        "8.4.1 to 11.4.0": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM WORKSPACE",
        "8.6.1 to 11.4.0": "TACTIC_DRAM",
        "10.3.0 to 11.4.0": "TACTIC_SHARED_MEMORY",
    },
    "DataType": {
        "8.0.1 to 11.4.0": "BOOL FLOAT HALF INT32 INT8",
        "8.5.2 to 11.4.0": "UINT8",
        "8.6.1 to 11.4.0": "FP8",
        "10.3.0 to 11.4.0": "BF16 INT4 INT64",
        "10.13.3 to 11.4.0": "E8M0 FP4",
    },
    "TensorIOMode": {
        "8.5.2 to 11.4.0": "INPUT NONE OUTPUT",
    },
    "DeviceType": {
        "8.0.1 to 11.4.0": "DLA GPU",
    },
    "LayerInformationFormat": {
        "8.2.1 to 11.4.0": "JSON ONELINE",
    },
    "HardwareCompatibilityLevel": {
        "8.6.1 to 11.4.0": "AMPERE_PLUS NONE",
        "10.13.3 to 11.4.0": "SAME_COMPUTE_CAPABILITY",
    },
    "ExecutionContextAllocationStrategy": {
        "10.3.0 to 11.4.0": "ON_PROFILE_CHANGE STATIC USER_MANAGED",
    },
    "OnnxParserFlag": {
        "8.6.1 to 11.4.0": "NATIVE_INSTANCENORM",
        "10.13.3 to 11.4.0": "ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA",
        "10.16.1 to 11.4.0": "ADJUST_FOR_DLA ENABLE_PLUGIN_OVERRIDE REPORT_CAPABILITY_DLA",
    },
    "ErrorCode": {
        "8.0.1 to 11.4.0": (
            "INTERNAL_ERROR INVALID_GRAPH INVALID_NODE INVALID_VALUE MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED "
            "SUCCESS UNSUPPORTED_GRAPH UNSUPPORTED_NODE"
        ),
        "10.3.0 to 11.4.0": (
            "REFIT_FAILED UNSUPPORTED_NODE_ATTR UNSUPPORTED_NODE_DATATYPE UNSUPPORTED_NODE_DYNAMIC "
            "UNSUPPORTED_NODE_INPUT UNSUPPORTED_NODE_SHAPE"
        ),
    },
}
"""Class, or "tensorrt" for the module itself -> first and last version -> names."""
