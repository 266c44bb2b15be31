/* libnvidia-ml.so.1 without a GPU: NVML's entry points that pynvml uses, with NVML's own struct layouts.
 *
 * What the GPUs do is in a file, mapped shared: WHYIDLE_SIMULATED_NVML names it, nvml.py writes it, before
 * (a script) or while (live) it is read. A GPU's work is a ring of edges: from this instant on it computes,
 * copies, or neither. Samples of a period are integrals over the edges, as the driver's own are.
 *
 * whyidle_simulated_nvml is a symbol that no driver has: whoever reads these GPUs can tell.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nvml_state.h"

#define BUFFER 120 /* samples that the driver keeps */

typedef enum {
	OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25,
	UNKNOWN = 999
} ret;

enum { F_SAMPLES = 1, F_MEMORY = 2, F_PROCESSES = 4, F_POWER = 8, F_THROTTLE = 16, F_PROCESS_UTIL = 32,
       F_COPY_SAMPLES = 64 };

const char whyidle_simulated_nvml[] = "whyidle: simulated NVML";

static struct state *state;
static int users;

struct handle { uint32_t index; int32_t instance; };
static struct handle handles[MAX_GPUS][9]; /* [0] the GPU, [1..8] its MIG instances */
typedef struct handle *device;

static uint64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static ret ready(void)
{
	if (!state)
		return UNINITIALIZED;
	__atomic_fetch_add(&state->calls, 1, __ATOMIC_RELAXED);
	if (state->delay_us)
		usleep(state->delay_us);
	return state->driver_error;
}

static ret on(device d, uint32_t feature)
{
	ret r = ready();
	if (r)
		return r;
	if (!d || d->index >= state->gpus)
		return INVALID_ARGUMENT;
	if (state->gpu[d->index].error)
		return state->gpu[d->index].error;
	return state->gpu[d->index].unsupported & feature ? NOT_SUPPORTED : OK;
}

ret nvmlInitWithFlags(unsigned int flags)
{
	(void)flags;
	const char *path = getenv("WHYIDLE_SIMULATED_NVML");
	if (!path)
		return DRIVER_NOT_LOADED;
	if (!state) {
		int fd = open(path, O_RDWR | O_CLOEXEC);
		struct stat about;
		if (fd < 0 || fstat(fd, &about) || about.st_size < (off_t)sizeof(struct state)) {
			if (fd >= 0)
				close(fd);
			return DRIVER_NOT_LOADED;
		}
		state = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (state == MAP_FAILED)
			state = NULL;
		if (!state || state->magic != MAGIC || state->gpus > MAX_GPUS) {
			if (state)
				munmap(state, sizeof(struct state));
			state = NULL;
			return UNKNOWN;
		}
		for (uint32_t i = 0; i < MAX_GPUS; i++)
			for (int j = 0; j < 9; j++)
				handles[i][j] = (struct handle){ i, j - 1 };
	}
	if (state->driver_error) {
		ret r = state->driver_error;
		if (!users) {
			munmap(state, sizeof(struct state));
			state = NULL;
		}
		return r;
	}
	users++;
	return OK;
}
ret nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

ret nvmlShutdown(void)
{
	if (!state)
		return UNINITIALIZED;
	if (users > 0 && --users == 0) {
		munmap(state, sizeof(struct state));
		state = NULL;
	}
	return OK;
}

const char *nvmlErrorString(ret r)
{
	switch (r) {
	case OK: return "Success";
	case NOT_SUPPORTED: return "Not Supported";
	case DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case GPU_IS_LOST: return "GPU is lost";
	default: return "Unknown Error";
	}
}

static ret put(char *to, unsigned int room, const char *text)
{
	if (strlen(text) >= room)
		return INSUFFICIENT_SIZE;
	strcpy(to, text);
	return OK;
}

ret nvmlSystemGetDriverVersion(char *to, unsigned int room)
{
	ret r = ready();
	return r ? r : put(to, room, "0.0-simulated");
}

ret nvmlDeviceGetCount_v2(unsigned int *count)
{
	ret r = ready();
	if (!r)
		*count = state->gpus;
	return r;
}

ret nvmlDeviceGetHandleByIndex_v2(unsigned int index, device *d)
{
	ret r = ready();
	if (r)
		return r;
	if (index >= state->gpus)
		return INVALID_ARGUMENT;
	if (state->gpu[index].error)
		return state->gpu[index].error;
	*d = &handles[index][0];
	return OK;
}

ret nvmlDeviceGetName(device d, char *to, unsigned int room)
{
	ret r = on(d, 0);
	return r ? r : put(to, room, d->instance < 0 ? "Simulated GPU" : "Simulated GPU MIG 1g");
}

