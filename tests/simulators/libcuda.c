/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A libcuda.so.1 for machines without a GPU: the driver's own names and signatures, in front of streams that
 * are clocks. A kernel takes as long as its first argument says (unsigned 64 bit, nanoseconds); a stream is
 * done when its clock is. Synchronising blocks in poll, as the driver does with CU_CTX_SCHED_BLOCKING_SYNC, or
 * spins, as it does by default: WHYIDLE_SIM_SYNC=spin.
 *
 * WHYIDLE_SIM_TRUTH=FILE gets one line per busy interval of the device, "START END" in ns of CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define COPY_BYTES_PER_NS 10

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long ns_t;
typedef struct { ns_t end; } stream_t;
typedef struct { ns_t at; } event_t;

EXPORT const int whyidle_simulated_cuda = 1; /* says that no hardware is behind this */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static stream_t streams[64];
static int count = 1;
static ns_t busy_start, busy_end;
static FILE *truth;
static stream_t contexts[8];
static __thread void *current, *below;
static int spin, yield;

static ns_t clock_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void write_busy(void)
{
	if (truth && busy_end)
		fprintf(truth, "%llu %llu\n", busy_start, busy_end);
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("WHYIDLE_SIM_TRUTH"), *sync = getenv("WHYIDLE_SIM_SYNC");
	truth = path ? fopen(path, "we") : NULL;
	spin = sync && !strcmp(sync, "spin");
}

__attribute__((destructor)) static void end(void)
{
	write_busy();
	if (truth)
		fclose(truth);
}

static stream_t *stream_of(void *handle)
{
	size_t number = (size_t)handle; /* 1 and 2 are the legacy and the per-thread default stream */
	return &streams[number > 2 && number < 64 ? number : 0];
}

static CUresult work(void *handle, ns_t takes)
{
	pthread_mutex_lock(&lock);
	stream_t *stream = stream_of(handle);
	ns_t now = clock_ns(), start = stream->end > now ? stream->end : now;
	stream->end = start + takes;
	if (start > busy_end) {
		write_busy();
		busy_start = start;
	}
	if (stream->end > busy_end)
		busy_end = stream->end;
	pthread_mutex_unlock(&lock);
	return 0;
}

static CUresult wait_for(ns_t until)
{
	if (yield)
		sched_yield();
	for (ns_t now = clock_ns(); now < until; now = clock_ns()) {
		struct timespec left = { (until - now) / 1000000000ULL, (until - now) % 1000000000ULL };
		struct pollfd none = { -1, POLLIN, 0 };
		if (!spin)
			ppoll(&none, 1, &left, NULL);
	}
	return 0;
}

static ns_t all_done(void)
{
	ns_t latest = 0;
	for (int i = 0; i < 64; i++)
		latest = streams[i].end > latest ? streams[i].end : latest;
	return latest;
}

static ns_t duration(void **arguments)
{
	ns_t takes = 0;
	if (arguments && arguments[0])
		memcpy(&takes, arguments[0], sizeof(takes));
	return takes;
}

EXPORT CUresult cuInit(unsigned flags)
{
	struct timespec takes = { 0, 200000000 }; /* the real one takes longer */
	(void)flags;
	nanosleep(&takes, NULL);
	return 0;
}
EXPORT CUresult cuDeviceGetCount(int *n) { *n = 1; return 0; }
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
EXPORT CUresult cuCtxCreate_v2(void **context, unsigned flags, CUdevice device)
{
	static int made;
	(void)device;
	spin = spin || (flags & 1); /* CU_CTX_SCHED_SPIN */
	yield = yield || (flags & 2); /* CU_CTX_SCHED_YIELD */
	pthread_mutex_lock(&lock);
	*context = &contexts[made++ % 8]; /* nothing but a name: streams say what runs where */
	pthread_mutex_unlock(&lock);
	current = *context;
	return 0;
}
EXPORT CUresult cuCtxSetCurrent(void *context) { current = context; return 0; }
EXPORT CUresult cuCtxGetCurrent(void **context) { *context = current; return 0; }
EXPORT CUresult cuCtxPushCurrent_v2(void *context) { below = current, current = context; return 0; }
EXPORT CUresult cuCtxPopCurrent_v2(void **context) { *context = current, current = below; return 0; }
EXPORT CUresult cuStreamCreate(void **handle, unsigned flags)
{
	(void)flags;
	pthread_mutex_lock(&lock);
	*handle = (void *)(size_t)(count + 2 < 64 ? 2 + count++ : 63);
	pthread_mutex_unlock(&lock);
	return 0;
}

#define LAUNCH(name) \
	EXPORT CUresult name(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, \
			     unsigned bz, unsigned shared, void *stream, void **arguments, void **extra) \
	{ \
		(void)function, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)extra; \
		return work(stream, duration(arguments)); \
	}
