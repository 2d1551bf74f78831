"""CUDA's own numbers: the same in every version, in the driver's interface and in the runtime's."""

ATTRIBUTES = {
    "clock_khz": 13,
    "multiprocessors": 16,
    "integrated": 18,
    "map_host_memory": 19,
    "memory_clock_khz": 36,
    "l2_bytes": 38,
    "copy_engines": 40,
    "compute_major": 75,
    "compute_minor": 76,
}
STREAM_NON_BLOCKING = 1
EVENT_BLOCKING_SYNC = 1
SCHEDULE_SPIN, SCHEDULE_BLOCKING_SYNC, SCHEDULE_MASK = 1, 4, 7
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
CAPTURE_THREAD_LOCAL = 1
