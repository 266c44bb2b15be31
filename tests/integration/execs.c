/* Replaces its image by itself N times, as fast as the kernel can: thousands of execs a second. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char left[16];
	long count = argc > 1 ? atol(argv[1]) : 0;

	if (count <= 0)
		return 0;
	snprintf(left, sizeof(left), "%ld", count - 1);
	execl(argv[0], argv[0], left, (char *)NULL);
	return 1;
}
