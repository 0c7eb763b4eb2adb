/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_VHOST_BLK_RS_H
#define _UAPI_LINUX_VHOST_BLK_RS_H
/*
 * Userspace interface of /dev/vhost-blk-rs, a virtio-blk device in the kernel.
 *
 * An open file is one device. It is set up with the ioctls of <linux/vhost.h> as every vhost
 * device is (VHOST_SET_OWNER, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE, and for each queue
 * VHOST_SET_VRING_NUM, _ADDR, _BASE, _KICK, _CALL, _ERR), then VHOST_BLK_SET_BACKEND attaches the
 * disk and starts it. Commands other than VHOST_SET_OWNER, VHOST_GET_FEATURES,
 * VHOST_GET_BACKEND_FEATURES, VHOST_SET_FORK_FROM_OWNER, VHOST_GET_FORK_FROM_OWNER and those marked
 * below need the caller to be the owner and fail with EPERM otherwise. VHOST_SET_OWNER and
 * VHOST_NEW_WORKER fail with EAGAIN where RLIMIT_NPROC or pids.max forbid one more thread.
 */

#include <linux/types.h>
#include <linux/ioctl.h>
#include <linux/vhost.h>

/*
 * Attach the disk, or detach it. index must be 0: the disk serves all queues that were set up.
 *
 * fd is an open block device; how it was opened decides whether the disk is read-only. With
 * VHOST_FILE_UNBIND the disk is detached: the call waits for requests in flight, and after it
 * everything may be set up anew. The number is the one that deployed QEMU patches use.
 *
 * EBUSY: a disk is attached. EBADF: fd is not open for reading. ENOTBLK: fd is not a block device.
 * EOPNOTSUPP: a zoned device. EIO: the host's page cache of the disk can't be written back. EFAULT:
 * no memory table, or a ring does not lie in writable memory. EINVAL: no queue is set up. ENOBUFS:
 * index is not 0. ENOMEM: over RLIMIT_MEMLOCK.
 *
 * Detaching forgets the addresses of all rings: set them again before the next attachment.
 */
#define VHOST_BLK_SET_BACKEND _IOW(VHOST_VIRTIO, 0xFF, struct vhost_vring_file)

/* Counters since VHOST_SET_OWNER, each the sum over all queues. They wrap at 2^64. */
struct vhost_blk_stats {
	/* Times that a kick eventfd woke the worker. */
	__u64 kicks;
	/* Requests given back to the guest, good or bad. */
	__u64 requests;
	/* Bytes that successful reads moved from the disk to the guest. */
	__u64 bytes_read;
	/* Bytes that successful writes moved from the guest to the disk. */
	__u64 bytes_written;
	/* Flushes that succeeded. */
	__u64 flushes;
	/* Times that a call eventfd was signalled. */
	__u64 interrupts;
	/* Requests that the disk failed. */
	__u64 io_errors;
	/* Chains and entries of a ring that held no well-formed request. */
	__u64 malformed;
	/*
	 * Queues that are stopped until the disk is attached again, now rather than ever: the ring
	 * makes no sense, or the owner's memory behind a status byte can't be reached. The error
	 * eventfd is signalled when this grows, and the VMM sets DEVICE_NEEDS_RESET.
	 */
	__u64 stopped_queues;
	/* 0. */
	__u64 reserved[7];
};

/* Read the counters. */
#define VHOST_BLK_GET_STATS _IOR(VHOST_VIRTIO, 0xE0, struct vhost_blk_stats)

/* Bytes of a serial number; shorter ones are padded with zeroes, and none need end with one. */
#define VHOST_BLK_SERIAL_BYTES 20

/*
 * Set what the guest gets for VIRTIO_BLK_T_GET_ID, at any time. Until then it is empty: all zeroes.
 */
#define VHOST_BLK_SET_SERIAL _IOW(VHOST_VIRTIO, 0xE1, __u8[VHOST_BLK_SERIAL_BYTES])

/* What the loaded module is and how much it takes. */
struct vhost_blk_info {
	/* Version of this interface; grows with each addition. */
	__u32 version;
	/* Queues that a device has: valid indices are smaller. */
	__u32 max_queues;
	/* Most entries of a ring. */
	__u32 max_queue_size;
	/* Most regions of a memory table. */
	__u32 max_mem_regions;
	/* 1 if the module has vDPA devices, else 0. */
	__u32 has_vdpa;
	/* 0. */
	__u32 reserved[11];
};

