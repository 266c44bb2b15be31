/* SPDX-License-Identifier: Apache-2.0 */
/* Many sleepers: PROCESSES processes of THREADS threads, each sleeping MS milliseconds at a time, for SECONDS
 * after a line, or the end of the input, comes in. The first process prints "up", waits for all, and prints how
 * often they slept. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long ms, seconds;
static int gate[2];

static void *sleeper(void *slept)
{
	struct timespec now, end, nap = { ms / 1000, ms % 1000 * 1000000 };
	char go;

	if (read(gate[0], &go, 1) < 0)
		exit(1);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	do {
		nanosleep(&nap, NULL);
		++*(long *)slept;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
	return NULL;
}

static void threads(long count, long *slept)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 32768);
	for (long i = 1; i < count; i++)
		if (pthread_create(&thread, &small, sleeper, slept + i))
			exit(1);
	sleeper(slept);
	exit(0);
}

int main(int argc, char **argv)
{
	long processes, count, total = 0, *slept;
	char line[2];

	if (argc < 5)
		return 2;
	processes = atol(argv[1]);
	count = atol(argv[2]);
	ms = atol(argv[3]);
	seconds = atol(argv[4]);
	slept = mmap(NULL, processes * count * sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (slept == MAP_FAILED || pipe(gate))
		return 1;
	for (long i = 0; i < processes; i++)
		if (fork() == 0) {
			close(gate[1]);
			threads(count, slept + i * count);
		}
	puts("up");
	fflush(stdout);
	while (read(0, line, 1) > 0 && *line != '\n')
		;
	close(gate[1]);
	while (wait(NULL) > 0)
		;
	for (long i = 0; i < processes * count; i++)
		total += slept[i];
	printf("%ld\n", total);
	return 0;
}
