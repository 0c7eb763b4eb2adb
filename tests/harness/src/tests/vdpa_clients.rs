// SPDX-License-Identifier: GPL-2.0

//! Clients of vhost-vdpa that others wrote.

use crate::{
    context::{Context, Outcome, Test, PATIENCE},
    disk::{Disk, Mode, TestDisk, DISCARDED},
    sys::{blkio::answers, process},
    vhost_vdpa::VdpaDevice,
};
use blkio::{Blkio, Blkioq, MemoryRegion, ReqFlags};
use std::{error::Error, time::Instant};
use vblk_core::{
    features::Features,
    uapi::{VdpaAdd, VDPA_PACKED},
};
use virtio_driver::{VhostVdpa, VirtioBlkQueue, VirtioBlkTransport};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "vdpa/the_crate_virtio_driver_by_eventfd", limit: 40, run: by_eventfd },
    Test { name: "vdpa/the_crate_virtio_driver_polling", limit: 40, run: polling },
    Test { name: "vdpa/the_crate_blkio_by_eventfd", limit: 40, run: blkio_by_eventfd },
    Test { name: "vdpa/the_crate_blkio_polling", limit: 40, run: blkio_polling },
];

const BLOCK: usize = 4096;
const BLOCKS: usize = 64;
const QUEUES: usize = 2;

/// Makes a device on a disk that is empty where the clients use it. Returns its node too.
fn device_on(disk: &Disk, flags: u32) -> Result<(VdpaDevice, String), Box<dyn Error>> {
    disk.write(0, &vec![0; BLOCK * BLOCKS])?;
    process::limit_locked_memory(u64::MAX)?;
    let add = VdpaAdd {
        flags,
        queues: QUEUES as u32,
        queue_size: 256,
        ..VdpaAdd::default()
    };
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add)?;
    let node = device.node()?.to_str().ok_or("path")?.to_owned();
    Ok((device, node))
}