LAUNCH(cuLaunchKernel)
LAUNCH(cuLaunchKernel_ptsz)

#define COOPERATIVE(name) \
	EXPORT CUresult name(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, \
			     unsigned bz, unsigned shared, void *stream, void **arguments) \
	{ \
		(void)function, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared; \
		return work(stream, duration(arguments)); \
	}
COOPERATIVE(cuLaunchCooperativeKernel)
COOPERATIVE(cuLaunchCooperativeKernel_ptsz)

typedef struct { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned number; } CUlaunchConfig;
#define LAUNCH_EX(name) \
	EXPORT CUresult name(const CUlaunchConfig *config, void *function, void **arguments, void **extra) \
	{ \
		(void)function, (void)extra; \
		return work(config->stream, duration(arguments)); \
	}
LAUNCH_EX(cuLaunchKernelEx)
LAUNCH_EX(cuLaunchKernelEx_ptsz)

/* A graph that can be launched is, here, how long it takes. */
EXPORT CUresult cuGraphLaunch(void *graph, void *stream) { return work(stream, (size_t)graph); }
EXPORT CUresult cuGraphLaunch_ptsz(void *graph, void *stream) { return work(stream, 1 * (size_t)graph); }

/* A host function takes, here, as long as its argument says. It has no probe. */
EXPORT CUresult cuLaunchHostFunc(void *stream, void *function, void *takes)
{
	(void)function;
	return work(stream, (size_t)takes);
}

#define COPY_ASYNC(name, to, from) \
	EXPORT CUresult name(to target, from source, size_t bytes, void *stream) \
	{ \
		(void)target, (void)source; \
		return work(stream, bytes / COPY_BYTES_PER_NS); \
	}
COPY_ASYNC(cuMemcpyAsync, CUdeviceptr, CUdeviceptr)
COPY_ASYNC(cuMemcpyAsync_ptsz, CUdeviceptr, CUdeviceptr)
COPY_ASYNC(cuMemcpyHtoDAsync_v2, CUdeviceptr, const void *)
COPY_ASYNC(cuMemcpyHtoDAsync_v2_ptsz, CUdeviceptr, const void *)
COPY_ASYNC(cuMemcpyDtoHAsync_v2, void *, CUdeviceptr)
COPY_ASYNC(cuMemcpyDtoHAsync_v2_ptsz, void *, CUdeviceptr)

#define SET_ASYNC(name) \
	EXPORT CUresult name(CUdeviceptr target, unsigned char value, size_t number, void *stream) \
	{ \
		(void)target, (void)value; \
		return work(stream, number / COPY_BYTES_PER_NS); \
	}
SET_ASYNC(cuMemsetD8Async)
SET_ASYNC(cuMemsetD8Async_ptsz)

#define COPY(name, to, from) \
	EXPORT CUresult name(to target, from source, size_t bytes) \
	{ \
		(void)target, (void)source; \
		work(NULL, bytes / COPY_BYTES_PER_NS); \
		return wait_for(streams[0].end); \
	}
COPY(cuMemcpy, CUdeviceptr, CUdeviceptr)
COPY(cuMemcpyHtoD_v2, CUdeviceptr, const void *)
COPY(cuMemcpyHtoD_v2_ptds, CUdeviceptr, const void *)
COPY(cuMemcpyDtoH_v2, void *, CUdeviceptr)
COPY(cuMemcpyDtoH_v2_ptds, void *, CUdeviceptr)

EXPORT CUresult cuStreamSynchronize(void *stream) { return wait_for(stream_of(stream)->end); }
EXPORT CUresult cuStreamSynchronize_ptsz(void *stream) { return wait_for(stream_of(stream)->end + 0); }
EXPORT CUresult cuCtxSynchronize(void) { return wait_for(all_done()); }

EXPORT CUresult cuEventCreate(void **event, unsigned flags)
{
	(void)flags;
	*event = calloc(1, sizeof(event_t));
	return *event ? 0 : 2;
}
EXPORT CUresult cuEventDestroy_v2(void *event) { free(event); return 0; }
EXPORT CUresult cuEventRecord(void *event, void *stream)
{
	ns_t now = clock_ns(), end = stream_of(stream)->end;
	((event_t *)event)->at = end > now ? end : now;
	return 0;
}
EXPORT CUresult cuEventSynchronize(void *event) { return wait_for(((event_t *)event)->at); }
EXPORT CUresult cuEventElapsedTime(float *ms, void *first, void *last)
{
	*ms = (((event_t *)last)->at - ((event_t *)first)->at) / 1e6f;
	return 0;
}