ret nvmlDeviceGetUUID(device d, char *to, unsigned int room)
{
	char text[80];
	ret r = on(d, 0);
	snprintf(text, sizeof text, "GPU-51309e00-0000-0000-0000-%08x%04x", d ? d->index : 0,
		 d ? d->instance + 1 : 0);
	return r ? r : put(to, room, text);
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned int version; unsigned long long total, reserved, free, used; };

ret nvmlDeviceGetMemoryInfo(device d, struct memory *m)
{
	ret r = on(d, F_MEMORY);
	if (r)
		return r;
	struct gpu *g = &state->gpu[d->index];
	*m = (struct memory){ g->memory_total, g->memory_total - g->memory_used, g->memory_used };
	return OK;
}

ret nvmlDeviceGetMemoryInfo_v2(device d, struct memory_v2 *m)
{
	ret r = on(d, F_MEMORY);
	if (r)
		return r;
	if (m->version != (sizeof(*m) | 2u << 24))
		return ARGUMENT_VERSION_MISMATCH;
	struct gpu *g = &state->gpu[d->index];
	m->total = g->memory_total, m->used = g->memory_used;
	m->free = m->total - m->used, m->reserved = 0;
	return OK;
}

/* Microseconds of work in [start, end). */
static void work(struct gpu *g, uint64_t start, uint64_t end, uint64_t *busy, uint64_t *copy)
{
	uint64_t count = __atomic_load_n(&g->edges, __ATOMIC_ACQUIRE);
	uint64_t first = count > MAX_EDGES ? count - MAX_EDGES : 0;
	*busy = *copy = 0;
	for (uint64_t i = count; i-- > first;) {
		struct edge *e = &g->edge[i % MAX_EDGES];
		if (e->us >= end)
			continue;
		uint64_t next = i + 1 < count ? g->edge[(i + 1) % MAX_EDGES].us : UINT64_MAX;
		uint64_t from = e->us > start ? e->us : start, to = next < end ? next : end;
		if (to > from && e->busy)
			*busy += to - from;
		if (to > from && e->copy)
			*copy += to - from;
		if (e->us <= start)
			break;
	}
}

struct sample { unsigned long long us; unsigned long long value; };

ret nvmlDeviceGetSamples(device d, unsigned int type, unsigned long long last, unsigned int *value_type,
			 unsigned int *count, struct sample *samples)
{
	ret r = on(d, type == 2 ? F_COPY_SAMPLES : F_SAMPLES);
	if (r)
		return r;
	struct gpu *g = &state->gpu[d->index];
	if (d->instance >= 0 || g->mig || (type != 1 && type != 2))
		return NOT_SUPPORTED;
	*value_type = 1; /* unsigned int */
	uint64_t end = now_us() / g->period_us * g->period_us;
	uint64_t start = end - BUFFER * g->period_us;
	if (start < state->since_us)
		start = state->since_us / g->period_us * g->period_us;
	if (start < last)
		start = last / g->period_us * g->period_us;
	unsigned int n = end > start ? (end - start) / g->period_us : 0;
	if (!n)
		return NOT_FOUND;
	if (!samples) {
		*count = n > BUFFER ? BUFFER : n;
		return OK;
	}
	if (*count < n)
		start = end - (uint64_t)*count * g->period_us, n = *count;
	for (unsigned int i = 0; i < n; i++) {
		uint64_t busy, copy, at = start + i * g->period_us;
		work(g, at, at + g->period_us, &busy, &copy);
		uint64_t part = type == 2 ? copy : busy;
		samples[i].us = at + g->period_us;
		samples[i].value = (part * 100 + g->period_us / 2) / g->period_us;
	}
	*count = n;
	return OK;
}

struct process_info { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, instance; };

ret nvmlDeviceGetComputeRunningProcesses_v3(device d, unsigned int *count, struct process_info *infos)
{
	ret r = on(d, F_PROCESSES);
	if (r)
		return r;
	struct gpu *g = &state->gpu[d->index];
	unsigned int n = 0, room = *count;
	for (uint32_t i = 0; i < g->processes && i < MAX_PROCESSES; i++) {
		struct process *p = &g->process[i];
		if (d->instance >= 0 && p->instance != (uint32_t)d->instance)
			continue;
		if (infos && n < room)
			infos[n] = (struct process_info){ p->pid, p->memory, p->instance, 0 };
		n++;
	}
	*count = n;
	return n > room ? INSUFFICIENT_SIZE : OK;
}
ret nvmlDeviceGetGraphicsRunningProcesses_v3(device d, unsigned int *count, struct process_info *infos)
{
	(void)infos;
	ret r = on(d, F_PROCESSES);
	if (!r)
		*count = 0;
	return r;
}

struct process_sample { unsigned int pid; unsigned long long us; unsigned int sm, mem, enc, dec; };

