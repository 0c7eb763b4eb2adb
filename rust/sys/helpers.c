// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. */

#include <linux/capability.h>
#include <linux/cgroup.h>
#include <linux/memcontrol.h>
#include <linux/pagemap.h>
#include <linux/preempt.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>
#include <linux/vmalloc.h>

#include "helpers.h"

static_assert((__force int)BLK_STS_NOTSUPP == VBLK_STATUS_NOT_SUPPORTED);

int vblk_mutex_lock_killable(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

unsigned long vblk_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

bool vblk_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	return spin_trylock_irqsave(lock, *flags);
}

void vblk_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

void *vblk_vmap(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP, PAGE_KERNEL);
}

void vblk_vunmap(void *addr)
{
	vunmap(addr);
}

void *vblk_page_address(struct page *page)
{
	return page_address(page);
}

struct page *vblk_virt_to_page(void *addr)
{
	return virt_to_page(addr);
}

/* Whether next lies behind page in memory. */
bool vblk_page_continues(struct page *page, struct page *next)
{
	return page_to_pfn(next) == page_to_pfn(page) + 1 && next == page + 1;
}

/* The same, in one folio. */
bool vblk_page_follows(struct page *page, struct page *next)
{
	return next == page + 1 && page_folio(next) == page_folio(page);
}

void vblk_mark_dirty(struct page *page)
{
	if (!folio_test_dirty(page_folio(page)))
		set_page_dirty_lock(page);
}

bool vblk_try_unpin(struct page *page, unsigned long count, bool written)
{
	struct folio *folio = page_folio(page);

	if (written && !folio_test_dirty(folio))
		return false;
	unpin_user_folio(folio, count);
	return true;
}

bool vblk_access_ok(unsigned long addr, unsigned long size)
{
	return access_ok((void __user *)addr, size);
}

bool vblk_load_16(unsigned long from, void *to)
{
	const u64 __user *pair = (const u64 __user *)from;
	u64 low, high;

	might_fault();
	scoped_user_read_access_size(pair, 2 * sizeof(*pair), fault) {
		unsafe_get_user(low, pair, fault);
		unsafe_get_user(high, pair + 1, fault);
	}
	put_unaligned(low, (u64 *)to);
	put_unaligned(high, (u64 *)to + 1);
	return true;
fault:
	return false;
}

void vblk_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

struct block_device *vblk_file_bdev(struct file *file)
{
	struct inode *inode = file->f_mapping->host;

	return S_ISBLK(inode->i_mode) ? I_BDEV(inode) : NULL;
}

bool vblk_file_can_read(struct file *file)
{
	return file->f_mode & FMODE_READ;
}

bool vblk_file_can_write(struct file *file)
{
	return file->f_mode & FMODE_WRITE;
}

void vblk_bdev_geometry(struct block_device *bdev, struct vblk_geometry *geometry)
{
	geometry->sectors = bdev_nr_sectors(bdev);
	geometry->block_size = bdev_logical_block_size(bdev);
	geometry->dma_alignment = bdev_dma_alignment(bdev);
	geometry->read_only = bdev_read_only(bdev);
}

void vblk_bdev_limits(struct block_device *bdev, struct vblk_bdev_limits *limits)
{
	int alignment = bdev_alignment_offset(bdev);

	limits->physical_block_size = bdev_physical_block_size(bdev);
	limits->alignment_offset = max(alignment, 0);
	limits->io_min = bdev_io_min(bdev);
	limits->io_opt = bdev_io_opt(bdev);
	limits->discard_sectors = bdev_max_discard_sectors(bdev);
	limits->discard_granularity = bdev_discard_granularity(bdev);
	limits->write_zeroes_sectors = bdev_write_zeroes_sectors(bdev);
	limits->secure_erase_sectors = bdev_max_secure_erase_sectors(bdev);
}

struct page *vblk_zero_page(void)
{
	return ZERO_PAGE(0);
}

bool vblk_bdev_is_zoned(struct block_device *bdev)
{
	return bdev_is_zoned(bdev);
}

/* Pages that cannot be dropped are in use by someone who shares the device: not an error. */
int vblk_bdev_drop_cache(struct block_device *bdev)
{
	int error = sync_blockdev(bdev);

	invalidate_inode_pages2(bdev->bd_mapping);
	return error;
}

__poll_t vblk_poll(struct file *file, struct poll_table_struct *table)
{
	return vfs_poll(file, table);
}

void vblk_init_delayed_work(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

void vblk_queue_delayed_work(struct delayed_work *work)
{
	queue_delayed_work(system_freezable_power_efficient_wq, work, round_jiffies_relative(HZ));
}

void vblk_allow_kill(void)
{
	allow_kernel_signal(SIGKILL);
}

int vblk_kill(struct task_struct *task)
{
	return send_sig(SIGKILL, task, 1);
}

bool vblk_killed(void)
{
	return fatal_signal_pending(current);
}

void vblk_set_state(unsigned int state)
{
	set_current_state(state);
}

void vblk_cond_resched(void)
{
	cond_resched();
}

bool vblk_is_current_task(struct task_struct *task)
{
	return in_task() && current == task;
}

bool vblk_has_capability_noaudit(int cap)
{
	return ns_capable_noaudit(&init_user_ns, cap);
}

void vblk_preempt_disable(void)
{
	preempt_disable();
}

void vblk_preempt_enable(void)
{
	preempt_enable();
}

int vblk_join_cgroups(struct task_struct *from)
{
	return cgroup_attach_task_all(from, current);
}

/*
 * Memory cgroups do not look at the group of a kernel thread: without this,
 * what it allocates is charged to nobody, GFP_KERNEL_ACCOUNT or not.
 */
struct mem_cgroup *vblk_charge_owner_of(struct mm_struct *mm)
{
	struct mem_cgroup *group = get_mem_cgroup_from_mm(mm);

	set_active_memcg(group);
	return group;
}

void vblk_charge_nobody(struct mem_cgroup *charged)
{
	set_active_memcg(NULL);
	mem_cgroup_put(charged);
}
