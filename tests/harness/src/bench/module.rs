// SPDX-License-Identifier: GPL-2.0

//! Requests through the module: from the kick to the return from the wait for the call.

use super::load::{sample, Direction, Driver, Load, BLOCK};
use crate::{
    context::Pinning,
    disk::Disk,
    memory::MIDDLE,
    oracle::{facts, WORKER},
    sys::{
        process::{self, Policy},
        tsc,
    },
    vm::{use_memory, use_polling, Setup, Vm, OK},
};
use std::error::Error;
use vblk_core::{
    addr::GuestAddr,
    testing::{BlockRequest, DriverMemory},
};

/// Measures requests whose pages are pinned one by one: instructions per request.
pub fn pinned_per_request(disk: &Disk, load: &Load) -> Result<u64, Box<dyn Error>> {
    use_memory(Pinning::PerRequest);
    measure(disk, load)
}

/// Measures requests in memory that was pinned ahead: instructions per request.
pub fn pinned_ahead(disk: &Disk, load: &Load) -> Result<u64, Box<dyn Error>> {
    use_memory(Pinning::Ahead);
    measure(disk, load)
}

/// Measures requests in memory that was pinned ahead, with a worker that looks at the empty ring:
/// instructions per request, those of looking in vain among them.
pub fn polling(disk: &Disk, load: &Load) -> Result<u64, Box<dyn Error>> {
    use_memory(Pinning::Ahead);
    use_polling(true);
    let measured = measure(disk, load);
    use_polling(false);
    measured
}

/// Returns the instructions per request.
///
/// A batch is put into the ring before the clock starts. Then the driver makes it visible, kicks
/// if the device wants that, and sleeps in a blocking read of the call eventfd until all of the
/// batch is in the used ring. It asks for interrupts as Linux does: at the next used entry.
fn measure(disk: &Disk, load: &Load) -> Result<u64, Box<dyn Error>> {
    let mut vm = Vm::with_disk(&Setup::default(), disk)?;
    match load.driver {
        // Neither preempts the other: the driver sleeps until the worker has nothing more to do.
        Driver::Asleep => {
            process::set_policy(0, Policy::Batch)?;
            for worker in facts::threads_named(WORKER) {
                process::set_policy(worker.pid, Policy::Batch)?;
            }
        }
        // The worker takes the CPU within the kick, and is done when the driver has it again. It is a
        // thread of this process, and began with its policy.
        Driver::HandsOver => {
            process::set_policy(0, Policy::Idle)?;
            for worker in facts::threads_named(WORKER) {
                process::set_policy(worker.pid, Policy::Batch)?;
            }
        }
        Driver::Apart => {
            process::run_on(0, 0)?;
            for worker in facts::threads_named(WORKER) {
                process::run_on(worker.pid, 1)?;
            }
        }
    }
    vm.queue().call.set_blocking(true)?;
    let free = vm.free().0;
    let request = |(slot, block): (usize, &u64)| {
        let header = GuestAddr(free + slot as u64 * 32);
        let status = GuestAddr(header.0 + 16);
        let sector = block * (BLOCK as u64 / 512);
        let request = match load.direction {
            Direction::Read => BlockRequest::read(sector, header, status),
            Direction::Write => BlockRequest::write(sector, header, status),
        };
        request.data(
            GuestAddr(MIDDLE.guest + (slot * BLOCK) as u64),
            BLOCK as u32,
        )
    };
    sample(load, |blocks| {
        let requests: Vec<_> = blocks.iter().enumerate().map(request).collect();
        for request in &requests {
            request.prepare(&*vm.memory);
            vm.queue()
                .driver
                .add(&request.buffers())
                .ok_or("room in the ring")?;
        }
        let queue = vm.queue();
        let goal = queue.driver.next_avail();
        queue.driver.enable_interrupt();

        let start = tsc::now();
        queue.notify();
        loop {
            queue.call.take()?;
            let seen = queue.driver.used_index();
            if seen == goal {
                break;
            }
            let skip = seen.wrapping_sub(queue.driver.next_used());
            if queue.driver.enable_interrupt_after(skip) {
                // More came meanwhile: a driver looks at it before it sleeps again.
                queue.call.signal()?;
            }
        }
        let time = tsc::now() - start;

        while queue.driver.poll_used().is_some() {}
        let done = |request: &BlockRequest| vm.memory.read_u8(request.status) == OK;
        if !requests.iter().all(done) {
            return Err("a request failed".into());
        }
        Ok(time)
    })
}
