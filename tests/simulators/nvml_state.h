/* The file that says what simulated NVIDIA GPUs do: nvml.c reads it, nvml.py and llama_gpu.c write it. */
#ifndef WHYIDLE_NVML_STATE_H
#define WHYIDLE_NVML_STATE_H
#include <stdint.h>

#define MAGIC 0x314d564e4d495357ULL /* "WSIMNVM1" */
#define MAX_GPUS 16
#define MAX_EDGES 32768
#define MAX_PROCESSES 32

struct edge { uint64_t us; uint32_t busy, copy; };
struct process { uint32_t pid, util; uint64_t memory; uint32_t instance, pad; uint64_t util_us; };
struct gpu {
	uint32_t error;       /* what every call on this GPU returns */
	uint32_t unsupported; /* F_ bits */
	uint32_t gpm, mig;    /* has GPM; number of MIG instances, 0: MIG is off */
	uint64_t period_us, memory_total, memory_used, throttle;
	uint32_t power_mw, processes;
	struct process process[MAX_PROCESSES];
	uint64_t edges; /* ever written; the ring has the last MAX_EDGES */
	struct edge edge[MAX_EDGES];
};
struct state {
	uint64_t magic;
	uint32_t driver_error, gpus; /* what every call returns, as when the module is unloaded */
	uint64_t since_us, calls, delay_us; /* of each call: a driver in trouble */
	struct gpu gpu[MAX_GPUS];
};

#endif