/* Read the limits of the module. Needs no owner, as VHOST_GET_FEATURES. */
#define VHOST_BLK_GET_INFO _IOR(VHOST_VIRTIO, 0xE2, struct vhost_blk_info)

/*
 * Switch between writing back (1) and writing through (0), at any time: what the guest wrote to
 * wce of its configuration space. Setting the features undoes it: until the switch is used, writes
 * are durable before they are answered unless VIRTIO_BLK_F_FLUSH was accepted.
 *
 * EINVAL: any other value.
 */
#define VHOST_BLK_SET_WRITEBACK _IOW(VHOST_VIRTIO, 0xE3, __u32)

/* Room for struct virtio_blk_config and what it may grow by. */
#define VHOST_BLK_CONFIG_BYTES 96

/* What a device with a certain disk offers to a guest. */
struct vhost_blk_config {
	/* In: an open block device, attached or not. */
	__s32 fd;
	/* In: queues that the device shall have, and entries of each. */
	__u32 queues;
	__u32 queue_size;
	/* Out: bytes of config that are valid; the others are 0. */
	__u32 size;
	/* Out: the features that fit the disk, of those that concern it. */
	__u64 features;
	/* Must be 0. */
	__u64 reserved;
	/* Out: struct virtio_blk_config of <linux/virtio_blk.h>, little-endian. */
	__u8 config[VHOST_BLK_CONFIG_BYTES];
};

/*
 * Read the configuration space that fits a disk. Needs no owner.
 *
 * EBADF, ENOTBLK, EOPNOTSUPP: as for VHOST_BLK_SET_BACKEND. EINVAL: no such number of queues or
 * entries, or reserved is not 0.
 */
#define VHOST_BLK_GET_CONFIG _IOWR(VHOST_VIRTIO, 0xE4, struct vhost_blk_config)

/*
 * Set the eventfd that is signalled when what VHOST_BLK_GET_CONFIG tells of the attached disk has
 * changed since it was attached, or since the last signal: its capacity above all.
 * VHOST_FILE_UNBIND for none; at any time. A change is noticed within about a second.
 *
 * EBADF: fd is not open. EINVAL: fd is no eventfd.
 */
#define VHOST_BLK_SET_CONFIG_CALL _IOW(VHOST_VIRTIO, 0xE5, int)

/*
 * Select how guest memory is held. 0, the default: the pages of a request are pinned while it is in
 * flight. 1: VHOST_SET_MEM_TABLE pins all regions, for writing, charged to RLIMIT_MEMLOCK, until
 * they are replaced; requests then need neither the owner's page tables nor its address space.
 * A change forgets the memory table: set it afterwards.
 *
 * With 1, VHOST_SET_MEM_TABLE returns when no request uses the old regions any more, and has more
 * errors: EFAULT: a region can't be pinned for writing. ENOMEM: over RLIMIT_MEMLOCK.
 *
 * EBUSY: a disk is attached. EINVAL: any other value.
 */
#define VHOST_BLK_SET_MEMORY_PINNED _IOW(VHOST_VIRTIO, 0xE6, __u32)

/*
 * vDPA devices. Each is a virtio-blk device of its own on the host's vDPA bus, which the drivers of
 * that bus offer: vhost_vdpa to VMMs as /dev/vhost-vdpa-N, virtio_vdpa to the host as /dev/vdX. They
 * have nothing to do with the open file that made them. These commands need no owner.
 *
 * EOPNOTSUPP: the module or the kernel has no vDPA.
 */

/* Bytes of the name of a vDPA device, with at least one zero at the end. */
#define VHOST_BLK_VDPA_NAME_BYTES 64

/* Offer packed rings. */
#define VHOST_BLK_VDPA_PACKED 0x1
/* For the host itself, by virtio_vdpa; otherwise for a VMM, by vhost_vdpa. */
#define VHOST_BLK_VDPA_HOST 0x2

