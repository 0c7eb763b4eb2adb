// SPDX-License-Identifier: GPL-2.0
/*
 * The only program of a guest that is measured: times single 4 KiB requests on
 * /dev/vda with the TSC, prints the median, and powers off. Runs as init, so
 * that nothing else takes part, and static, so that it needs no file beside it.
 *
 * The kernel parameter latency= says what to measure: read, write, or
 * read-unwritten for a disk that nobody has written to.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

#include "init.h"

#define BLOCK 4096
#define BLOCKS 2048 /* The part of the disk that is used: 8 MiB. */
#define WARM_UP 50
#define COUNT 1000
#define CHUNK (64 * BLOCK)

static char buffer[CHUNK] __attribute__((aligned(BLOCK)));

static int by_value(const void *a, const void *b)
{
	unsigned long long x = *(const unsigned long long *)a;
	unsigned long long y = *(const unsigned long long *)b;

	return (x > y) - (x < y);
}

static void measure(const char *name, int fd, int write, int forever)
{
	static unsigned long long times[COUNT];
	unsigned int random = 1;

	for (int i = -WARM_UP; i < COUNT; i += !forever || i < 0) {
		unsigned long long start;
		off_t offset;
		ssize_t len;

		random = random * 1664525 + 1013904223;
		offset = (off_t)(random >> 16) % BLOCKS * BLOCK;
		start = __rdtsc();
		if (write)
			len = pwrite(fd, buffer, BLOCK, offset);
		else
			len = pread(fd, buffer, BLOCK, offset);
		if (i >= 0)
			times[i] = __rdtsc() - start;
		if (len != BLOCK)
			finish("request");
	}
	qsort(times, COUNT, sizeof(*times), by_value);
	printf("vblk-latency %s %llu instructions\n", name ? name : "read", times[COUNT / 2]);
}

static void fill(int fd)
{
	for (off_t at = 0; at < (off_t)BLOCKS * BLOCK; at += CHUNK) {
		if (pwrite(fd, buffer, CHUNK, at) != CHUNK)
			finish("fill");
	}
}

int main(void)
{
	/* The kernel makes variables of the parameters that it does not know. */
	const char *what = getenv("latency");
	int fd;

	init();
	fd = open("/dev/vda", O_RDWR | O_DIRECT);
	if (fd < 0)
		finish("/dev/vda");
	if (!what || strcmp(what, "read-unwritten") != 0)
		fill(fd);
	if (getenv("forever"))
		puts("vblk-forever");
	measure(what, fd, what && strcmp(what, "write") == 0, getenv("forever") != NULL);
	finish(NULL);
}
