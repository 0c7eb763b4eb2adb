/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Macros and inline functions of the kernel that Rust can't call, as functions, and constants that
 * bindgen can't read. Nothing here decides anything.
 */
#ifndef VBLK_HELPERS_H
#define VBLK_HELPERS_H

#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/mman.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/sched/vhost_task.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

enum vblk_const {
	VBLK_OP_READ = REQ_OP_READ,
	/* As direct I/O writes: somebody waits for it, and no more is known to follow. */
	VBLK_OP_WRITE = REQ_OP_WRITE | REQ_SYNC | REQ_IDLE,
	VBLK_OP_WRITE_FUA = REQ_OP_WRITE | REQ_SYNC | REQ_IDLE | REQ_FUA,
	VBLK_OP_FLUSH = REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH,
	VBLK_OP_DISCARD = REQ_OP_DISCARD,
	VBLK_OP_SECURE_ERASE = REQ_OP_SECURE_ERASE,
	VBLK_OP_ZERO = REQ_OP_WRITE_ZEROES,
	VBLK_STATUS_NOT_SUPPORTED = 1,
	VBLK_POLLIN = EPOLLIN,
	/* For KUnit tests. */
	VBLK_PROT_READ = PROT_READ,
	VBLK_PROT_WRITE = PROT_WRITE,
	VBLK_MAP_NEW = MAP_PRIVATE | MAP_ANONYMOUS,
	VBLK_MAP_FIXED = MAP_FIXED,
};

int vblk_mutex_lock_killable(struct mutex *lock);
unsigned long vblk_lock_irqsave(spinlock_t *lock);
bool vblk_trylock_irqsave(spinlock_t *lock, unsigned long *flags);
void vblk_unlock_irqrestore(spinlock_t *lock, unsigned long flags);

void *vblk_vmap(struct page **pages, unsigned int count);
void vblk_vunmap(void *addr);
void *vblk_page_address(struct page *page);
struct page *vblk_virt_to_page(void *addr);
bool vblk_page_follows(struct page *page, struct page *next);
bool vblk_page_continues(struct page *page, struct page *next);
void vblk_mark_dirty(struct page *page);
bool vblk_try_unpin(struct page *page, unsigned long count, bool written);
void vblk_copy(void *to, const void *from, size_t len);
bool vblk_access_ok(unsigned long addr, unsigned long size);
bool vblk_load_16(unsigned long from, void *to);

struct block_device *vblk_file_bdev(struct file *file);
bool vblk_file_can_read(struct file *file);
bool vblk_file_can_write(struct file *file);
struct vblk_geometry {
	u64 sectors;
	u32 block_size;
	u32 dma_alignment;
	bool read_only;
};

void vblk_bdev_geometry(struct block_device *bdev, struct vblk_geometry *geometry);

struct vblk_bdev_limits {
	u32 physical_block_size;
	u32 alignment_offset;
	u32 io_min;
	u32 io_opt;
	u32 discard_sectors;
	u32 discard_granularity;
	u32 write_zeroes_sectors;
	u32 secure_erase_sectors;
};

void vblk_bdev_limits(struct block_device *bdev, struct vblk_bdev_limits *limits);
struct page *vblk_zero_page(void);
bool vblk_bdev_is_zoned(struct block_device *bdev);
int vblk_bdev_drop_cache(struct block_device *bdev);

__poll_t vblk_poll(struct file *file, struct poll_table_struct *table);

void vblk_init_delayed_work(struct delayed_work *work, work_func_t func);
void vblk_queue_delayed_work(struct delayed_work *work);

void vblk_allow_kill(void);
int vblk_kill(struct task_struct *task);
bool vblk_killed(void);
void vblk_set_state(unsigned int state);
void vblk_cond_resched(void);
bool vblk_is_current_task(struct task_struct *task);
bool vblk_has_capability_noaudit(int cap);
void vblk_preempt_disable(void);
void vblk_preempt_enable(void);
int vblk_join_cgroups(struct task_struct *from);
struct mem_cgroup *vblk_charge_owner_of(struct mm_struct *mm);
void vblk_charge_nobody(struct mem_cgroup *charged);

#endif
