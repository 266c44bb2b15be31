/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps what a llama.cpp model really does onto a simulated NVIDIA GPU (nvml.c): the GPU computes while the
 * process is inside llama_decode or llama_encode, and holds the model's bytes from when the model was loaded.
 *
 * Stands in front of libllama under its name and has it as its dependency, so that llama-cpp-python finds these
 * functions here and all others there (LLAMA_CPP_LIB_PATH; llama_gpu.py). Knows nothing of whyidle.
 * WHYIDLE_SIMULATED_NVML names the file, WHYIDLE_SIMULATED_GPU the GPU in it; one process at a time writes it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <llama.h>

#include "nvml_state.h"

#define EXPORT __attribute__((visibility("default")))


static struct gpu *gpu;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int inside; /* threads that compute: a process may have several contexts */

static void edge(int busy)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	uint64_t us = (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
	gpu->edge[gpu->edges % MAX_EDGES] = (struct edge){ us, busy, 0 };
	__atomic_store_n(&gpu->edges, gpu->edges + 1, __ATOMIC_RELEASE);
}

static void computing(int change)
{
	if (!gpu)
		return;
	pthread_mutex_lock(&lock);
	int before = inside;
	inside += change;
	if (!before != !inside)
		edge(inside > 0);
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("WHYIDLE_SIMULATED_NVML"), *which = getenv("WHYIDLE_SIMULATED_GPU");
	unsigned number = which ? (unsigned)atoi(which) : 0;
	struct stat about;
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	if (!fstat(fd, &about) && about.st_size >= (off_t)sizeof(struct state)) {
		struct state *state =
			mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (state != MAP_FAILED && state->magic == MAGIC && number < state->gpus)
			gpu = &state->gpu[number];
	}
	close(fd);
}

static void hold(uint64_t bytes)
{
	gpu->process[0] = (struct process){ .pid = getpid(), .util = UINT32_MAX, .memory = bytes };
	gpu->memory_used = bytes < gpu->memory_total ? bytes : gpu->memory_total;
	gpu->processes = bytes > 0;
}

__attribute__((destructor)) static void end(void)
{
	if (gpu && gpu->processes && gpu->process[0].pid == (uint32_t)getpid())
		hold(0);
}

/* The function of that name behind this library. */
#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

EXPORT struct llama_context *llama_init_from_model(struct llama_model *model, struct llama_context_params params)
{
	struct llama_context *context = REAL(llama_init_from_model)(model, params);
	if (gpu && context)
		hold(llama_model_size(model));
	return context;
}

EXPORT int32_t llama_decode(struct llama_context *context, struct llama_batch batch)
{
	static __typeof__(&llama_decode) real;
	if (!real)
		real = REAL(llama_decode);
	computing(1);
	int32_t result = real(context, batch);
	computing(-1);
	return result;
}

EXPORT int32_t llama_encode(struct llama_context *context, struct llama_batch batch)
{
	static __typeof__(&llama_encode) real;
	if (!real)
		real = REAL(llama_encode);
	computing(1);
	int32_t result = real(context, batch);
	computing(-1);
	return result;
}
