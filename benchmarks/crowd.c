/* SPDX-License-Identifier: Apache-2.0 */
/* Many sleepers: PROCESSES processes of THREADS threads, each sleeping MS milliseconds at a time, for SECONDS
 * after a line comes in. Every process prints nothing; the first one waits for all. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long ms, seconds;

static void *sleeper(void *unused)
{
	struct timespec now, end, nap = { ms / 1000, ms % 1000 * 1000000 };

	(void)unused;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	do {
		nanosleep(&nap, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
	return NULL;
}

static void threads(long count)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 32768);
	for (long i = 1; i < count; i++)
		if (pthread_create(&thread, &small, sleeper, NULL))
			exit(1);
	sleeper(NULL);
	exit(0);
}

int main(int argc, char **argv)
{
	long processes = atol(argv[1]), count = atol(argv[2]);

	if (argc < 5)
		return 2;
	ms = atol(argv[3]);
	seconds = atol(argv[4]);
	for (long i = 0; i < processes; i++)
		if (fork() == 0)
			threads(count);
	puts("up");
	fflush(stdout);
	while (wait(NULL) > 0)
		;
	return 0;
}
