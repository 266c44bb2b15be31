/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libllama.so whose llama_decode only takes time: WHYIDLE_SIM_DECODE_NS of its thread on a CPU. For rates of calls
 * that no real model reaches on every machine.
 */
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

struct llama_batch { int32_t n_tokens; void *token, *embd, *pos, *n_seq_id, *seq_id, *logits; };

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

int32_t llama_decode(void *context, struct llama_batch batch)
{
	static uint64_t takes;
	if (!takes) {
		const char *ns = getenv("WHYIDLE_SIM_DECODE_NS");
		takes = ns ? strtoull(ns, NULL, 10) : 1;
	}
	uint64_t end = now() + takes;
	(void)context, (void)batch;
	while (now() < end)
		;
	return 0;
}