ret nvmlDeviceGetProcessUtilization(device d, struct process_sample *samples, unsigned int *count,
				    unsigned long long last)
{
	ret r = on(d, F_PROCESS_UTIL);
	if (r)
		return r;
	struct gpu *g = &state->gpu[d->index];
	if (g->mig)
		return NOT_SUPPORTED;
	unsigned int n = 0;
	for (uint32_t i = 0; i < g->processes && i < MAX_PROCESSES; i++) {
		struct process *p = &g->process[i];
		uint64_t us = p->util_us ? p->util_us : now_us();
		if (p->util == UINT32_MAX || us <= last) /* the driver leaves some out */
			continue;
		if (samples && n < *count)
			samples[n] = (struct process_sample){ p->pid, us, p->util, 0, 0, 0 };
		n++;
	}
	if (!n)
		return NOT_FOUND;
	r = !samples || n > *count ? INSUFFICIENT_SIZE : OK;
	*count = n;
	return r;
}

ret nvmlDeviceGetCurrentClocksEventReasons(device d, unsigned long long *reasons)
{
	ret r = on(d, F_THROTTLE);
	if (!r)
		*reasons = state->gpu[d->index].throttle;
	return r;
}

ret nvmlDeviceGetPowerUsage(device d, unsigned int *mw)
{
	ret r = on(d, F_POWER);
	if (!r)
		*mw = state->gpu[d->index].power_mw;
	return r;
}

ret nvmlDeviceGetMigMode(device d, unsigned int *current, unsigned int *pending)
{
	ret r = on(d, 0);
	if (!r)
		*current = *pending = state->gpu[d->index].mig > 0;
	return r;
}

ret nvmlDeviceGetMaxMigDeviceCount(device d, unsigned int *count)
{
	ret r = on(d, 0);
	if (!r)
		*count = state->gpu[d->index].mig ? 8 : 0;
	return r;
}

ret nvmlDeviceGetMigDeviceHandleByIndex(device d, unsigned int index, device *mig)
{
	ret r = on(d, 0);
	if (r)
		return r;
	if (index >= state->gpu[d->index].mig || index >= 8)
		return NOT_FOUND;
	*mig = &handles[d->index][index + 1];
	return OK;
}

ret nvmlDeviceGetGpuInstanceId(device d, unsigned int *id)
{
	ret r = on(d, 0);
	if (r)
		return r;
	if (d->instance < 0)
		return NOT_SUPPORTED;
	*id = d->instance;
	return OK;
}

struct gpm_support { unsigned int version, supported; };
struct gpm_sample { uint64_t us; uint32_t index; };
struct gpm_metric { unsigned int id; ret result; double value; const char *names[3]; };
struct gpm_metrics {
	unsigned int version, count;
	struct gpm_sample *sample1, *sample2;
	struct gpm_metric metric[];
};

ret nvmlGpmQueryDeviceSupport(device d, struct gpm_support *support)
{
	ret r = on(d, 0);
	if (r)
		return r;
	if (support->version != 1)
		return ARGUMENT_VERSION_MISMATCH;
	support->supported = state->gpu[d->index].gpm;
	return OK;
}

ret nvmlGpmSampleAlloc(struct gpm_sample **sample)
{
	*sample = calloc(1, sizeof **sample);
	return *sample ? OK : UNKNOWN;
}

ret nvmlGpmSampleFree(struct gpm_sample *sample)
{
	free(sample);
	return OK;
}

ret nvmlGpmSampleGet(device d, struct gpm_sample *sample)
{
	ret r = on(d, 0);
	if (r)
		return r;
	if (!state->gpu[d->index].gpm)
		return NOT_SUPPORTED;
	*sample = (struct gpm_sample){ now_us(), d->index };
	return OK;
}

ret nvmlGpmMigSampleGet(device d, unsigned int instance, struct gpm_sample *sample)
{
	(void)instance;
	return nvmlGpmSampleGet(d, sample);
}

ret nvmlGpmMetricsGet(struct gpm_metrics *get)
{
	ret r = ready();
	if (r)
		return r;
	if (get->version != 1 || !get->sample1 || !get->sample2 || get->sample2->us <= get->sample1->us)
		return INVALID_ARGUMENT;
	uint64_t busy, copy, start = get->sample1->us, end = get->sample2->us;
	work(&state->gpu[get->sample1->index], start, end, &busy, &copy);
	for (unsigned int i = 0; i < get->count; i++) {
		struct gpm_metric *m = &get->metric[i];
		m->result = OK;
		if (m->id == 1 || m->id == 2) /* graphics, SM: percent */
			m->value = 100.0 * busy / (end - start);
		else if (m->id == 20 || m->id == 21) /* PCIe: MiB/s */
			m->value = 20000.0 * copy / (end - start);
		else
			m->result = NOT_SUPPORTED;
	}
	return OK;
}

/* For whoever writes the file in another language. */
size_t whyidle_simulated_size(void) { return sizeof(struct state); }
