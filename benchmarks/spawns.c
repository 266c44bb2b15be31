/* Starts processes one after another for so many seconds, each of which execs and ends; says how many. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

int main(int argc, char **argv, char **environment)
{
	if (argc < 2)
		return 0;
	char *alone[] = { argv[0], NULL };
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	double end = now.tv_sec + now.tv_nsec / 1e9 + atof(argv[1]);
	long count = 0;
	do {
		pid_t pid;
		if (posix_spawn(&pid, argv[0], NULL, NULL, alone, environment) || waitpid(pid, NULL, 0) != pid)
			return 1;
		count++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec + now.tv_nsec / 1e9 < end);
	printf("%ld\n", count);
	return 0;
}
