// SPDX-License-Identifier: GPL-2.0

//! Clients of vhost-vdpa that others wrote.

use crate::{
    context::{Context, Outcome, Test, PATIENCE},
    disk::{Disk, Mode},
    sys::process,
    vhost_vdpa::VdpaDevice,
};
use std::{error::Error, time::Instant};
use vblk_core::{features::Features, uapi::VdpaAdd};
use virtio_driver::{VhostVdpa, VirtioBlkQueue, VirtioBlkTransport};

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "vdpa/the_crate_virtio_driver_by_eventfd", limit: 40, run: by_eventfd },
    Test { name: "vdpa/the_crate_virtio_driver_polling", limit: 40, run: polling },
];

const BLOCK: usize = 4096;
const BLOCKS: usize = 64;
const QUEUES: usize = 2;

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

fn client(context: &Context, is_polled: bool) -> Outcome {
    let disk = Disk::ram();
    let bytes = BLOCK * BLOCKS;
    disk.write(0, &vec![0; bytes])?;
    process::limit_locked_memory(u64::MAX)?;
    let add = VdpaAdd {
        queues: QUEUES as u32,
        queue_size: 256,
        ..VdpaAdd::default()
    };
    let device = VdpaDevice::new(&disk.open(Mode::ReadWrite)?, add)?;
    let node = device.node()?;
    let path = node.to_str().ok_or("path")?;
    let features = Features::MAPPED.0;
    let mut vdpa = VhostVdpa::with_path(path, features).map_err(|e| format!("{e:?}"))?;
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
    client(context, false)
}

fn polling(context: &Context) -> Outcome {
    client(context, true)
}
