// SPDX-License-Identifier: GPL-2.0
/*
 * record write DIR FIRST: writes numbered records to DIR/records for ever, and
 * a file of its own for each eighth. Says "acked N" when the kernel says that
 * record N is durable.
 *
 * record verify DIR LAST: whether all up to LAST are there.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD 4096
#define NUMBERS (RECORD / sizeof(uint64_t))
/* The file begins again after this many. */
#define ROUND 4096
#define FILES 8

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

/* Number, and position in the record, so that no two parts look alike. */
static void fill(uint64_t *record, uint64_t number)
{
	for (unsigned int i = 0; i < NUMBERS; i++)
		record[i] = number << 16 | i;
}

static void name_of(char *name, size_t size, uint64_t number)
{
	snprintf(name, size, "record-%llu", (unsigned long long)number);
}

static void write_all(int dir, uint64_t first)
{
	uint64_t record[NUMBERS];
	int records = openat(dir, "records", O_RDWR | O_CREAT, 0600);

	must(records >= 0, "records");
	for (uint64_t number = first;; number++) {
		fill(record, number);
		must(pwrite(records, record, RECORD, number % ROUND * RECORD) == RECORD, "pwrite");
		must(fsync(records) == 0, "fsync");
		if (number % FILES == 0) {
			char name[32];
			int file;

			name_of(name, sizeof(name), number);
			file = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
			must(file >= 0, name);
			must(write(file, record, RECORD) == RECORD, "write");
			must(fsync(file) == 0 && close(file) == 0, "fsync");
			must(fsync(dir) == 0, "fsync of the directory");
		}
		printf("acked %llu\n", (unsigned long long)number);
		fflush(stdout);
	}
}

static void expect(int file, off_t at, uint64_t number, const char *where)
{
	uint64_t wanted[NUMBERS], found[NUMBERS];

	fill(wanted, number);
	must(file >= 0, where);
	if (pread(file, found, RECORD, at) != RECORD || memcmp(wanted, found, RECORD)) {
		printf("record %llu is not in %s\n", (unsigned long long)number, where);
		exit(1);
	}
}

static void verify(int dir, uint64_t last)
{
	int records = openat(dir, "records", O_RDONLY);
	uint64_t first = last < ROUND / 2 ? 0 : last - ROUND / 2;

	for (uint64_t number = first; number <= last; number++)
		expect(records, number % ROUND * RECORD, number, "records");
	for (uint64_t number = 0; number <= last; number += FILES) {
		char name[32];
		int file;

		name_of(name, sizeof(name), number);
		file = openat(dir, name, O_RDONLY);
		expect(file, 0, number, name);
		close(file);
	}
}

int main(int argc, char **argv)
{
	int dir;

	if (argc != 4)
		return 2;
	dir = open(argv[2], O_RDONLY | O_DIRECTORY);
	must(dir >= 0, argv[2]);
	if (!strcmp(argv[1], "write"))
		write_all(dir, strtoull(argv[3], NULL, 10));
	else
		verify(dir, strtoull(argv[3], NULL, 10));
	return 0;
}
