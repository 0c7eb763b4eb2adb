// SPDX-License-Identifier: GPL-2.0

//! Random descriptors, a great many: each chain comes back exactly as a plainly written model says,
//! the queue serves the next well-formed request, and nothing is written where nothing should be.

mod model;
mod recipe;

use crate::{memory::MIDDLE, prelude::*};
use model::{Device, Verdict};
use recipe::{Cook, AREAS};
use std::collections::HashMap;
use vblk_core::{
    features::bit,
    testing::{reference, Driver},
};

pub const TESTS: &[Test] = tests!["harness":
    random_chains_are_answered_as_the_model_says(90),
];

/// The part of the disk that sensible requests are about.
const WINDOW: u64 = 4 << 20;

/// Content of memory that may not be written.
const CANARY: u8 = 0xA7;

fn random_chains_are_answered_as_the_model_says(context: &Context) -> Outcome {
    let disk = Disk::ram();
    let canary = vec![CANARY; WINDOW as usize];
    disk.write(WINDOW, &canary)?;
    let setup = Setup::default().without(bit::BLK_SECURE_ERASE);
    let mut vm = Vm::new(&setup)?;
    assert!(vm.free().0 + 4096 <= recipe::START);
    let middle = (MIDDLE.guest + MIDDLE.bytes as u64 - recipe::END) as usize;
    vm.memory.fill(GuestAddr(recipe::END), middle, CANARY);
    vm.attach(&disk.open(Mode::ReadWrite)?)?;
    let device = Device {
        sectors: disk.bytes()? / 512,
        discards: disk.queue_limit("discard_max_bytes")? > 0,
    };
    let mut cook = Cook::new(context.rng(), WINDOW);
    let mut met: HashMap<&str, u64> = HashMap::new();
    let count = context.times_or(120_000, 1_000_000);
    let mut changed = vec![false; canary.len() / 512];
    let mut done = 0;
    while done < count {
        let verdicts = batch(&mut vm, &mut cook, &device)?;
        let first = WINDOW / 512;
        let changes = verdicts.iter().flat_map(|verdict| &verdict.changes);
        for change in changes {
            for sector in change.start.max(first)..change.end.min(first * 2) {
                changed[(sector - first) as usize] = true;
            }
        }
        done += verdicts.len() as u64;
        verdicts
            .iter()
            .for_each(|verdict| *met.entry(verdict.kind).or_insert(0) += 1);
        if done / AREAS % 16 == 0 {
            vm.memory.check_guards();
        }
    }
    vm.memory.check_guards();
    let bytes = vm.memory.read_vec(GuestAddr(recipe::END), middle);
    let touched = bytes.iter().position(|byte| *byte != CANARY);
    assert_eq!(touched, None, "behind the areas");
    let kept = disk.read(WINDOW, canary.len())?;
    for (sector, bytes) in kept.chunks(512).enumerate() {
        let kept = changed[sector] || bytes.iter().all(|byte| *byte == CANARY);
        assert!(kept, "sector {sector} behind the window");
    }
    // A packed ring has no entry that could name no descriptor.
    let packed = usize::from(matches!(vm.queues[0].driver, Driver::Packed(_)));
    for kind in &model::KINDS[packed..] {
        let times = met.get(kind).copied().unwrap_or(0);
        assert!(times * 4000 >= count, "{kind}: {times} times, of {met:?}");
    }
    Ok(())
}

/// Performs one chain for each area, and a well-formed request behind them.
fn batch(
    vm: &mut Vm,
    cook: &mut Cook,
    device: &Device,
) -> Result<Vec<Verdict>, Box<dyn std::error::Error>> {
    let before = vm.device.stats()?;
    let memory = vm.memory.clone();
    let reference = reference::Memory {
        memory: &*memory,
        blocks: &memory.blocks(),
    };
    let mut verdicts = Vec::new();
    for area in 0..AREAS {
        let verdict = cook.post(area, &mut vm.queues[0], |expected| {
            device.judge(&reference, expected)
        });
        verdicts.push(verdict);
    }
    let header = vm.free();
    let good = BlockRequest::read(0, header, GuestAddr(header.0 + 16));
    let good = good.data(GuestAddr(header.0 + 512), 512);
    good.prepare(&*memory);
    let queue = vm.queue();
    let last = queue.driver.add(&good.buffers()).expect("room");
    queue.notify();
    let wanted = verdicts.iter().filter(|verdict| verdict.id.is_some());
    let mut used = HashMap::new();
    for _ in 0..=wanted.count() {
        let entry = queue.next_used();
        let again = used.insert(entry.id, entry.len);
        assert_eq!(again, None, "{entry:?} twice");
    }
    cook.forget(queue);
    assert_eq!(used.get(&last.into()), Some(&513), "the good request");
    assert_eq!(memory.read_u8(good.status), OK);
    for verdict in &verdicts {
        let len = verdict.id.map(|id| used.get(&id.into()).copied());
        let len = len.unwrap_or(Some(0));
        assert_eq!(len, Some(verdict.len), "used length of {verdict:?}");
        if let Some((at, status)) = verdict.status {
            assert_eq!(memory.read_u8(at), status, "status of {verdict:?}");
        }
    }
    let after = vm.device.stats()?;
    let malformed = verdicts.iter().filter(|verdict| verdict.malformed);
    assert_eq!(
        after.malformed - before.malformed,
        malformed.count() as u64,
        "{verdicts:?}"
    );
    let refused = verdicts.iter().filter(|verdict| verdict.refused_by_disk);
    assert_eq!(
        after.io_errors - before.io_errors,
        refused.count() as u64,
        "{verdicts:?}"
    );
    Ok(verdicts)
}