/// Performs so many requests, which `submit` queues, on a queue, and waits for their answers.
fn perform(
    transport: &VirtioBlkTransport,
    (index, queue): (usize, &mut VirtioBlkQueue<'_, usize>),
    is_polled: bool,
    count: usize,
    mut submit: impl FnMut(&mut VirtioBlkQueue<'_, usize>, usize) -> std::io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    queue.set_used_notif_enabled(!is_polled);
    for slot in 0..count {
        submit(queue, slot)?;
    }
    if queue.avail_notif_needed() {
        transport.get_submission_notifier(index).notify()?;
    }
    let answered = transport.get_completion_fd(index);
    let end = Instant::now() + PATIENCE;
    let mut done = 0;
    while done < count {
        assert!(Instant::now() < end, "{done} of {count} answers");
        if !is_polled {
            // Reading takes the count; a blocking read ends with the test's limit.
            answered.read()?;
        }
        for completion in queue.completions() {
            assert_eq!(completion.ret, 0, "request {}", completion.context);
            done += 1;
        }
    }
    Ok(())
}

fn client(context: &Context, is_polled: bool, flags: u32) -> Outcome {
    let disk = Disk::ram();
    let bytes = BLOCK * BLOCKS;
    let (_device, node) = device_on(&disk, flags)?;
    let features = Features::MAPPED.0;
    let mut vdpa = VhostVdpa::with_path(&node, features).map_err(|e| format!("{e:?}"))?;
    let mut room = vec![0; bytes + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let data = &mut room[start..start + bytes];
    {
        let transport: &mut VirtioBlkTransport = &mut vdpa;
        transport.map_mem_region(data.as_ptr().addr(), bytes, -1, 0)?;
        let mut queues = VirtioBlkQueue::<usize>::setup_queues(transport, QUEUES, 256)?;
        let mut rng = context.rng();
        for round in 0..context.times(20) as usize {
            let content = rng.bytes(bytes);
            let index = round % QUEUES;
            data.copy_from_slice(&content);
            let pieces: Vec<&[u8]> = data.chunks(BLOCK).collect();
            perform(
                transport,
                (index, &mut queues[index]),
                is_polled,
                BLOCKS,
                |queue, slot| queue.write((slot * BLOCK) as u64, pieces[slot], slot),
            )?;
            perform(
                transport,
                (index, &mut queues[index]),
                is_polled,
                1,
                |queue, slot| queue.flush(slot),
            )?;
            data.fill(0);
            let mut pieces: Vec<&mut [u8]> = data.chunks_mut(BLOCK).collect();
            perform(
                transport,
                (index, &mut queues[index]),
                is_polled,
                BLOCKS,
                |queue, slot| queue.read((slot * BLOCK) as u64, pieces[slot], slot),
            )?;
            assert!(*data == content, "round {round}");
            assert!(
                disk.read(0, bytes)? == content,
                "round {round}, on the disk itself"
            );
        }
    }
    drop(vdpa);
    Ok(())
}

fn by_eventfd(context: &Context) -> Outcome {
    client(context, false, 0)?;
    client(context, false, VDPA_PACKED)
}

fn polling(context: &Context) -> Outcome {
    client(context, true, 0)?;
    client(context, true, VDPA_PACKED)
}

/// Waits for so many answers, all of them good.
fn all_good(queue: &mut Blkioq, count: usize) -> Outcome {
    let mut answers = answers(queue, count, PATIENCE)?;
    answers.sort_unstable();
    let good: Vec<_> = (0..count).map(|slot| (slot, 0)).collect();
    assert_eq!(answers, good);
    Ok(())
}

/// As `blkio` of QEMU, fio and others uses a device. It declines packed rings.
fn library(context: &Context, is_polled: bool, flags: u32) -> Outcome {
    let bytes = BLOCK * BLOCKS;
    let disk = Disk::counting(&TestDisk {
        max_discard_sectors: 64,
        discard_granularity: 4096,
        write_cache: true,
        ..TestDisk::DEFAULT
    })?;
    let (_device, node) = device_on(&disk, flags)?;
    let mut client = Blkio::new("virtio-blk-vhost-vdpa")?;
    client.set_str("path", &node)?;
    client.connect()?;
    assert_eq!(client.get_u64("capacity")?, disk.bytes()?);
    assert_eq!(client.get_i32("max-queues")?, QUEUES as i32);
    let (eventfd, polled) = if is_polled { (0, QUEUES) } else { (QUEUES, 0) };
    client.set_i32("num-queues", eventfd as i32)?;
    client.set_i32("num-poll-queues", polled as i32)?;
    let started = client.start()?;
    let mut queues: Vec<_> = started
        .queues
        .into_iter()
        .chain(started.poll_queues)
        .collect();
    let mut room = vec![0; bytes + BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let data = &mut room[start..start + bytes];
    let region = MemoryRegion {
        addr: data.as_ptr().addr(),
        iova: 0,
        len: bytes,
        fd: -1,
        fd_offset: 0,
        flags: 0,
    };
    client.map_mem_region(&region)?;
    let none = ReqFlags::empty();
    let mut rng = context.rng();
    for round in 0..context.times(20) as usize {
        let mut content = rng.bytes(bytes);
        let queue = &mut queues[round % QUEUES];
        queue.set_completion_fd_enabled(!is_polled);
        data.copy_from_slice(&content);
        for (slot, block) in data.chunks(BLOCK).enumerate() {
            queue.write((slot * BLOCK) as u64, block.as_ptr(), BLOCK, slot, none);
        }
        all_good(queue, BLOCKS)?;
        queue.flush(0, none);
        all_good(queue, 1)?;
        let (first, second) = (rng.index(0..8) * BLOCK, (rng.index(0..8) + 8) * BLOCK);
        queue.discard(first as u64, BLOCK as u64, 0, none);
        queue.write_zeroes(second as u64, BLOCK as u64, 1, none);
        all_good(queue, 2)?;
        content[first..][..BLOCK].fill(DISCARDED);
        content[second..][..BLOCK].fill(0);
        data.fill(0);
        for (slot, block) in data.chunks_mut(BLOCK).enumerate() {
            queue.read((slot * BLOCK) as u64, block.as_mut_ptr(), BLOCK, slot, none);
        }
        all_good(queue, BLOCKS)?;
        assert!(*data == content, "round {round}");
        assert!(
            disk.read(0, bytes)? == content,
            "round {round}, on the disk itself"
        );
    }
    drop(queues);
    client.unmap_mem_region(&region);
    Ok(())
}

fn blkio_by_eventfd(context: &Context) -> Outcome {
    library(context, false, 0)?;
    library(context, false, VDPA_PACKED)
}

fn blkio_polling(context: &Context) -> Outcome {
    library(context, true, 0)?;
    library(context, true, VDPA_PACKED)
}
