// SPDX-License-Identifier: GPL-2.0
/*
 * A disk in memory, for tests only, that counts what reaches it.
 *
 * The kernel's own test disks can't erase securely, don't show whether a write
 * had to be durable at once, and don't show the priority of what they get.
 *
 * The limits are parameters of the module, so one disk exists at a time:
 * /dev/vblktest, as long as the module is loaded. It is bio-based: what it
 * counts is what was submitted, only cut at its limits. What was counted is in
 * two directories of /sys/block/vblktest:
 *
 * counts/NAME		how many of these there were, and of how many sectors
 * priorities/seen	for each priority that came: the number, as ioprio_get()
 *			has it, and how many requests had it
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sizes.h>
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

/* One for each value of bi_ioprio. */
static atomic_t priorities[1 << 16];

static struct gendisk *disk;
static u8 *contents;

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

/* The block layer lets nothing through that is not on the disk. */
static void test_disk_submit_bio(struct bio *bio)
{
	u8 *at;

	bio = bio_split_to_limits(bio);
	if (!bio)
		return;

	at = contents + (bio->bi_iter.bi_sector << SECTOR_SHIFT);
	atomic_inc(&priorities[bio->bi_ioprio]);
	if (bio->bi_opf & REQ_PREFLUSH)
		count(COUNT_PREFLUSH, bio);
	if (bio->bi_opf & REQ_FUA)
		count(COUNT_FUA, bio);

	switch (bio_op(bio)) {
	case REQ_OP_READ:
		count(COUNT_READ, bio);
		transfer(bio, at);
		break;
	case REQ_OP_WRITE:
		/* A flush is a write of nothing. */
		if (bio_has_data(bio))
			count(COUNT_WRITE, bio);
		transfer(bio, at);
		break;
	case REQ_OP_DISCARD:
		count(COUNT_DISCARD, bio);
		memset(at, DISCARDED, bio->bi_iter.bi_size);
		break;
	case REQ_OP_SECURE_ERASE:
		count(COUNT_SECURE_ERASE, bio);
		memset(at, ERASED, bio->bi_iter.bi_size);
		break;
	case REQ_OP_WRITE_ZEROES:
		count(COUNT_WRITE_ZEROES, bio);
		memset(at, 0, bio->bi_iter.bi_size);
		break;
	default:
		bio->bi_status = BLK_STS_NOTSUPP;
	}
	bio_endio(bio);
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

static struct attribute *count_attrs[] = {
	&count_attr_read.attr.attr,
	&count_attr_write.attr.attr,
	&count_attr_fua.attr.attr,
	&count_attr_preflush.attr.attr,
	&count_attr_discard.attr.attr,
	&count_attr_secure_erase.attr.attr,
	&count_attr_write_zeroes.attr.attr,
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

static const struct attribute_group *groups[] = {
	&count_group,
	&priority_group,
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
		.max_hw_discard_sectors		= max_discard_sectors,
		.discard_granularity		= discard_granularity,
		.max_secure_erase_sectors	= max_secure_erase_sectors,
		.max_write_zeroes_sectors	= max_write_zeroes_sectors,
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
	del_gendisk(disk);
	put_disk(disk);
	vfree(contents);
}

module_init(test_disk_init);
module_exit(test_disk_exit);

MODULE_DESCRIPTION("A disk in memory that counts what reaches it, for tests");
MODULE_LICENSE("GPL");
