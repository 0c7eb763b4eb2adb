// SPDX-License-Identifier: GPL-2.0

//! Tests, and the context that each of them gets.

use crate::rng::Rng;
use std::{error::Error, fmt, path::Path, time::Duration};
use vblk_core::ring::Format;

/// Result of a test. Expectations panic; what merely must work uses `?`.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Bound of every wait for the device or a disk: far more than either ever needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The error of a test that this kernel can't perform: neither passed nor failed.
#[derive(Debug)]
pub struct NotApplicable(pub &'static str);

impl fmt::Display for NotApplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for NotApplicable {}

/// A test.
pub struct Test {
    /// The first part of its name: `harness`, `vdpa`, `bridge` or `differential`.
    pub layer: &'static str,
    /// The name of its function, which is the second part.
    pub function: &'static str,
    /// Seconds that it may take on the release kernel.
    pub limit: u64,
    /// Performs it.
    pub run: fn(&Context) -> Outcome,
}

impl Test {
    /// Returns the part of the name behind the layer. A function can't begin with a digit, so one
    /// whose test does has an underscore there.
    pub fn behaviour(&self) -> &'static str {
        self.function.trim_start_matches('_')
    }
}

/// Lists tests of one layer: their functions, each with the seconds that it may take on the
/// release kernel.
///
/// ```text
/// pub const TESTS: &[Test] = tests!["harness":
///     late_answers(20),
///     late_answers_at_detach(20),
/// ];
/// ```
macro_rules! tests {
    [$layer:literal: $($function:ident($limit:literal)),+ $(,)?] => {
        &[$($crate::context::Test {
            layer: $layer,
            function: stringify!($function),
            limit: $limit,
            run: $function,
        }),+]
    };
}

pub(crate) use tests;

/// The time at which the device pins guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// The pages of a request while it is in flight.
    PerRequest,
    /// The whole memory, at the time the table is set.
    Ahead,
    /// What is mapped through vhost-vdpa, by which the device is served then.
    Mapped,
}

/// A test on rings of one format, with guest memory that is pinned in one way.
#[derive(Clone, Copy)]
pub struct Case {
    /// The test.
    pub test: &'static Test,
    /// Format of its rings unless it says otherwise.
    pub format: Format,
    /// Pinning of its memory unless it says otherwise.
    pub pinning: Pinning,
    /// Set when workers look at empty rings.
    pub is_polled: bool,
}

impl Case {
    /// Returns the test's name, with `.packed` behind it for packed rings, `.pinned` for memory that
    /// is pinned ahead and `.polled` for rings that workers look at; in the layer `vdpa` for memory that is mapped.
    pub fn name(&self) -> String {
        let rings = match self.format {
            Format::Split => "",
            Format::Packed => ".packed",
        };
        let memory = match self.pinning {
            Pinning::PerRequest | Pinning::Mapped => "",
            Pinning::Ahead => ".pinned",
        };
        let workers = if self.is_polled { ".polled" } else { "" };
        let layer = match self.pinning {
            Pinning::Mapped => "vdpa",
            Pinning::PerRequest | Pinning::Ahead => self.test.layer,
        };
        let behaviour = self.test.behaviour();
        format!("{layer}/{behaviour}{rings}{memory}{workers}")
    }
}

/// State that tests share.
pub struct Context {
    /// Seed of the random numbers.
    pub seed: u64,
    /// Set on the debug kernel.
    debug: bool,
    /// Factor by which this kernel is slower than the release kernel.
    pub slowness: u64,
    /// Set when counts are those that prove most, however long that takes.
    pub long: bool,
}

/// The seed unless VBLK_SEED names another.
const SEED: u64 = 0x7662_6c6b;

/// KASAN and lockdep cost that much.
const DEBUG_SLOWNESS: u64 = 8;

/// Factor by which tests may take longer with VBLK_LONG=1, and by which more often
/// [`Context::rounds`] repeats.
const LONG: u64 = 20;

impl Context {
    /// Reads the environment.
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

    /// Returns whether this is the debug kernel, on which all takes its time.
    pub fn is_debug(&self) -> bool {
        self.debug
    }

    /// The random numbers of one test.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// Returns the number of repetitions for a test that needs `count` on the release kernel.
    pub fn times(&self, count: u64) -> u64 {
        (count / self.slowness).max(1)
    }

    /// Returns [`Self::times`] of `long` with VBLK_LONG=1, and of `count` without.
    pub fn times_or(&self, count: u64, long: u64) -> u64 {
        self.times(if self.long { long } else { count })
    }

    /// Returns the number of rounds of a test that shows more the longer it runs: `count`, and more
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

    /// Ends a test that needs what only some kernels have: a file that exists there.
    ///
    /// # Errors
    ///
    /// [`NotApplicable`] where the file does not exist.
    pub fn needs(&self, file: &str, reason: &'static str) -> Result<(), NotApplicable> {
        match Path::new(file).exists() {
            true => Ok(()),
            false => Err(NotApplicable(reason)),
        }
    }

    /// The time limit of a test here.
    pub fn limit(&self, test: &Test) -> Duration {
        let patience = if self.long { LONG } else { 1 };
        Duration::from_secs(test.limit * self.slowness * patience)
    }
}
