// SPDX-License-Identifier: GPL-2.0

//! The same random requests, good and bad, through the kernel module and through the launcher's
//! io_uring back-end, on two disks that are alike: disks, guest memory, status bytes, used
//! entries and counters must stay alike.

mod features;
mod layout;
mod open;
mod page_cache;
mod priority;
mod recipe;
mod side;

use crate::{
    context::{Context, Outcome, Test},
    disk::Disk,
    rng::Rng,
};
use features::{common, on_split_rings};
use open::left_open;
use recipe::{Recipe, Recipes};
use side::Side;
use std::error::Error;
use vblk::backend::{Features, Kind};
use vblk_core::features::bit;

#[rustfmt::skip]
pub const TESTS: &[Test] = &[
    Test { name: "differential/reads_and_writes", limit: 90, run: reads_and_writes },
    Test { name: "differential/reads_and_writes_without_optional_features", limit: 90, run: plain },
    Test { name: "differential/requests_that_fail", limit: 90, run: failing },
    Test { name: "differential/random_descriptors", limit: 90, run: random_descriptors },
    Test { name: "differential/random_descriptors_without_indirect", limit: 90, run: no_indirect },
    Test { name: "differential/page_cache_of_the_host", limit: 30, run: page_cache::page_cache },
    Test { name: "differential/priorities", limit: 30, run: priority::priorities },
];

/// Compares on packed rings, without descriptors that have no meaning.
#[rustfmt::skip]
pub const ON_PACKED_RINGS: &[Test] = &[
    Test { name: "differential/reads_and_writes", limit: 90, run: packed_reads_and_writes },
    Test { name: "differential/requests_that_fail", limit: 90, run: packed_failing },
];

/// The part of the disks that is used, from its beginning.
const WINDOW: usize = 4 << 20;

/// The two back-ends.
struct Pair {
    disks: [Disk; 2],
    sides: [Side; 2],
    indirect: bool,
}

impl Pair {
    fn new(rng: &mut Rng, features: Features) -> Result<Self, Box<dyn Error>> {
        let disks = [Disk::ram(), Disk::second_ram()];
        let content = rng.bytes(WINDOW);
        for disk in &disks {
            disk.write(0, &content)?;
        }
        let [a, b] = &disks;
        let sides = [
            Side::new(Kind::Vhost, a.path(), features)?,
            Side::new(Kind::IoUring, b.path(), features)?,
        ];
        Ok(Self {
            disks,
            sides,
            indirect: features.has(bit::RING_INDIRECT_DESC),
        })
    }

    /// Performs `recipes` with both, all at once, and compares the outcome.
    fn perform(&mut self, what: &str, recipes: &[Recipe]) -> Outcome {
        let answers = [0, 1].map(|side| self.sides[side].perform(recipes));
        let [a, b] = answers;
        let (a, b) = (a?, b?);
        for (recipe, (a, b)) in recipes.iter().zip(a.lens.iter().zip(&b.lens)) {
            assert_eq!(
                a, b,
                "{what}: used lengths of module and io-uring, for {recipe:?}"
            );
        }
        let memory = a.memory.iter().zip(&b.memory);
        for (recipe, ((a, b), len)) in recipes.iter().zip(memory.zip(&a.lens)) {
            // Looked into only if need be: it takes a guest of its own.
            let mut open = None;
            for at in (0..a.len()).filter(|at| a[*at] != b[*at]) {
                let addr = recipe.area.start.0 + at as u64;
                let may = *len == Some(0)
                    && open
                        .get_or_insert_with(|| left_open(recipe, self.indirect))
                        .iter()
                        .any(|range| range.contains(&addr));
                assert!(
                    may,
                    "{what}: memory at {addr:#x}: {:#x} by module, {:#x} by io-uring, for {recipe:?}",
                    a[at], b[at],
                );
            }
        }
        Ok(())
    }

    /// Compares what is left at the end.
    fn finish(mut self) -> Outcome {
        let [a, b] = &mut self.sides;
        assert_eq!(
            a.counters()?,
            b.counters()?,
            "counters of module and io-uring"
        );
        a.stop()?;
        b.stop()?;
        let [a, b] = &self.disks;
        let (a, b) = (a.read(0, WINDOW)?, b.read(0, WINDOW)?);
        let differs = (0..WINDOW).find(|at| a[*at] != b[*at]);
        assert_eq!(differs, None, "the first byte in which the disks differ");
        Ok(())
    }
}

fn compare(
    context: &Context,
    features: Features,
    count: u64,
    mut batch: impl FnMut(&mut Recipes) -> Vec<Recipe>,
) -> Outcome {
    let mut rng = context.rng();
    let mut pair = Pair::new(&mut rng, features)?;
    let mut recipes = Recipes::new(rng, WINDOW as u64, pair.indirect);
    for round in 0..context.times(count) {
        pair.perform(&format!("round {round}"), &batch(&mut recipes))?;
    }
    pair.finish()
}

fn packed_reads_and_writes(context: &Context) -> Outcome {
    compare(context, common(), 200, Recipes::good_batch)
}

fn packed_failing(context: &Context) -> Outcome {
    compare(context, common(), 400, Recipes::failing_batch)
}

fn reads_and_writes(context: &Context) -> Outcome {
    compare(context, on_split_rings(), 200, Recipes::good_batch)
}

fn plain(context: &Context) -> Outcome {
    // Without FLUSH writes must be durable, too.
    let features = Features(1 << bit::VERSION_1);
    compare(context, features, 200, Recipes::good_batch)
}

fn failing(context: &Context) -> Outcome {
    compare(context, on_split_rings(), 400, Recipes::failing_batch)
}

fn random_descriptors(context: &Context) -> Outcome {
    compare(context, on_split_rings(), 4000, |recipes| {
        vec![recipes.soup()]
    })
}

fn no_indirect(context: &Context) -> Outcome {
    let features = Features(on_split_rings().0 & !(1 << bit::RING_INDIRECT_DESC));
    compare(context, features, 2000, |recipes| vec![recipes.soup()])
}
