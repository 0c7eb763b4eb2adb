// SPDX-License-Identifier: GPL-2.0

//! Two queues with a worker each against two queues with one worker, on two CPUs: by the wall clock,
//! within one run, in turns.

use super::load::BLOCK;
use crate::{
    disk::Disk,
    memory::MIDDLE,
    sys::tsc,
    vm::{Setup, Vm, OK},
};
use std::error::Error;
use vblk_core::{
    addr::GuestAddr,
    testing::{BlockRequest, DriverMemory},
};

/// Requests that each queue has when the clock starts.
const DEPTH: u64 = 64;
const QUEUES: u32 = 2;
/// Rounds of each side, in turns, and those before that are thrown away.
const ROUNDS: usize = 40;
const WARM_UP: usize = 4;

/// Prints the ratio of the times that one worker and two workers take for the same requests.
pub fn main() -> Result<(), Box<dyn Error>> {
    let mut one = Side::new(&Disk::ram(), 1)?;
    let mut two = Side::new(&Disk::second_ram(), QUEUES)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..WARM_UP + ROUNDS {
        for (side, times) in [&mut one, &mut two].into_iter().zip(&mut times) {
            let time = side.round()?;
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    let [one, two] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let percent = one * 100 / two.max(1);
    println!(
        "{{\"case\": \"ramdisk-read-4k-2-queues\", \"backend\": \"vhost-blk-rs\", \
         \"metric\": \"time with one worker, of that with two\", \"value\": {percent}, \
         \"unit\": \"percent\", \"runs\": {ROUNDS}, \"spread\": 0, \"retries\": 0}}"
    );
    Ok(())
}

/// A device whose queues have one or several workers.
struct Side {
    vm: Vm,
    requests: Vec<Vec<BlockRequest>>,
}

impl Side {
    fn new(disk: &Disk, workers: u32) -> Result<Self, Box<dyn Error>> {
        let setup = Setup {
            queues: QUEUES,
            ..Setup::default()
        };
        let vm = Vm::new(&setup)?;
        for queue in 1..workers {
            let worker = vm.device.new_worker()?;
            vm.device.attach_vring_worker(queue, worker)?;
        }
        vm.attach(&disk.open(crate::disk::Mode::ReadWrite)?)?;
        let free = vm.free().0;
        let request = |slot: u64| {
            let header = GuestAddr(free + slot * 32);
            let read = BlockRequest::read(slot * 8, header, GuestAddr(header.0 + 16));
            let data = GuestAddr(MIDDLE.guest + slot * BLOCK as u64);
            read.data(data, BLOCK as u32)
        };
        let of_queue = |queue: u64| (queue * DEPTH..(queue + 1) * DEPTH).map(request).collect();
        let requests = (0..u64::from(QUEUES)).map(of_queue).collect();
        Ok(Self { requests, vm })
    }

    /// Returns the time from the first kick until all requests of all queues are used.
    fn round(&mut self) -> Result<u64, Box<dyn Error>> {
        for (queue, requests) in self.vm.queues.iter_mut().zip(&self.requests) {
            for request in requests {
                request.prepare(&*self.vm.memory);
                queue
                    .driver
                    .add(&request.buffers())
                    .ok_or("room in the ring")?;
            }
        }
        let start = tsc::now();
        for queue in &mut self.vm.queues {
            queue.notify();
        }
        for queue in &mut self.vm.queues {
            for _ in 0..DEPTH {
                queue.next_used();
            }
        }
        let time = tsc::now() - start;
        for request in self.requests.iter().flatten() {
            if self.vm.memory.read_u8(request.status) != OK {
                return Err("a request failed".into());
            }
        }
        Ok(time)
    }
}
