// SPDX-License-Identifier: GPL-2.0
/*
 * The only program of a guest by which back-ends are compared: does some kinds
 * of work on /dev/vda, and prints what requests cost. Runs as init, so that
 * nothing else takes part, and static, so that it needs no file beside it.
 *
 * Kernel parameters:
 * works=NAME,...	what to do, OP-SIZE-qdN[-flush], as in read-4k-qd1: OP is read
 *			or write at random places, mixed (7 reads to 3 writes), or
 *			readseq or writeseq in order; with flush, each write is made
 *			durable before the next
 * requests=N		how many of each, at most
 * mib=N		how much each moves, at most
 * span=MIB		the part of the disk that is used, which is filled first
 * seconds=N		the unit is nanoseconds, and a work takes no longer; without, the unit is
 *			ticks of the TSC
 * forever=1		the first work without end
 *
 * Says when it is idle, for a moment, and of each work when it begins and what it was.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "init.h"

#define MOST_REQUESTS 1000000
#define MOST_DEPTH 64
#define MOST_BYTES (1 << 20)
#define CHUNK MOST_BYTES
#define WARM_UP 50
#define IDLE_MS 500
/* Of a histogram: each power of two is cut into so many. */
#define STEPS 16

enum op { READ, WRITE, MIXED };

struct work {
	const char *name;
	enum op op;
	int is_sequential;
	size_t bytes;
	unsigned int depth;
	int is_flushed;
};

static char buffers[MOST_DEPTH][MOST_BYTES] __attribute__((aligned(4096)));
static uint64_t times[MOST_REQUESTS];
static uint64_t span;
static double ns_per_tick;
static uint64_t most_ticks = UINT64_MAX;
static int disk;

