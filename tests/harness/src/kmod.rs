// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module under test.

use crate::{
    device,
    oracle::facts,
    sys::{system, Errno},
};
use std::{
    env,
    ffi::CStr,
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

/// The module's name.
pub const NAME: &str = "vhost_blk_rs";

/// Returns the number of its users; `None` if it is not loaded.
pub fn users() -> Option<i64> {
    facts::module_users(NAME)
}

/// Loads the file that the environment variable MODULE names, and waits for the device node.
pub fn load() -> Result<(), Errno> {
    load_with(c"")
}

/// Does the same as [`load`], with module parameters.
pub fn load_with(parameters: &CStr) -> Result<(), Errno> {
    let path = env::var_os("MODULE").ok_or(Errno::ENOENT)?;
    system::load_module(File::open(path)?, parameters)?;
    await_node()
}

/// Keeps the module loaded with parameters until it is dropped.
pub struct Reloaded(());

impl Reloaded {
    /// Unloads the module and loads it with these parameters.
    pub fn with(parameters: &CStr) -> Result<Self, Errno> {
        unload()?;
        let reloaded = Self(());
        load_with(parameters)?;
        Ok(reloaded)
    }
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        if let Err(error) = unload().and_then(|()| load()) {
            eprintln!("vblk-harness: loading the module as it was: {error}");
        }
    }
}

/// Waits for the device node of a module that was just loaded.
pub fn await_node() -> Result<(), Errno> {
    let deadline = Instant::now() + Duration::from_secs(5);
    // devtmpfs makes the node in a thread of its own.
    while !Path::new(device::PATH).exists() {
        if Instant::now() > deadline {
            return Err(Errno::ENODEV);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Unloads it, or tells why that is refused; never waits.
pub fn unload() -> Result<(), Errno> {
    system::unload_module(c"vhost_blk_rs")
}
