// SPDX-License-Identifier: GPL-2.0
/*
 * A disk in memory, for tests only, that counts what reaches it.
 *
 * The kernel's own test disks can't erase securely, don't show whether a write
 * had to be durable at once, don't show the priority and the vectors of what
 * they get, and can't be told when to complete it.
 *
 * The limits are parameters of the module, so one disk exists at a time:
 * /dev/vblktest, as long as the module is loaded. It is bio-based: what it
 * counts is what was submitted, only cut at its limits. /sys/block/vblktest has
 *
 * counts/NAME		how many of these there were, and of how many sectors
 * counts/vectors	how many vectors the reads and writes had together
 * hold/on		1 keeps what is submitted from now on, 2 keeps all but reads,
 *			0 completes it all
 * hold/held		how many bios are kept
 * hold/release		completes that many of them, the oldest first; 0 for all
 * priorities/seen	for each priority that came: the number, as ioprio_get()
 *			has it, and how many requests had it
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>

/* What is left behind, to tell the two apart from each other and from zeroes. */
#define DISCARDED	0xdd
#define ERASED		0xee

static unsigned int size_mib = 16;
module_param(size_mib, uint, 0444);
MODULE_PARM_DESC(size_mib, "Size in MiB");

static unsigned int logical_block_size = 512;
module_param(logical_block_size, uint, 0444);
MODULE_PARM_DESC(logical_block_size, "Logical block size in bytes");

static unsigned int physical_block_size = 512;
module_param(physical_block_size, uint, 0444);
MODULE_PARM_DESC(physical_block_size, "Physical block size in bytes");

static unsigned int max_segments;
module_param(max_segments, uint, 0444);
MODULE_PARM_DESC(max_segments, "Most segments of a request, 0 for the kernel's default");

static unsigned int max_segment_size;
module_param(max_segment_size, uint, 0444);
MODULE_PARM_DESC(max_segment_size, "Most bytes of a segment, 0 for the kernel's default");

static unsigned long virt_boundary_mask;
module_param(virt_boundary_mask, ulong, 0444);
MODULE_PARM_DESC(virt_boundary_mask, "Mask of addresses between which there may be no gap, 0 for any");

static unsigned int max_discard_sectors;
module_param(max_discard_sectors, uint, 0444);
MODULE_PARM_DESC(max_discard_sectors, "Most sectors to discard at a time, 0 if it can't");

static unsigned int discard_granularity;
module_param(discard_granularity, uint, 0444);
MODULE_PARM_DESC(discard_granularity, "Unit of discarding in bytes");

static unsigned int max_secure_erase_sectors;
module_param(max_secure_erase_sectors, uint, 0444);
MODULE_PARM_DESC(max_secure_erase_sectors, "Most sectors to erase at a time, 0 if it can't");

static unsigned int max_write_zeroes_sectors;
module_param(max_write_zeroes_sectors, uint, 0444);
MODULE_PARM_DESC(max_write_zeroes_sectors, "Most sectors to zero at a time, 0 if it can't");

static bool write_cache;
module_param(write_cache, bool, 0444);
MODULE_PARM_DESC(write_cache, "Say that writes are durable only after a flush, or with FUA");

static bool fua;
module_param(fua, bool, 0444);
MODULE_PARM_DESC(fua, "Say that it can write past its cache");

static unsigned int dma_alignment;
module_param(dma_alignment, uint, 0444);
MODULE_PARM_DESC(dma_alignment, "Mask of buffer alignment, 0 for the kernel's default");

static unsigned int write_zeroes_fails;
module_param(write_zeroes_fails, uint, 0444);
MODULE_PARM_DESC(write_zeroes_fails,
		 "Find out at the first WRITE_ZEROES that it can't: 1 not supported, 2 target error");

enum count {
	COUNT_READ,
	COUNT_WRITE,
	COUNT_FUA,
	COUNT_PREFLUSH,
	COUNT_DISCARD,
	COUNT_SECURE_ERASE,
	COUNT_WRITE_ZEROES,
	COUNTS,
};

static struct {
	atomic64_t requests;
	atomic64_t sectors;
} counts[COUNTS];

static atomic64_t vectors;

/* One for each value of bi_ioprio. */
static atomic_t priorities[1 << 16];

static struct gendisk *disk;
static u8 *contents;

/* What was submitted and is not completed before it is released. */
static DEFINE_SPINLOCK(hold_lock);
static struct bio_list held_bios;
static unsigned int held;
static enum { HOLD_NOTHING, HOLD_ALL, HOLD_WRITES } hold;

static void count(enum count which, struct bio *bio)
{
	atomic64_inc(&counts[which].requests);
	atomic64_add(bio_sectors(bio), &counts[which].sectors);
}

