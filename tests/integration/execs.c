/* Replaces its image by itself N times, as fast as the kernel can: thousands of execs a second. With a second
 * argument, a thread other than the first does it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char left[24];
static char **arguments;

static void *replace(void *unused)
{
	execl(arguments[0], arguments[0], left, arguments[2], (char *)NULL);
	exit(1);
}

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 0;
	pthread_t thread;

	if (count <= 0)
		return 0;
	arguments = argv;
	snprintf(left, sizeof(left), "%ld", count - 1);
	if (!argv[2])
		replace(NULL);
	pthread_create(&thread, NULL, replace, NULL);
	pause();
	return 1;
}
