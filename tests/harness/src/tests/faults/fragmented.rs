// SPDX-License-Identifier: GPL-2.0

//! A host whose memory is fragmented: it has free pages, but none next to each other.

use crate::{
    fail_nth::LargePagesFail, fixtures::place::Place, oracle::klog::KernelLog, prelude::*,
};

pub const TESTS: &[Test] = tests!["harness":
    long_rings_on_a_fragmented_host(30),
];

/// The longest rings that there are: what the device keeps for each of their entries is no reason to
/// ask for many pages in a row.
fn long_rings_on_a_fragmented_host(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let setup = Setup {
        queues: 2,
        ..Setup::size(32768)
    };
    let disk = Disk::ram();
    let file = disk.open(Mode::ReadWrite)?;
    let mut vm = Vm::new(&setup)?;
    let mut log = KernelLog::from_now()?;
    let failing = LargePagesFail::for_this_thread()?;
    let attached = vm.attach(&file);
    drop(failing);
    attached?;
    let read = Place::of(&vm).read(0, 4096);
    for queue in &mut vm.queues {
        assert_eq!(queue.request(&read), Answer::new(OK, 4097));
    }
    let told = log.take()?;
    let failure = told
        .iter()
        .find(|line| line.contains("page allocation failure"));
    assert_eq!(failure, None, "in the log");
    Ok(())
}