static void transfer(struct bio *bio, u8 *at)
{
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_segment(bv, bio, iter) {
		if (bio_op(bio) == REQ_OP_WRITE)
			memcpy_from_bvec(at, &bv);
		else
			memcpy_to_bvec(&bv, at);
		at += bv.bv_len;
	}
}

static void count_vectors(struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_bvec(bv, bio, iter)
		atomic64_inc(&vectors);
}

static void count_bio(struct bio *bio)
{
	atomic_inc(&priorities[bio->bi_ioprio]);
	if (bio->bi_opf & REQ_PREFLUSH)
		count(COUNT_PREFLUSH, bio);
	if (bio->bi_opf & REQ_FUA)
		count(COUNT_FUA, bio);

	switch (bio_op(bio)) {
	case REQ_OP_READ:
		count(COUNT_READ, bio);
		count_vectors(bio);
		break;
	case REQ_OP_WRITE:
		/* A flush is a write of nothing. */
		if (bio_has_data(bio)) {
			count(COUNT_WRITE, bio);
			count_vectors(bio);
		}
		break;
	case REQ_OP_DISCARD:
		count(COUNT_DISCARD, bio);
		break;
	case REQ_OP_SECURE_ERASE:
		count(COUNT_SECURE_ERASE, bio);
		break;
	case REQ_OP_WRITE_ZEROES:
		count(COUNT_WRITE_ZEROES, bio);
		break;
	default:
		break;
	}
}

static void complete_bio(struct bio *bio)
{
	u8 *at = contents + (bio->bi_iter.bi_sector << SECTOR_SHIFT);

	switch (bio_op(bio)) {
	case REQ_OP_READ:
	case REQ_OP_WRITE:
		transfer(bio, at);
		break;
	case REQ_OP_DISCARD:
		memset(at, DISCARDED, bio->bi_iter.bi_size);
		break;
	case REQ_OP_SECURE_ERASE:
		memset(at, ERASED, bio->bi_iter.bi_size);
		break;
	case REQ_OP_WRITE_ZEROES:
		if (write_zeroes_fails) {
			/* A SCSI disk reports a target error for an illegal request. */
			blk_queue_disable_write_zeroes(disk->queue);
			bio->bi_status = write_zeroes_fails == 1 ? BLK_STS_NOTSUPP : BLK_STS_TARGET;
		} else {
			memset(at, 0, bio->bi_iter.bi_size);
		}
		break;
	default:
		bio->bi_status = BLK_STS_NOTSUPP;
	}
	bio_endio(bio);
}

/* The block layer lets nothing through that is not on the disk. */
static void test_disk_submit_bio(struct bio *bio)
{
	unsigned long flags;
	bool keep;

	bio = bio_split_to_limits(bio);
	if (!bio)
		return;
	count_bio(bio);

	spin_lock_irqsave(&hold_lock, flags);
	keep = hold == HOLD_ALL || (hold == HOLD_WRITES && bio_op(bio) != REQ_OP_READ);
	if (keep) {
		bio_list_add(&held_bios, bio);
		held++;
	}
	spin_unlock_irqrestore(&hold_lock, flags);
	if (!keep)
		complete_bio(bio);
}

/* Completes so many of the bios that are held, or all that are held now. */
static void release(unsigned int most)
{
	unsigned long flags;
	struct bio *bio;

	spin_lock_irqsave(&hold_lock, flags);
	if (!most || most > held)
		most = held;
	spin_unlock_irqrestore(&hold_lock, flags);

	while (most--) {
		spin_lock_irqsave(&hold_lock, flags);
		bio = bio_list_pop(&held_bios);
		if (bio)
			held--;
		spin_unlock_irqrestore(&hold_lock, flags);
		if (!bio)
			break;
		complete_bio(bio);
	}
}

static void set_hold(unsigned int mode)
{
	unsigned long flags;

	spin_lock_irqsave(&hold_lock, flags);
	hold = mode;
	spin_unlock_irqrestore(&hold_lock, flags);
	if (mode == HOLD_NOTHING)
		release(0);
}

static ssize_t count_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	enum count which = (uintptr_t)container_of(attr, struct dev_ext_attribute, attr)->var;

	return sysfs_emit(buf, "%lld %lld\n", atomic64_read(&counts[which].requests),
			  atomic64_read(&counts[which].sectors));
}

#define COUNT_ATTR(_name, _which)					\
	static struct dev_ext_attribute count_attr_##_name = {		\
		.attr = __ATTR(_name, 0444, count_show, NULL),		\
		.var = (void *)_which,					\
	}