static void pause_ms(long ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* The clock may have no more than the ticks of a timer: from one to another. */
static double measured_ns_per_tick(void)
{
	uint64_t ns = clock_ns(), next, begin;

	while ((next = clock_ns()) == ns)
		;
	begin = __rdtsc();
	ns = next;
	while ((next = clock_ns()) < ns + 300000000)
		;
	return (double)(next - ns) / (double)(__rdtsc() - begin);
}

static uint64_t value(uint64_t ticks)
{
	return ns_per_tick ? (uint64_t)(ticks * ns_per_tick) : ticks;
}

static int parse(const char *name, struct work *work)
{
	static const struct {
		const char *name;
		enum op op;
		int is_sequential;
	} ops[] = {
		{ "read-", READ, 0 },	     { "write-", WRITE, 0 },	 { "mixed-", MIXED, 0 },
		{ "readseq-", READ, 1 }, { "writeseq-", WRITE, 1 },
	};
	unsigned int size;
	char unit, flush[8] = "";

	memset(work, 0, sizeof(*work));
	work->name = name;
	for (size_t i = 0; i < sizeof(ops) / sizeof(*ops); i++) {
		size_t len = strlen(ops[i].name);

		if (strncmp(name, ops[i].name, len))
			continue;
		work->op = ops[i].op;
		work->is_sequential = ops[i].is_sequential;
		if (sscanf(name + len, "%u%c-qd%u-%7s", &size, &unit, &work->depth, flush) < 3)
			return 0;
		work->bytes = (size_t)size << (unit == 'm' ? 20 : 10);
		work->is_flushed = !strcmp(flush, "flush");
		return work->bytes && work->bytes <= MOST_BYTES && work->depth &&
		       work->depth <= (work->is_flushed ? 1 : MOST_DEPTH);
	}
	return 0;
}

static uint64_t next_offset(const struct work *work)
{
	static uint64_t random = 1, place;
	uint64_t places = span / work->bytes;

	if (work->is_sequential)
		return place++ % places * work->bytes;
	random = random * 6364136223846793005ull + 1442695040888963407ull;
	return (random >> 33) % places * work->bytes;
}

static int is_write(const struct work *work, uint64_t number)
{
	return work->op == WRITE || (work->op == MIXED && number % 10 >= 7);
}

static void one(const struct work *work, uint64_t number)
{
	uint64_t offset = next_offset(work);
	ssize_t len;

	if (is_write(work, number)) {
		len = pwrite(disk, buffers[0], work->bytes, offset);
		if (work->is_flushed && fdatasync(disk))
			finish("fdatasync");
	} else {
		len = pread(disk, buffers[0], work->bytes, offset);
	}
	if (len != (ssize_t)work->bytes)
		finish("request");
}

/* Requests that were made, and the ticks that all of them took. */
struct result {
	uint64_t count;
	uint64_t ticks;
};

/* One after the other, as a program does that waits for each. */
static struct result by_calls(const struct work *work, uint64_t count, int forever)
{
	uint64_t begin = __rdtsc(), start = begin, i;

	for (i = 0; i < count && start - begin < most_ticks; i += !forever) {
		start = __rdtsc();
		one(work, i);
		times[i] = __rdtsc() - start;
	}
	return (struct result){ .count = i, .ticks = __rdtsc() - begin };
}

/* Always as many in flight. */
static struct result by_aio(const struct work *work, uint64_t count, int forever)
{
	static uint64_t starts[MOST_DEPTH];
	static struct iocb iocbs[MOST_DEPTH];
	struct io_event events[MOST_DEPTH];
	aio_context_t context = 0;
	uint64_t begun = 0, ended = 0, begin;

	if (syscall(SYS_io_setup, MOST_DEPTH, &context))
		finish("io_setup");
	for (unsigned int i = 0; i < work->depth; i++)
		events[i].data = i;
	begin = __rdtsc();
	for (long ready = work->depth; ended < count; ended += ready) {
		struct iocb *batch[MOST_DEPTH];
		long filled = 0;

		/* Those in flight are the last. */
		if (__rdtsc() - begin > most_ticks)
			count = begun;
		for (long i = 0; i < ready && (begun < count || forever); i++, begun++, filled++) {
			uint64_t slot = events[i].data;

			batch[filled] = &iocbs[slot];
			*batch[filled] = (struct iocb){
				.aio_data = slot,
				.aio_lio_opcode = is_write(work, begun) ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
				.aio_fildes = disk,
				.aio_buf = (uintptr_t)buffers[slot],
				.aio_nbytes = work->bytes,
				.aio_offset = next_offset(work),
			};
			starts[slot] = __rdtsc();
		}
		if (filled && syscall(SYS_io_submit, context, filled, batch) != filled)
			finish("io_submit");
		ready = syscall(SYS_io_getevents, context, 1l, (long)MOST_DEPTH, events, NULL);
		if (ready < 1)
			finish("io_getevents");
		for (long i = 0; i < ready; i++) {
			if (events[i].res != (long long)work->bytes)
				finish("request");
			times[(ended + i) % MOST_REQUESTS] = __rdtsc() - starts[events[i].data];
		}
		if (forever)
			ended -= ready;
	}
	begin = __rdtsc() - begin;
	/* Waits for much longer than a request takes. */
	syscall(SYS_io_destroy, context);
	return (struct result){ .count = ended, .ticks = begin };
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The smallest bound of a histogram that is not below a value. */
static uint64_t bound(uint64_t value)
{
	uint64_t power = 1;

	while (power * 2 <= value)
		power *= 2;
	for (int i = 0; i <= STEPS; i++) {
		uint64_t at = power + power * i / STEPS;

		if (at >= value)
			return at;
	}
	return power * 2;
}

static void tell(const struct work *work, struct result result)
{
	static const unsigned int parts[] = { 500, 900, 990, 999 };
	uint64_t last = 0, in_step = 0, count = result.count;

	qsort(times, count, sizeof(*times), by_value);
	printf("vblk-end %s %llu %llu", work->name, (unsigned long long)count,
	       (unsigned long long)value(result.ticks));
	for (int i = 0; i < 4; i++)
		printf(" %llu", (unsigned long long)value(times[(count - 1) * parts[i] / 1000]));
	for (uint64_t i = 0; i < count; i++) {
		uint64_t step = bound(value(times[i]));

		if (step != last && in_step) {
			printf(" %llu:%llu", (unsigned long long)last, (unsigned long long)in_step);
			in_step = 0;
		}
		last = step;
		in_step++;
	}
	printf(" %llu:%llu\n", (unsigned long long)last, (unsigned long long)in_step);
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
}

static void measure(const struct work *work, uint64_t requests, uint64_t bytes, int forever)
{
	struct result (*perform)(const struct work *, uint64_t, int) = work->depth == 1 ? by_calls : by_aio;
	uint64_t most = bytes / work->bytes;
	uint64_t count = requests < most ? requests : most;

	perform(work, WARM_UP, 0);
	printf("vblk-begin %s\n", work->name);
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	tell(work, perform(work, count, forever));
}

static uint64_t parameter(const char *name, uint64_t usual)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : usual;
}

int main(void)
{
	/* The kernel makes variables of the parameters that it does not know. */
	char *works = getenv("works");
	uint64_t count = parameter("requests", 1000), bytes = parameter("mib", 64) << 20;
	uint64_t seconds = parameter("seconds", 0);

	init();
	disk = open("/dev/vda", O_RDWR | O_DIRECT);
	if (disk < 0)
		finish("/dev/vda");
	span = parameter("span", 32) << 20;
	if (!works || count < 1 || count > MOST_REQUESTS || bytes < MOST_BYTES || span < CHUNK)
		finish("parameters");
	for (uint64_t at = 0; at < span; at += CHUNK) {
		if (pwrite(disk, buffers[0], CHUNK, at) != CHUNK)
			finish("fill");
	}
	if (seconds) {
		ns_per_tick = measured_ns_per_tick();
		most_ticks = (uint64_t)(seconds * 1e9 / ns_per_tick);
	}
	puts("vblk-idle");
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	pause_ms(IDLE_MS);
	for (char *name = strtok(works, ","); name; name = strtok(NULL, ",")) {
		struct work work;

		if (!parse(name, &work)) {
			printf("%s: no such work\n", name);
			continue;
		}
		measure(&work, count, bytes, getenv("forever") != NULL);
	}
	puts("vblk-done");
	finish(NULL);
}
