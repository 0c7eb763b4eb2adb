// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. */

#include <linux/capability.h>
#include <linux/cgroup.h>
#include <linux/memcontrol.h>
#include <linux/pagemap.h>
#include <linux/preempt.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>
#include <linux/vmalloc.h>
#include <linux/wait_bit.h>

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

/* Data that was written before is seen by those who see the bit. */
void vblk_set_bit_le(unsigned long bit, void *bitmap)
{
	smp_mb__before_atomic();
	set_bit_le(bit, bitmap);
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

void vblk_bdev_segment_limits(struct block_device *bdev, struct vblk_segment_limits *limits)
{
	limits->virt_boundary_mask = queue_virt_boundary(bdev_get_queue(bdev));
	limits->max_segments = bdev_max_segments(bdev);
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

u32 vblk_bdev_number(struct block_device *bdev)
{
	return bdev->bd_dev;
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

/* For as long as the current task lives. */
void vblk_forbid_io_for_memory(void)
{
	(void)memalloc_noio_save();
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

/* Is there other work for this CPU? As for KVM's polling for halted CPUs. */
bool vblk_others_want_cpu(void)
{
	return need_resched() || !single_task_running();
}

bool vblk_is_current_task(struct task_struct *task)
{
	return in_task() && current == task;
}

bool vblk_has_capability_noaudit(int cap)
{
	return ns_capable_noaudit(&init_user_ns, cap);
}

bool vblk_is_admin(void)
{
	return capable(CAP_SYS_ADMIN);
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

#ifdef VBLK_VDPA

int vblk_wait_until_zero(atomic_t *count)
{
	return wait_var_event_killable(count, !atomic_read(count));
}

/* Refuses pages whose structures do not follow each other, as without SPARSEMEM_VMEMMAP. */
int vblk_add_pins(u64 addr, u64 count)
{
	unsigned long pfn = PHYS_PFN(addr);
	struct page *first = pfn_to_page(pfn);
	u64 done = 0;

	if (pfn_to_page(pfn + count - 1) != first + count - 1)
		return -EINVAL;
	while (done < count) {
		struct page *page = first + done;
		struct folio *folio = page_folio(page);
		unsigned long rest = folio_nr_pages(folio) - folio_page_idx(folio, page);
		unsigned int now = min_t(u64, rest, count - done);
		int error = folio_add_pins(folio, now);

		if (error) {
			if (done)
				unpin_user_page_range_dirty_lock(first, done, false);
			return error;
		}
		done += now;
	}
	return 0;
}

struct page *vblk_phys_to_page(u64 addr)
{
	return pfn_to_page(PHYS_PFN(addr));
}

void *vblk_phys_to_virt(u64 addr)
{
	return phys_to_virt(addr);
}

u64 vblk_phys_limit(void)
{
	return 1ULL << MAX_PHYSMEM_BITS;
}

/*
 * The host's own driver addresses memory by physical addresses, whatever the host's IOMMU, memory
 * encryption or bounce buffers do for devices that are not just code.
 */
static dma_addr_t map_page(union virtio_map map, struct page *page, unsigned long offset,
			   size_t size, enum dma_data_direction dir, unsigned long attrs)
{
	return page_to_phys(page) + offset;
}

static void unmap_page(union virtio_map map, dma_addr_t addr, size_t size,
		       enum dma_data_direction dir, unsigned long attrs)
{
}

static void sync_single(union virtio_map map, dma_addr_t addr, size_t size,
			enum dma_data_direction dir)
{
}

static void *alloc(union virtio_map map, size_t size, dma_addr_t *addr, gfp_t gfp)
{
	void *memory = alloc_pages_exact(size, gfp | __GFP_ZERO);

	*addr = memory ? virt_to_phys(memory) : DMA_MAPPING_ERROR;
	return memory;
}

static void free(union virtio_map map, size_t size, void *memory, dma_addr_t addr,
		 unsigned long attrs)
{
	free_pages_exact(memory, size);
}

static bool need_sync(union virtio_map map, dma_addr_t addr)
{
	return false;
}

static int mapping_error(union virtio_map map, dma_addr_t addr)
{
	return addr == DMA_MAPPING_ERROR ? -ENOMEM : 0;
}

static size_t max_mapping_size(union virtio_map map)
{
	return SIZE_MAX;
}

static const struct virtio_map_ops map_ops = {
	.map_page = map_page,
	.unmap_page = unmap_page,
	.sync_single_for_cpu = sync_single,
	.sync_single_for_device = sync_single,
	.alloc = alloc,
	.free = free,
	.need_sync = need_sync,
	.mapping_error = mapping_error,
	.max_mapping_size = max_mapping_size,
};

/* A vDPA device, and the object that it is a face of. */
struct vblk_vdpa {
	struct vdpa_device vdpa;
	void *object;
	/* Set by the one who unregisters the device. */
	unsigned long is_going;
};

static struct vblk_vdpa *to_vblk(const struct vdpa_device *vdpa)
{
	return container_of(vdpa, struct vblk_vdpa, vdpa);
}

/* A disk can't be named by netlink. */
static int dev_add(struct vdpa_mgmt_dev *mgmt, const char *name,
		   const struct vdpa_dev_set_config *config)
{
	return -EOPNOTSUPP;
}

static void dev_del(struct vdpa_mgmt_dev *mgmt, struct vdpa_device *vdpa)
{
	if (!test_and_set_bit(0, &to_vblk(vdpa)->is_going))
		_vdpa_unregister_device(vdpa);
}

static const struct vdpa_mgmtdev_ops mgmt_ops = {
	.dev_add = dev_add,
	.dev_del = dev_del,
};

static struct virtio_device_id id_table[] = {
	{ VIRTIO_ID_BLOCK, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static struct vdpa_mgmt_dev mgmt = {
	.ops = &mgmt_ops,
	.id_table = id_table,
};

int vblk_vdpa_mgmt_register(u64 features, u32 max_queues)
{
	struct device *root = root_device_register("vhost-blk-rs");
	int error;

	if (IS_ERR(root))
		return PTR_ERR(root);
	mgmt.device = root;
	mgmt.supported_features = features;
	mgmt.max_supported_vqs = max_queues;
	error = vdpa_mgmtdev_register(&mgmt);
	if (error) {
		root_device_unregister(root);
		mgmt.device = NULL;
	}
	return error;
}

void vblk_vdpa_mgmt_unregister(void)
{
	vdpa_mgmtdev_unregister(&mgmt);
	root_device_unregister(mgmt.device);
	mgmt.device = NULL;
}

struct vdpa_device *vblk_vdpa_alloc(const struct vdpa_config_ops *ops, const char *name,
				    const char *driver)
{
	struct vdpa_device *vdpa;
	int error;

	if (!mgmt.device)
		return ERR_PTR(-ENODEV);
	vdpa = __vdpa_alloc_device(mgmt.device, ops, &map_ops, 1, 1, sizeof(struct vblk_vdpa),
				   name, false);
	if (IS_ERR(vdpa))
		return vdpa;
	vdpa->mdev = &mgmt;
	error = device_set_driver_override(&vdpa->dev, driver);
	if (error) {
		put_device(&vdpa->dev);
		return ERR_PTR(error);
	}
	return vdpa;
}

void vblk_vdpa_set_object(struct vdpa_device *vdpa, void *object)
{
	to_vblk(vdpa)->object = object;
}

void *vblk_vdpa_object(const struct vdpa_device *vdpa)
{
	return to_vblk(vdpa)->object;
}

int vblk_vdpa_register(struct vdpa_device *vdpa, u32 queues)
{
	return vdpa_register_device(vdpa, queues);
}

struct vdpa_device *vblk_vdpa_find(const char *name)
{
	struct device *dev = device_find_child_by_name(mgmt.device, name);

	return dev ? dev_to_vdpa(dev) : NULL;
}

struct nth {
	unsigned int left;
	struct device *found;
};

static int find_nth(struct device *dev, void *data)
{
	struct nth *nth = data;

	if (nth->left--)
		return 0;
	nth->found = get_device(dev);
	return 1;
}

struct vdpa_device *vblk_vdpa_nth(unsigned int index)
{
	struct nth nth = { .left = index };

	device_for_each_child(mgmt.device, &nth, find_nth);
	return nth.found ? dev_to_vdpa(nth.found) : NULL;
}

const char *vblk_vdpa_name(const struct vdpa_device *vdpa)
{
	return dev_name(&vdpa->dev);
}

bool vblk_vdpa_has_ops(const struct vdpa_device *vdpa, const struct vdpa_config_ops *ops)
{
	return vdpa->config == ops;
}

/* Called within a call of the bus driver, so that there is one. */
bool vblk_vdpa_is_for_host(const struct vdpa_device *vdpa)
{
	const struct device_driver *driver = READ_ONCE(vdpa->dev.driver);

	return driver && !strcmp(driver->name, "virtio_vdpa");
}

int vblk_vdpa_unregister(struct vdpa_device *vdpa)
{
	if (test_and_set_bit(0, &to_vblk(vdpa)->is_going))
		return -ENODEV;
	vdpa_unregister_device(vdpa);
	return 0;
}

void vblk_vdpa_put(struct vdpa_device *vdpa)
{
	put_device(&vdpa->dev);
}

/* In the encoding of VHOST_SET_VRING_BASE. */
u32 vblk_vq_state_base(const struct vdpa_vq_state *state, bool packed)
{
	const struct vdpa_vq_state_packed *it = &state->packed;

	if (!packed)
		return state->split.avail_index;
	return it->last_avail_idx | it->last_avail_counter << 15 |
	       (u32)(it->last_used_idx | it->last_used_counter << 15) << 16;
}

void vblk_vq_state_set(struct vdpa_vq_state *state, u32 base, bool packed)
{
	struct vdpa_vq_state_packed *it = &state->packed;

	memset(state, 0, sizeof(*state));
	if (!packed) {
		state->split.avail_index = base;
		return;
	}
	it->last_avail_idx = base;
	it->last_avail_counter = base >> 15;
	it->last_used_idx = base >> 16;
	it->last_used_counter = base >> 31;
}
#endif
