// SPDX-License-Identifier: GPL-2.0

//! Loading the module while the kernel runs out of memory.

use crate::{
    device::{self, Device},
    fail_nth::{FailNth, MOST},
    kmod,
    oracle::klog::{self, KernelLog},
    prelude::*,
    sys::system,
};
use std::{
    env,
    error::Error,
    fs::{self, File},
    path::Path,
};

pub const TESTS: &[Test] = tests!["harness":
    loading_survives_each_failure(60),
];

/// Traces of a module that is loaded.
const TRACES: [&str; 3] = [
    "/sys/module/vhost_blk_rs",
    "/sys/class/misc/vhost-blk-rs",
    device::PATH,
];

/// The module's file in memory, so that loading it reads from no disk.
fn copy() -> Result<File, Box<dyn Error>> {
    const PATH: &str = "/tmp/vblk-harness.ko";
    fs::copy(env::var_os("MODULE").ok_or("MODULE")?, PATH)?;
    let file = File::open(PATH)?;
    fs::remove_file(PATH)?;
    Ok(file)
}

/// Place of a failure.
enum Place {
    /// In the module.
    Module,
    /// In the kernel's own loader.
    Loader,
    /// None: nothing failed, or nothing was told about it.
    Unknown,
}

/// Returns the place of the failure that the log tells of.
fn place(log: &[String]) -> Place {
    let parts = klog::parts(log).into_iter();
    let mut caused = parts.filter_map(|(caused, part)| caused.then_some(part));
    match caused.next() {
        Some(part) if part.iter().any(|line| line.contains("[vhost_blk_rs]")) => Place::Module,
        Some(_) => Place::Loader,
        None => Place::Unknown,
    }
}

/// Loads the module with the `nth` thing failing, or none for 0, and tells whether that worked. If
/// so, the module can be used and unloaded. If not, nothing of it is left.
fn load(file: &File, faults: &FailNth, nth: u32) -> Result<bool, Box<dyn Error>> {
    faults.arm(nth)?;
    let result = system::load_module(file, c"");
    let failed = faults.disarm()?;
    match result {
        Ok(()) => {
            kmod::await_node()?;
            Device::open()?.set_owner()?;
            kmod::unload()?;
        }
        Err(Errno::ENOMEM) if failed && nth > 0 => {}
        Err(error) => return Err(error.into()),
    }
    match TRACES.into_iter().find(|trace| Path::new(trace).exists()) {
        Some(left) => Err(format!("left over: {left}").into()),
        None => Ok(result.is_ok()),
    }
}

/// Returns the number of things that could fail while the module is loaded, or few less.
fn count(file: &File, faults: &FailNth) -> Result<u32, Box<dyn Error>> {
    faults.arm(MOST)?;
    let result = system::load_module(file, c"");
    let left = faults.left()?.ok_or("too many")?;
    result?;
    kmod::await_node()?;
    kmod::unload()?;
    Ok(MOST - left)
}

/// Failures of the loader in a row that say that the module's part is over. One does not: how
/// often an allocation takes a new page, which can fail too, is different each time, so that the
/// same number is not always the same place.
const LOADER_ONLY: u32 = 8;

/// The module's part comes last but for some clearing up, so it is gone through from the end. The
/// loader's own, most of it, is not looked at: it warns where it runs out of memory.
fn loading_survives_each_failure(context: &Context) -> Outcome {
    context.needs_debug_kernel()?;
    let file = copy()?;
    let faults = FailNth::of_this_thread()?.told()?;
    kmod::unload()?;
    let [mut refused, mut unimportant, mut in_a_row] = [0, 0, 0];
    for nth in (1..=count(&file, &faults)?).rev() {
        let mut log = KernelLog::from_now()?;
        let loaded = load(&file, &faults, nth).map_err(|error| format!("fault {nth}: {error}"))?;
        match place(&log.take()?) {
            Place::Module => {
                in_a_row = 0;
                *if loaded {
                    &mut unimportant
                } else {
                    &mut refused
                } += 1;
            }
            Place::Loader => in_a_row += 1,
            Place::Unknown => {}
        }
        if refused > 0 && in_a_row >= LOADER_ONLY {
            break;
        }
        let again = load(&file, &faults, 0);
        assert!(again.map_err(|error| format!("after fault {nth}: {error}"))?);
    }
    kmod::load()?;
    assert!(refused > 5, "{refused} refused, {unimportant} not");
    Ok(())
}
