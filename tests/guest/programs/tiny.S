/* SPDX-License-Identifier: GPL-2.0
 *
 * A kernel that does one thing, chosen by the last letter of its command line. What a launcher
 * does about it shows within milliseconds.
 *
 * %rsi points to struct boot_params (Documentation/arch/x86/boot.rst); 4 GiB are mapped.
 */
	.set	CMD_LINE_PTR, 0x228
	.set	RESET_FLAG, 0x472
	.set	SERIAL, 0x3f8
	.set	PM1_CONTROL, 0x604
	.set	DISK, 0xd0000000
	.set	POWER_OFF, 5 << 10 | 1 << 13

	.text
	.globl	_start
_start:
	movl	CMD_LINE_PTR(%rsi), %esi
1:	movb	(%rsi), %al
	testb	%al, %al
	jz	2f
	movb	%al, %bl
	incq	%rsi
	jmp	1b
2:	cmpb	$'t', %bl		/* talk for ever */
	je	talk
	cmpb	$'o', %bl		/* say 20,000 letters and switch off */
	je	say
	cmpb	$'h', %bl		/* halt */
	je	halt
	cmpb	$'f', %bl		/* crash */
	je	crash
	cmpb	$'r', %bl		/* a cold restart by a triple fault */
	je	cold_crash
	cmpb	$'w', %bl		/* a warm one */
	je	warm_crash
	cmpb	$'p', %bl		/* a warm restart by the keyboard controller */
	je	warm_keyboard
	cmpb	$'c', %bl		/* a cold restart by port 0xcf9 */
	je	cold_cf9
	cmpb	$'a', %bl		/* a restart by port 0x92 */
	je	port92
	cmpb	$'s', %bl		/* sleep, and wake up for interrupts */
	je	sleep
	cmpb	$'n', %bl		/* break a disk's ring, and switch off when that is told */
	je	break_ring
off:	movw	$PM1_CONTROL, %dx
	movw	$POWER_OFF, %ax
	outw	%ax, %dx
	jmp	off

	/* Virtio 1.2, 4.2.2: offsets of registers, and values. */
	.macro	put offset, value
	movl	$\value, \offset(%rdi)
	.endm
break_ring:
	movl	$DISK, %edi
	put	0x70, 0			/* Status */
	put	0x70, 1
	put	0x70, 3
	put	0x24, 1			/* DriverFeaturesSel, DriverFeatures: VERSION_1 */
	put	0x20, 1
	put	0x70, 0xb
	put	0x30, 0			/* QueueSel, QueueNum */
	put	0x38, 16
	put	0x80, 0x300000		/* the three parts of the ring, below 4 GiB */
	put	0x90, 0x301000
	put	0xa0, 0x302000
	put	0x44, 1			/* QueueReady */
	put	0x70, 0xf
	movw	$17, 0x301002		/* more available than there are entries */
	put	0x50, 0			/* QueueNotify */
1:	pause
	testl	$0x40, 0x70(%rdi)	/* DEVICE_NEEDS_RESET */
	jz	1b
	testl	$2, 0x60(%rdi)		/* InterruptStatus: the configuration */
	jnz	off
	jmp	crash

talk:	movw	$SERIAL, %dx
	movb	$'x', %al
	outb	%al, %dx
	jmp	talk

say:	movl	$20000, %ecx
	movw	$SERIAL, %dx
	movb	$'x', %al
1:	outb	%al, %dx
	loop	1b
	jmp	off

halt:	cli
1:	hlt
	jmp	1b

sleep:	lidt	nothing
	sti
1:	hlt
	jmp	1b

warm_crash:
	movw	$0x1234, RESET_FLAG
	jmp	crash
cold_crash:
	movw	$0, RESET_FLAG
crash:	lidt	nothing
	int3

warm_keyboard:
	movw	$0x1234, RESET_FLAG
	movb	$0xfe, %al
	outb	%al, $0x64
	jmp	halt

cold_cf9:
	movw	$0, RESET_FLAG
	movw	$0xcf9, %dx
	movb	$0x02, %al
	outb	%al, %dx
	movb	$0x0e, %al
	outb	%al, %dx
	jmp	halt

port92:	movb	$0x03, %al
	outb	%al, $0x92
	jmp	halt

	.balign	8
nothing:
	.quad	0, 0
