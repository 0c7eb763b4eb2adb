// SPDX-License-Identifier: GPL-2.0

//! The two back-ends side by side, and what must be alike.

use super::{
    open::left_open,
    recipe::{Recipe, Recipes},
    side::Side,
};
use crate::{
    context::{Context, Outcome},
    disk::Disk,
    rng::Rng,
};
use std::error::Error;
use vblk::backend::{Features, Kind};
use vblk_core::features::bit;

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

/// Performs batches of recipes with both, and compares after each.
pub fn compare(
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
