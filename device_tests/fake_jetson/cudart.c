/* FAKE libcudart: host memory stands for device memory, threads for streams, the monotonic clock for events.
 *
 * It has the symbols that device_tests/agent/cuda uses, with NVIDIA's signatures, and refuses what CUDA refuses:
 * addresses that are not its own, handles that were destroyed, allocations inside a capture. A stream really runs
 * beside its caller, so a program that forgets to wait reads old data here, too. Nothing in it was measured on a GPU.
 *
 * Compile with -DFAKE_CUDA_VERSION=10020, 11040, 12060, 13000 ...; build.py does. Steered by the environment, read at
 * every call:
 *   EDGESMITH_FAKE_CUDA_DEVICES       how many GPUs, default 1; with 0 calls fail with 100, cudaErrorNoDevice
 *   EDGESMITH_FAKE_CUDA_COMPUTE       compute capability, default 8.7
 *   EDGESMITH_FAKE_CUDA_MEMORY_BYTES  device memory, default 8 GiB
 *   EDGESMITH_FAKE_CUDA_DRIVER        the driver's CUDA version, default the library's; lower, or 0 for no driver,
 *                                     makes calls fail with 35, cudaErrorInsufficientDriver
 *   EDGESMITH_FAKE_CUDA_COPY_US       what every copy takes at least
 *   EDGESMITH_FAKE_CUDA_FAIL          "cudaMalloc=2,cudaEventRecord=719": calls that fail, and their codes
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef FAKE_CUDA_VERSION
#error "define FAKE_CUDA_VERSION, such as 12060 for CUDA 12.6"
#endif

typedef int cudaError_t;
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INSUFFICIENT_DRIVER = 35, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_READY = 600, SET_ON_ACTIVE_PROCESS = 708,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908
};

/* {{{ errors: names and texts as libcudart 13.0 gives them */

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {3, "cudaErrorInitializationError", "initialization error"},
    {35, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {46, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {201, "cudaErrorDeviceUninitialized", "invalid device context"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {401, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {600, "cudaErrorNotReady", "device not ready"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {708, "cudaErrorSetOnActiveProcess", "cannot set while device is active in this process"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {901, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {907, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "cudaErrorUnknown", "unknown error"},
};
static const int ERROR_COUNT = sizeof ERRORS / sizeof *ERRORS;
static __thread cudaError_t last_error;

const char *cudaGetErrorName(cudaError_t code) {
    for (int i = 0; i < ERROR_COUNT; i++)
        if (ERRORS[i].code == code) return ERRORS[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code) {
    for (int i = 0; i < ERROR_COUNT; i++)
        if (ERRORS[i].code == code) return ERRORS[i].text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void) {
    cudaError_t found = last_error;
    last_error = OK;
    return found;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

static cudaError_t told(cudaError_t code) {
    if (code) last_error = code;
    return code;
}

/* }}} */
/* {{{ the environment */

static long long number(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoll(text) : otherwise;
}

static int driver_version(void) { return (int)number("EDGESMITH_FAKE_CUDA_DRIVER", FAKE_CUDA_VERSION); }
static int device_count(void) { return (int)number("EDGESMITH_FAKE_CUDA_DEVICES", 1); }
static size_t memory_bytes(void) { return (size_t)number("EDGESMITH_FAKE_CUDA_MEMORY_BYTES", 8LL << 30); }

static cudaError_t asked_to_fail(const char *call) {
    const char *list = getenv("EDGESMITH_FAKE_CUDA_FAIL");
    size_t length = strlen(call);
    while (list && *list) {
        if (!strncmp(list, call, length) && list[length] == '=') return atoi(list + length + 1);
        list = strchr(list, ',');
        if (list) list++;
    }
    return OK;
}

/* Whether a call that needs the GPU gets that far. A driver of the same major version serves a newer library. */
static cudaError_t usable(const char *call) {
    if (driver_version() / 1000 < FAKE_CUDA_VERSION / 1000) return INSUFFICIENT_DRIVER;
    if (device_count() < 1) return NO_DEVICE;
    return asked_to_fail(call);
}

/* }}} */
/* {{{ what there is: one lock over all of it, for simplicity */

typedef struct Event {
    unsigned flags;
    long asked, done; /* recordings: the latest one that was queued, and that the stream has come past */
    long long time_ns;
    int captured;
    struct Event *next;
} Event;

typedef struct Op {
    enum { COPY, RECORD, CALL } kind;
    void *to;
    const void *from;
    size_t bytes;
    long delay_us, number;
    Event *event;
    void (*function)(void *);
    void *argument;
    struct Op *next;
} Op;

typedef struct Ops {
    Op *first, *last;
} Ops;

typedef struct Graph {
    Ops ops;
    int executable;
    struct Graph *next;
} Graph;

typedef struct Stream {
    Ops queue, captured;
    int busy, leaving, capturing, invalidated;
    pthread_t worker, captured_by;
    struct Stream *next;
} Stream;

typedef struct Block {
    char *start;
    size_t bytes;
    int pinned;
    struct Block *next;
} Block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Stream *streams, *default_stream, *ending; /* ending: destroyed, and still at work */
static Event *events;
static Graph *graphs;
static Block *blocks;
static int active; /* whether the device's context is made */
static int device_index;
static unsigned device_flags;

#define FIND(list, one) ({ __typeof__(list) at_ = (list); while (at_ && (void *)at_ != (void *)(one)) at_ = at_->next; at_; })
#define UNLINK(list, one) do { \
    __typeof__(&(list)) at_ = &(list); while (*at_ != (one)) at_ = &(*at_)->next; *at_ = (one)->next; } while (0)
#define PUSH(list, one) do { (one)->next = (list); (list) = (one); } while (0)

static Block *block_of(const void *address, size_t bytes, int pinned) {
    for (Block *one = blocks; one; one = one->next)
        if (one->pinned == pinned && (const char *)address >= one->start
            && (const char *)address + bytes <= one->start + one->bytes) return one;
    return NULL;
}

static size_t device_bytes_used(void) {
    size_t used = 0;
    for (Block *one = blocks; one; one = one->next)
        if (!one->pinned) used += one->bytes;
    return used;
}

/* }}} */
/* {{{ streams: a thread each */

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void sleep_us(long us) {
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    while (us > 0 && nanosleep(&left, &left)) { }
}

static void append(Ops *ops, Op op) {
    Op *copy = malloc(sizeof op);
    *copy = op;
    copy->next = NULL;
    if (ops->last) ops->last->next = copy; else ops->first = copy;
    ops->last = copy;
}

static void append_all(Ops *ops, const Ops *others) {
    for (Op *op = others->first; op; op = op->next) append(ops, *op);
}

static void drop_all(Ops *ops) {
    while (ops->first) {
        Op *next = ops->first->next;
        free(ops->first);
        ops->first = next;
    }
    ops->last = NULL;
}

static void *work(void *own) {
    Stream *stream = own;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stream->queue.first && !stream->leaving) pthread_cond_wait(&changed, &lock);
        Op *op = stream->queue.first;
        if (!op) break;
        stream->queue.first = op->next;
        if (!op->next) stream->queue.last = NULL;
        stream->busy = 1;
        pthread_mutex_unlock(&lock);
        long long time_ns = 0;
        if (op->kind == COPY) {
            sleep_us(op->delay_us);
            memmove(op->to, op->from, op->bytes);
        } else if (op->kind == CALL) {
            op->function(op->argument);
        } else {
            time_ns = now_ns();
        }
        pthread_mutex_lock(&lock);
        if (op->kind == RECORD && op->number > op->event->done) {
            op->event->done = op->number;
            op->event->time_ns = time_ns;
        }
        stream->busy = 0;
        free(op);
        pthread_cond_broadcast(&changed);
    }
    UNLINK(ending, stream);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(stream);
    return NULL;
}

static Stream *new_stream(void) {
    Stream *stream = calloc(1, sizeof *stream);
    if (pthread_create(&stream->worker, NULL, work, stream)) {
        free(stream);
        return NULL;
    }
    pthread_detach(stream->worker);
    return stream;
}

/* NULL is the default stream. It is a stream of its own here: nothing of ours mixes it with blocking ones. */
static Stream *live(void *handle) {
    if (handle) return FIND(streams, handle);
    if (!default_stream) default_stream = new_stream();
    return default_stream;
}

static void drain(Stream *stream) {
    while (stream->queue.first || stream->busy) pthread_cond_wait(&changed, &lock);
}

static void drain_all(void) {
    if (default_stream) drain(default_stream);
    for (Stream *one = streams; one; one = one->next) drain(one);
    while (ending) pthread_cond_wait(&changed, &lock);
}

static void queue(Stream *stream, Op op) {
    append(stream->capturing ? &stream->captured : &stream->queue, op);
    pthread_cond_broadcast(&changed);
}

/* What a thread must not do while it captures: such a call fails, and spoils the capture. */
static int spoils_capture(void) {
    int spoilt = 0;
    for (Stream *one = streams; one; one = one->next)
        if (one->capturing && pthread_equal(one->captured_by, pthread_self())) spoilt = one->invalidated = 1;
    return spoilt;
}

/* }}} */

/* Every entry: checks that the GPU is there, takes the lock, and leaves through `done`. */
#define ENTER(call) \
    cudaError_t code = usable(call); \
    if (code) return told(code); \
    pthread_mutex_lock(&lock)
#define LEAVE(status) do { code = (status); goto done; } while (0)
#define EXIT \
done: \
    __attribute__((unused)); \
    pthread_mutex_unlock(&lock); \
    return told(code)

/* {{{ the device */

cudaError_t cudaRuntimeGetVersion(int *version) {
#if FAKE_CUDA_VERSION < 12000
    /* Seen in 11.8's library. */
    if (driver_version() / 1000 < FAKE_CUDA_VERSION / 1000) return told(INSUFFICIENT_DRIVER);
#endif
    *version = FAKE_CUDA_VERSION;
    return OK;
}

cudaError_t cudaDriverGetVersion(int *version) { *version = driver_version(); return OK; }

cudaError_t cudaGetDeviceCount(int *count) {
    cudaError_t code = usable("cudaGetDeviceCount");
    if (!code) *count = device_count();
    return told(code);
}

cudaError_t cudaSetDevice(int index) {
    ENTER("cudaSetDevice");
    if (index < 0 || index >= device_count()) LEAVE(INVALID_DEVICE);
    device_index = index;
#if FAKE_CUDA_VERSION >= 12000
    active = 1; /* from CUDA 12 on this call makes the context */
#endif
    EXIT;
}

cudaError_t cudaGetDevice(int *index) {
    ENTER("cudaGetDevice");
    *index = device_index;
    EXIT;
}

cudaError_t cudaSetDeviceFlags(unsigned flags) {
    ENTER("cudaSetDeviceFlags");
#if FAKE_CUDA_VERSION < 11000
    if (active) LEAVE(SET_ON_ACTIVE_PROCESS); /* by CUDA 10.2's manual; later ones overwrite the flags */
#endif
    device_flags = flags;
    EXIT;
}

cudaError_t cudaGetDeviceFlags(unsigned *flags) {
    ENTER("cudaGetDeviceFlags");
    *flags = device_flags;
    EXIT;
}

cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int index) {
    ENTER("cudaDeviceGetAttribute");
    int major = 8, minor = 7;
    const char *compute = getenv("EDGESMITH_FAKE_CUDA_COMPUTE");
    if (compute && *compute) sscanf(compute, "%d.%d", &major, &minor);
    if (index < 0 || index >= device_count()) LEAVE(INVALID_DEVICE);
    switch (attribute) {
    case 13: *value = 1020000; break;     /* clock rate, kHz */
    case 16: *value = 8; break;           /* multiprocessors */
    case 18: *value = 1; break;           /* integrated */
    case 19: *value = 1; break;           /* can map host memory */
    case 36: *value = 2133000; break;     /* memory clock rate, kHz */
    case 38: *value = 4 << 20; break;     /* L2 cache, bytes */
    case 40: *value = 1; break;           /* copy engines */
    case 75: *value = major; break;
    case 76: *value = minor; break;
    default: LEAVE(INVALID_VALUE);
    }
    EXIT;
}

cudaError_t cudaDeviceSynchronize(void) {
    ENTER("cudaDeviceSynchronize");
    if (spoils_capture()) LEAVE(CAPTURE_UNSUPPORTED);
    drain_all();
    EXIT;
}

/* }}} */
/* {{{ memory */

static cudaError_t allocate(void **address, size_t bytes, int pinned) {
    if (!address || !bytes) return INVALID_VALUE;
    if (spoils_capture()) return CAPTURE_UNSUPPORTED;
    if (!pinned && (bytes > memory_bytes() || device_bytes_used() + bytes > memory_bytes())) return OUT_OF_MEMORY;
    active = 1;
    Block *block = calloc(1, sizeof *block);
    /* As aligned as CUDA's. What is in it is nobody's promise: not zeros. */
    if (posix_memalign((void **)&block->start, 256, bytes)) {
        free(block);
        return OUT_OF_MEMORY;
    }
    memset(block->start, 0xA5, bytes);
    block->bytes = bytes;
    block->pinned = pinned;
    PUSH(blocks, block);
    *address = block->start;
    return OK;
}

static cudaError_t release(void *address, int pinned) {
    active = 1;
    if (!address) return OK;
    if (spoils_capture()) return CAPTURE_UNSUPPORTED;
    Block *block = block_of(address, 1, pinned);
    if (!block || block->start != address) return INVALID_VALUE;
    /* CUDA waits for work that may use it. */
    drain_all();
    UNLINK(blocks, block);
    free(block->start);
    free(block);
    return OK;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    ENTER("cudaMemGetInfo");
    active = 1;
    *total_bytes = memory_bytes();
    *free_bytes = memory_bytes() - device_bytes_used();
    EXIT;
}

cudaError_t cudaMalloc(void **address, size_t bytes) {
    ENTER("cudaMalloc");
    LEAVE(allocate(address, bytes, 0));
    EXIT;
}

cudaError_t cudaFree(void *address) {
    ENTER("cudaFree");
    LEAVE(release(address, 0));
    EXIT;
}

cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER("cudaHostAlloc");
    (void)flags;
    LEAVE(allocate(address, bytes, 1));
    EXIT;
}

cudaError_t cudaMallocHost(void **address, size_t bytes) { return cudaHostAlloc(address, bytes, 0); }

cudaError_t cudaFreeHost(void *address) {
    ENTER("cudaFreeHost");
    LEAVE(release(address, 1));
    EXIT;
}

static cudaError_t copy(void *to, const void *from, size_t bytes, int kind, void *handle, int wait) {
    Stream *stream = live(handle);
    const void *host = kind == 1 ? from : to, *device = kind == 1 ? to : from;
    if (!stream) return INVALID_HANDLE;
    if (kind < 1 || kind > 3 || !block_of(device, bytes, 0)) return INVALID_VALUE;
    if (kind == 3 && !block_of(to, bytes, 0)) return INVALID_VALUE;
    Op op = {.kind = COPY, .to = to, .from = from, .bytes = bytes};
    op.delay_us = number("EDGESMITH_FAKE_CUDA_COPY_US", 0);
    queue(stream, op);
    /* Memory that is not pinned cannot be copied behind the caller's back: the call itself takes as long. */
    if (!stream->capturing && (wait || (kind != 3 && !block_of(host, bytes, 1)))) drain(stream);
    return OK;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    ENTER("cudaMemcpyAsync");
    LEAVE(copy(to, from, bytes, kind, stream, 0));
    EXIT;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    ENTER("cudaMemcpy");
    if (spoils_capture()) LEAVE(CAPTURE_UNSUPPORTED);
    LEAVE(copy(to, from, bytes, kind, NULL, 1));
    EXIT;
}

/* }}} */
/* {{{ streams and events */

cudaError_t cudaStreamCreateWithFlags(void **handle, unsigned flags) {
    ENTER("cudaStreamCreateWithFlags");
    if (flags > 1) LEAVE(INVALID_VALUE);
    active = 1;
    Stream *stream = new_stream();
    if (!stream) LEAVE(OUT_OF_MEMORY);
    PUSH(streams, stream);
    *handle = stream;
    EXIT;
}

cudaError_t cudaStreamDestroy(void *handle) {
    ENTER("cudaStreamDestroy");
    Stream *stream = FIND(streams, handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    UNLINK(streams, stream);
    PUSH(ending, stream);
    drop_all(&stream->captured);
    stream->leaving = 1; /* what is queued still runs; its thread frees it */
    pthread_cond_broadcast(&changed);
    EXIT;
}

cudaError_t cudaStreamSynchronize(void *handle) {
    ENTER("cudaStreamSynchronize");
    Stream *stream = live(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    if (stream->capturing) {
        stream->invalidated = 1;
        LEAVE(CAPTURE_UNSUPPORTED);
    }
    drain(stream);
    EXIT;
}

cudaError_t cudaEventCreateWithFlags(void **handle, unsigned flags) {
    ENTER("cudaEventCreateWithFlags");
    if (flags > 7) LEAVE(INVALID_VALUE);
    active = 1;
    Event *event = calloc(1, sizeof *event);
    event->flags = flags;
    PUSH(events, event);
    *handle = event;
    EXIT;
}

cudaError_t cudaEventDestroy(void *handle) {
    ENTER("cudaEventDestroy");
    Event *event = FIND(events, handle);
    if (!event) LEAVE(INVALID_HANDLE);
    /* Not freed: a stream or a graph may still come past it, and a fake may leak a few bytes. */
    UNLINK(events, event);
    EXIT;
}

cudaError_t cudaEventRecord(void *handle, void *stream_handle) {
    ENTER("cudaEventRecord");
    Event *event = FIND(events, handle);
    Stream *stream = live(stream_handle);
    if (!event || !stream) LEAVE(INVALID_HANDLE);
    event->captured = stream->capturing;
    /* In a capture it orders the work and takes no time. */
    if (stream->capturing) LEAVE(OK);
    Op op = {.kind = RECORD, .event = event, .number = ++event->asked};
    queue(stream, op);
    EXIT;
}

cudaError_t cudaEventSynchronize(void *handle) {
    ENTER("cudaEventSynchronize");
    Event *event = FIND(events, handle);
    if (!event) LEAVE(INVALID_HANDLE);
    if (event->captured) LEAVE(CAPTURED_EVENT);
    for (long asked = event->asked; event->done < asked;) pthread_cond_wait(&changed, &lock);
    EXIT;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, void *start, void *end) {
    ENTER("cudaEventElapsedTime");
    Event *first = FIND(events, start), *second = FIND(events, end);
    if (!first || !second || !first->asked || !second->asked) LEAVE(INVALID_HANDLE);
    if ((first->flags | second->flags) & 2) LEAVE(INVALID_HANDLE); /* made without timing */
    if (first->captured || second->captured) LEAVE(CAPTURED_EVENT);
    if (first->done < first->asked || second->done < second->asked) LEAVE(NOT_READY);
    *milliseconds = (float)((second->time_ns - first->time_ns) / 1e6);
    EXIT;
}

/* }}} */
/* {{{ graphs */

static Graph *new_graph(const Ops *ops, int executable) {
    Graph *graph = calloc(1, sizeof *graph);
    append_all(&graph->ops, ops);
    graph->executable = executable;
    PUSH(graphs, graph);
    return graph;
}

static Graph *live_graph(void *handle, int executable) {
    Graph *graph = FIND(graphs, handle);
    return graph && graph->executable == executable ? graph : NULL;
}

static cudaError_t destroy_graph(void *handle, int executable) {
    Graph *graph = live_graph(handle, executable);
    if (!graph) return INVALID_VALUE;
    UNLINK(graphs, graph);
    drop_all(&graph->ops);
    free(graph);
    return OK;
}

cudaError_t cudaStreamBeginCapture(void *handle, int mode) {
    ENTER("cudaStreamBeginCapture");
    if (!handle) LEAVE(CAPTURE_UNSUPPORTED); /* the default stream cannot be captured */
    Stream *stream = live(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    if (mode < 0 || mode > 2) LEAVE(INVALID_VALUE);
    if (stream->capturing) LEAVE(ILLEGAL_STATE);
    stream->capturing = 1;
    stream->invalidated = 0;
    stream->captured_by = pthread_self();
    EXIT;
}

cudaError_t cudaStreamEndCapture(void *handle, void **graph) {
    ENTER("cudaStreamEndCapture");
    Stream *stream = handle ? live(handle) : NULL;
    if (!stream) LEAVE(INVALID_HANDLE);
    if (!stream->capturing) LEAVE(ILLEGAL_STATE);
    if (!pthread_equal(stream->captured_by, pthread_self())) LEAVE(CAPTURE_WRONG_THREAD);
    *graph = stream->invalidated ? NULL : new_graph(&stream->captured, 0);
    code = stream->invalidated ? CAPTURE_INVALIDATED : OK;
    drop_all(&stream->captured);
    stream->capturing = stream->invalidated = 0;
    EXIT;
}

static cudaError_t instantiate(const char *call, void **executable, void *handle) {
    ENTER(call);
    Graph *graph = live_graph(handle, 0);
    if (!graph) LEAVE(INVALID_VALUE);
    *executable = new_graph(&graph->ops, 1);
    EXIT;
}

#if FAKE_CUDA_VERSION >= 12000
cudaError_t cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
    (void)flags;
    return instantiate("cudaGraphInstantiate", executable, graph);
}
#else
cudaError_t cudaGraphInstantiate(void **executable, void *graph, void **failed, char *log, size_t log_bytes) {
    if (failed) *failed = NULL;
    if (log && log_bytes) *log = 0;
    return instantiate("cudaGraphInstantiate", executable, graph);
}
#endif

#if FAKE_CUDA_VERSION >= 11040
cudaError_t cudaGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    (void)flags;
    return instantiate("cudaGraphInstantiateWithFlags", executable, graph);
}
#endif

cudaError_t cudaGraphDestroy(void *graph) {
    ENTER("cudaGraphDestroy");
    LEAVE(destroy_graph(graph, 0));
    EXIT;
}

cudaError_t cudaGraphExecDestroy(void *executable) {
    ENTER("cudaGraphExecDestroy");
    LEAVE(destroy_graph(executable, 1));
    EXIT;
}

cudaError_t cudaGraphLaunch(void *executable, void *handle) {
    ENTER("cudaGraphLaunch");
    Graph *graph = live_graph(executable, 1);
    Stream *stream = live(handle);
    if (!graph) LEAVE(INVALID_VALUE);
    if (!stream) LEAVE(INVALID_HANDLE);
    append_all(stream->capturing ? &stream->captured : &stream->queue, &graph->ops);
    pthread_cond_broadcast(&changed);
    EXIT;
}

/* }}} */
/* {{{ what no real libcudart has */

/* Work for a stream: stands for a kernel, or for all of an engine. Recorded where the stream captures. */
cudaError_t fakeCudaEnqueueHost(void (*function)(void *), void *argument, void *handle) {
    ENTER("fakeCudaEnqueueHost");
    Stream *stream = live(handle);
    if (!stream) LEAVE(INVALID_HANDLE);
    Op op = {.kind = CALL, .function = function, .argument = argument};
    queue(stream, op);
    EXIT;
}

int fakeCudaVersion(void) { return FAKE_CUDA_VERSION; }

/* How many are not freed: of 'd'evice memory, 'h'ost memory, 's'treams, 'e'vents, 'g'raphs e'x'ecutable ones. */
long fakeCudaLive(char kind) {
    long count = 0;
    pthread_mutex_lock(&lock);
    for (Block *one = blocks; one; one = one->next) count += kind == (one->pinned ? 'h' : 'd');
    for (Stream *one = streams; one; one = one->next) count += kind == 's';
    for (Event *one = events; one; one = one->next) count += kind == 'e';
    for (Graph *one = graphs; one; one = one->next) count += kind == (one->executable ? 'x' : 'g');
    pthread_mutex_unlock(&lock);
    return count;
}

/* }}} */