/* A vDPA device to make. */
struct vhost_blk_vdpa_add {
	/* An open block device; how it was opened decides whether the disk is read-only. */
	__s32 fd;
	/* VHOST_BLK_VDPA_PACKED, VHOST_BLK_VDPA_HOST. */
	__u32 flags;
	/* Queues (at most 128 for a VMM, 256 for the host), and most entries of each. */
	__u32 queues;
	__u32 queue_size;
	/* The answer to GET_ID. */
	__u8 serial[VHOST_BLK_SERIAL_BYTES];
	/* The name on the vDPA bus. */
	__u8 name[VHOST_BLK_VDPA_NAME_BYTES];
	/* As VHOST_SET_VRING_BUSYLOOP_TIMEOUT, for each of its queues. */
	__u32 poll_us;
	/* Must be 0. */
	__u32 reserved[6];
};

/*
 * Make a vDPA device. It holds the disk's open file, with its claim on the disk, until it is deleted,
 * and the module meanwhile. Its memory is pinned by the user of the vDPA device, and charged there.
 *
 * EPERM: CAP_SYS_ADMIN is missing. EBADF, ENOTBLK, EOPNOTSUPP: as for VHOST_BLK_SET_BACKEND. EEXIST:
 * the name is taken. EINVAL: a bad name (empty, with '/', not ended), number, flag, or reserved is
 * not 0.
 */
#define VHOST_BLK_VDPA_ADD _IOW(VHOST_VIRTIO, 0xE7, struct vhost_blk_vdpa_add)

/* The name of a vDPA device. */
struct vhost_blk_vdpa_name {
	__u8 name[VHOST_BLK_VDPA_NAME_BYTES];
};

/*
 * Delete a vDPA device that VHOST_BLK_VDPA_ADD made, as "vdpa dev del" does. While a VMM has the
 * device open the call waits for it to close it.
 *
 * EPERM: CAP_SYS_ADMIN is missing. ENODEV: there is none of this name.
 */
#define VHOST_BLK_VDPA_DEL _IOW(VHOST_VIRTIO, 0xE8, struct vhost_blk_vdpa_name)

/* A vDPA device that VHOST_BLK_VDPA_ADD made. */
struct vhost_blk_vdpa_info {
	/* In: which, counted from 0 in the order in which they were made. */
	__u32 index;
	/* Out: VHOST_BLK_VDPA_PACKED, VHOST_BLK_VDPA_HOST. */
	__u32 flags;
	/* Out: the disk. */
	__u32 major;
	__u32 minor;
	/* Out: queues, and most entries of each. */
	__u32 queues;
	__u32 queue_size;
	/* Out: the virtio device status; 0 when no driver uses it. */
	__u32 status;
	/* Out: 1 if the disk is read-only, else 0. */
	__u32 read_only;
	/* Out: the answer to GET_ID. */
	__u8 serial[VHOST_BLK_SERIAL_BYTES];
	/* Out: its name. */
	__u8 name[VHOST_BLK_VDPA_NAME_BYTES];
	/* Out: as for VHOST_BLK_VDPA_ADD. */
	__u32 poll_us;
	/* In: must be 0. Out: 0. */
	__u32 reserved[2];
};

/* Read about a vDPA device. ENOENT: there are not so many. EINVAL: reserved is not 0. */
#define VHOST_BLK_VDPA_GET _IOWR(VHOST_VIRTIO, 0xE9, struct vhost_blk_vdpa_info)

/* Counters of one queue of a vDPA device. */
struct vhost_blk_vdpa_stats {
	/* In: the name of the device. */
	__u8 name[VHOST_BLK_VDPA_NAME_BYTES];
	/* In: the number of the queue. */
	__u32 queue;
	/* Must be 0. */
	__u32 reserved;
	/* Out: the counters since the device was made. */
	struct vhost_blk_stats stats;
};

/*
 * Read the counters of a queue. ("vdpa dev vstats" is for network devices, as the kernel has it.)
 *
 * ENODEV: there is no device of this name. ENOBUFS: it has no such queue. EINVAL: a bad name, or
 * reserved is not 0.
 */
#define VHOST_BLK_VDPA_GET_STATS _IOWR(VHOST_VIRTIO, 0xEA, struct vhost_blk_vdpa_stats)

#endif
