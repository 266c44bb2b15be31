/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * launches LIBCUDA WORK COUNT: launches COUNT kernels with WORK turns of a loop before each, a synchronisation
 * every hundred, and prints the seconds it took. WORK 0: finds and prints the work for 20 000 launches a second.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PER_SECOND 20000

typedef int (*launch_t)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
			void **);

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void work(long turns)
{
	for (volatile long i = 0; i < turns; i++)
		;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	void *cuda = dlopen(argv[1], RTLD_NOW);
	if (!cuda)
		return 1;
	launch_t launch = (launch_t)dlsym(cuda, "cuLaunchKernel");
	int (*sync)(void *) = (int (*)(void *))dlsym(cuda, "cuStreamSynchronize");
	int (*init)(unsigned) = (int (*)(unsigned))dlsym(cuda, "cuInit");
	if (!launch || !sync || !init)
		return 1;
	long turns = atol(argv[2]), count = atol(argv[3]);
	unsigned long long takes = 1000;
	void *arguments[] = { &takes };
	init(0);
	if (!turns) {
		double start = now();
		work(100000000);
		printf("%ld\n", (long)(100000000 / (now() - start) / PER_SECOND));
		return 0;
	}
	double start = now();
	for (long i = 1; i <= count; i++) {
		work(turns);
		launch(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
		if (i % 100 == 0)
			sync(NULL);
	}
	printf("%.6f\n", now() - start);
	return 0;
}
