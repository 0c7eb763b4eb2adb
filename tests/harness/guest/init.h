/* SPDX-License-Identifier: GPL-2.0 */
/* The first and the last thing that a guest's only program does. */
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

static void finish(const char *problem)
{
	if (problem)
		perror(problem);
	fflush(NULL);
	/* What the kernel says next would get in between. */
	tcdrain(STDOUT_FILENO);
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void init(void)
{
	mkdir("/dev", 0755);
	if (mount("dev", "/dev", "devtmpfs", 0, NULL))
		finish("devtmpfs");
}
