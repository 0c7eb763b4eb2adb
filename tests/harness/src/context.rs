// SPDX-License-Identifier: GPL-2.0

//! What a test is, and what it gets.

use crate::rng::Rng;
use std::{
    error::Error,
    fmt,
    path::Path,
    time::Duration, //
};
use vblk_core::ring::Format;

/// Result of a test. Expectations panic; what merely must work uses `?`.
pub type Outcome = Result<(), Box<dyn Error>>;

/// The error of a test that this kernel can't perform: neither passed nor failed.
#[derive(Debug)]
pub struct NotApplicable(&'static str);

impl fmt::Display for NotApplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for NotApplicable {}

/// A test.
pub struct Test {
    /// Layer and behaviour: `harness/…`.
    pub name: &'static str,
    /// Seconds that it may take on the release kernel.
    pub limit: u64,
    /// Performs it.
    pub run: fn(&Context) -> Outcome,
}

/// A test on rings of one format.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it does.
    pub test: &'static Test,
    /// Which rings it has unless it says otherwise.
    pub format: Format,
}

impl Case {
    /// The test's name; `.packed` is behind it for packed rings.
    pub fn name(&self) -> String {
        let rings = match self.format {
            Format::Split => "",
            Format::Packed => ".packed",
        };
        format!("{}{rings}", self.test.name)
    }
}

/// What tests share.
pub struct Context {
    /// Where random numbers begin.
    pub seed: u64,
    /// Whether this is the debug kernel.
    debug: bool,
    /// How many times slower than the release kernel this one is.
    pub slowness: u64,
    /// Whether counts are those that prove most, however long that takes.
    pub long: bool,
}

/// The seed unless VBLK_SEED names another.
const SEED: u64 = 0x7662_6c6b;

/// KASAN and lockdep cost that much.
const DEBUG_SLOWNESS: u64 = 8;

/// So many times longer tests may take with VBLK_LONG=1, and so many times more often
/// [`Context::rounds`] repeats.
const LONG: u64 = 20;

impl Context {
    /// From the environment.
    pub fn new() -> Self {
        let seed = std::env::var("VBLK_SEED").ok();
        let debug = Path::new("/proc/lockdep_stats").exists();
        Self {
            debug,
            seed: seed.and_then(|seed| seed.parse().ok()).unwrap_or(SEED),
            slowness: if debug { DEBUG_SLOWNESS } else { 1 },
            long: std::env::var("VBLK_LONG").is_ok_and(|long| long == "1"),
        }
    }

    /// The random numbers of one test.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// How often to repeat what takes `count` times on the release kernel to show something.
    pub fn times(&self, count: u64) -> u64 {
        (count / self.slowness).max(1)
    }

    /// As [`Self::times`] has `long` with VBLK_LONG=1, and `count` without.
    pub fn times_or(&self, count: u64, long: u64) -> u64 {
        self.times(if self.long { long } else { count })
    }

    /// How often to repeat what shows more the longer it runs: `count` times, and more often
    /// with VBLK_LONG=1, whatever the kernel.
    pub fn rounds(&self, count: u64) -> u64 {
        if self.long {
            count * LONG
        } else {
            count
        }
    }

    /// Ends a test that needs a checker or a fault injection of the debug kernel.
    ///
    /// # Errors
    ///
    /// [`NotApplicable`] on the release kernel.
    pub fn needs_debug_kernel(&self) -> Result<(), NotApplicable> {
        match self.debug {
            true => Ok(()),
            false => Err(NotApplicable("only the debug kernel can do this")),
        }
    }

    /// The time limit of a test here.
    pub fn limit(&self, test: &Test) -> Duration {
        let patience = if self.long { LONG } else { 1 };
        Duration::from_secs(test.limit * self.slowness * patience)
    }
}
