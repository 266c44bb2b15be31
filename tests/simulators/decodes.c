/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decodes LIBLLAMA ROUNDS CALLS PAUSE_MS: ROUNDS times CALLS calls of llama_decode, then a sleep. Prints a line
 * "START END" for each sleep (seconds of CLOCK_MONOTONIC), then the seconds that the calls took in all, and those of
 * CPU time among them.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct llama_batch { int32_t n_tokens; void *token, *embd, *pos, *n_seq_id, *seq_id, *logits; };

static double now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	void *library = dlopen(argv[1], RTLD_NOW);
	if (!library)
		return 1;
	int32_t (*decode)(void *, struct llama_batch) =
		(int32_t (*)(void *, struct llama_batch))dlsym(library, "llama_decode");
	if (!decode)
		return 1;
	int32_t position = 0;
	struct llama_batch batch = { .n_tokens = 1, .pos = &position };
	struct timespec settle = { 0, 200000000 }, pause = { 0, atol(argv[4]) * 1000000 };
	nanosleep(&settle, NULL); /* as long as a model takes to load: time to be noticed */
	double took = 0, cpu = 0;
	for (long round = atol(argv[2]); round; round--) {
		double start = now(CLOCK_MONOTONIC), ran = now(CLOCK_THREAD_CPUTIME_ID);
		for (long call = atol(argv[3]); call; call--, position++)
			decode((void *)4096, batch);
		double end = now(CLOCK_MONOTONIC);
		took += end - start;
		cpu += now(CLOCK_THREAD_CPUTIME_ID) - ran;
		nanosleep(&pause, NULL);
		printf("%.6f %.6f\n", end, now(CLOCK_MONOTONIC));
	}
	decode((void *)4096, batch);
	printf("%.6f %.6f\n", took, cpu);
	return 0;
}