COUNT_ATTR(read, COUNT_READ);
COUNT_ATTR(write, COUNT_WRITE);
COUNT_ATTR(fua, COUNT_FUA);
COUNT_ATTR(preflush, COUNT_PREFLUSH);
COUNT_ATTR(discard, COUNT_DISCARD);
COUNT_ATTR(secure_erase, COUNT_SECURE_ERASE);
COUNT_ATTR(write_zeroes, COUNT_WRITE_ZEROES);

static ssize_t vectors_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n", atomic64_read(&vectors));
}
static DEVICE_ATTR_RO(vectors);

static struct attribute *count_attrs[] = {
	&count_attr_read.attr.attr,
	&count_attr_write.attr.attr,
	&count_attr_fua.attr.attr,
	&count_attr_preflush.attr.attr,
	&count_attr_discard.attr.attr,
	&count_attr_secure_erase.attr.attr,
	&count_attr_write_zeroes.attr.attr,
	&dev_attr_vectors.attr,
	NULL
};

static const struct attribute_group count_group = {
	.name = "counts",
	.attrs = count_attrs,
};

static ssize_t seen_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	int len = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(priorities); i++) {
		int times = atomic_read(&priorities[i]);

		if (times)
			len += sysfs_emit_at(buf, len, "0x%04x %d\n", i, times);
	}
	return len;
}
static DEVICE_ATTR_RO(seen);

static struct attribute *priority_attrs[] = {
	&dev_attr_seen.attr,
	NULL
};

static const struct attribute_group priority_group = {
	.name = "priorities",
	.attrs = priority_attrs,
};

static ssize_t on_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(hold));
}

static ssize_t on_store(struct device *dev, struct device_attribute *attr,
			const char *buf, size_t count)
{
	unsigned int mode;
	int err = kstrtouint(buf, 0, &mode);

	if (err)
		return err;
	if (mode > HOLD_WRITES)
		return -EINVAL;
	set_hold(mode);
	return count;
}
static DEVICE_ATTR_RW(on);

static ssize_t held_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(held));
}
static DEVICE_ATTR_RO(held);

static ssize_t release_store(struct device *dev, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	unsigned int most;
	int err = kstrtouint(buf, 0, &most);

	if (err)
		return err;
	release(most);
	return count;
}
static DEVICE_ATTR_WO(release);

static struct attribute *hold_attrs[] = {
	&dev_attr_on.attr,
	&dev_attr_held.attr,
	&dev_attr_release.attr,
	NULL
};

static const struct attribute_group hold_group = {
	.name = "hold",
	.attrs = hold_attrs,
};

static const struct attribute_group *groups[] = {
	&count_group,
	&priority_group,
	&hold_group,
	NULL
};

static const struct block_device_operations test_disk_fops = {
	.owner		= THIS_MODULE,
	.submit_bio	= test_disk_submit_bio,
};

static int __init test_disk_init(void)
{
	size_t bytes = (size_t)size_mib * SZ_1M;
	struct queue_limits limits = {
		.logical_block_size		= logical_block_size,
		.physical_block_size		= physical_block_size,
		/* Nothing is cut for its length alone. */
		.max_hw_sectors			= UINT_MAX,
		.max_segments			= max_segments,
		.max_segment_size		= max_segment_size,
		.virt_boundary_mask		= virt_boundary_mask,
		.max_hw_discard_sectors		= max_discard_sectors,
		.discard_granularity		= discard_granularity,
		.max_secure_erase_sectors	= max_secure_erase_sectors,
		.max_write_zeroes_sectors	= max_write_zeroes_sectors,
		.dma_alignment			= dma_alignment,
	};
	int err;

	if (max_segments > USHRT_MAX)
		return -EINVAL;
	if (write_cache)
		limits.features |= BLK_FEAT_WRITE_CACHE;
	if (fua)
		limits.features |= BLK_FEAT_FUA;

	contents = vzalloc(bytes);
	if (!contents)
		return -ENOMEM;

	disk = blk_alloc_disk(&limits, NUMA_NO_NODE);
	if (IS_ERR(disk)) {
		err = PTR_ERR(disk);
		goto out_free;
	}
	disk->fops = &test_disk_fops;
	strscpy(disk->disk_name, "vblktest");
	set_capacity(disk, bytes >> SECTOR_SHIFT);

	err = device_add_disk(NULL, disk, groups);
	if (err)
		goto out_put;
	return 0;

out_put:
	put_disk(disk);
out_free:
	vfree(contents);
	return err;
}

static void __exit test_disk_exit(void)
{
	set_hold(HOLD_NOTHING);
	del_gendisk(disk);
	put_disk(disk);
	vfree(contents);
}

module_init(test_disk_init);
module_exit(test_disk_exit);

MODULE_DESCRIPTION("A disk in memory that counts what reaches it, for tests");
MODULE_LICENSE("GPL");
