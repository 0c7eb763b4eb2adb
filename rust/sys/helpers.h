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
#ifdef VBLK_VDPA
#include <linux/vdpa.h>
#include <uapi/linux/vhost_types.h>
#include <uapi/linux/virtio_ids.h>
#endif

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
void vblk_set_bit_le(unsigned long bit, void *bitmap);
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

struct vblk_segment_limits {
	u64 virt_boundary_mask;
	u32 max_segments;
};

void vblk_bdev_segment_limits(struct block_device *bdev, struct vblk_segment_limits *limits);

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
u32 vblk_bdev_number(struct block_device *bdev);
int vblk_bdev_drop_cache(struct block_device *bdev);

__poll_t vblk_poll(struct file *file, struct poll_table_struct *table);

void vblk_init_delayed_work(struct delayed_work *work, work_func_t func);
void vblk_queue_delayed_work(struct delayed_work *work);

void vblk_allow_kill(void);
void vblk_forbid_io_for_memory(void);
int vblk_kill(struct task_struct *task);
bool vblk_killed(void);
void vblk_set_state(unsigned int state);
void vblk_cond_resched(void);
bool vblk_others_want_cpu(void);
bool vblk_is_current_task(struct task_struct *task);
bool vblk_has_capability_noaudit(int cap);
bool vblk_is_admin(void);
void vblk_preempt_disable(void);
void vblk_preempt_enable(void);
int vblk_join_cgroups(struct task_struct *from);
struct mem_cgroup *vblk_charge_owner_of(struct mm_struct *mm);
void vblk_charge_nobody(struct mem_cgroup *charged);

#ifdef VBLK_VDPA
/* For constants that bindgen can't read. */
enum vblk_vdpa_const {
	VBLK_ACCESS_RO = VHOST_ACCESS_RO,
	VBLK_ACCESS_WO = VHOST_ACCESS_WO,
	VBLK_ACCESS_RW = VHOST_ACCESS_RW,
	VBLK_ID_BLOCK = VIRTIO_ID_BLOCK,
	VBLK_BACKEND_F_ENABLE_AFTER_DRIVER_OK = VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK,
	VBLK_BACKEND_F_IOTLB_PERSIST = VHOST_BACKEND_F_IOTLB_PERSIST,
};

int vblk_add_pins(u64 addr, u64 count);
/* Sleeps until it is 0. */
int vblk_wait_until_zero(atomic_t *count);
struct page *vblk_phys_to_page(u64 addr);
void *vblk_phys_to_virt(u64 addr);
u64 vblk_phys_limit(void);

int vblk_vdpa_mgmt_register(u64 features, u32 max_queues);
void vblk_vdpa_mgmt_unregister(void);
struct vdpa_device *vblk_vdpa_alloc(const struct vdpa_config_ops *ops, const char *name,
				    const char *driver);
void vblk_vdpa_set_object(struct vdpa_device *vdpa, void *object);
void *vblk_vdpa_object(const struct vdpa_device *vdpa);
int vblk_vdpa_register(struct vdpa_device *vdpa, u32 queues);
struct vdpa_device *vblk_vdpa_find(const char *name);
struct vdpa_device *vblk_vdpa_nth(unsigned int index);
const char *vblk_vdpa_name(const struct vdpa_device *vdpa);
bool vblk_vdpa_is_for_host(const struct vdpa_device *vdpa);
int vblk_vdpa_unregister(struct vdpa_device *vdpa);
void vblk_vdpa_put(struct vdpa_device *vdpa);
bool vblk_vdpa_has_ops(const struct vdpa_device *vdpa, const struct vdpa_config_ops *ops);
u32 vblk_vq_state_base(const struct vdpa_vq_state *state, bool packed);
void vblk_vq_state_set(struct vdpa_vq_state *state, u32 base, bool packed);
#endif

#endif
