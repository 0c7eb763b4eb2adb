// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module under test.

use crate::{
    device,
    oracle::facts,
    sys::{
        system,
        Errno, //
    },
};
use std::{
    env,
    fs::File,
    path::Path,
    time::{
        Duration,
        Instant, //
    },
};

/// Its name for the kernel.
pub const NAME: &str = "vhost_blk_rs";

/// How many use it; `None` when it is not loaded.
pub fn users() -> Option<i64> {
    facts::module_users(NAME)
}

/// Loads the file that the environment variable MODULE names, and waits for the device node.
pub fn load() -> Result<(), Errno> {
    let path = env::var_os("MODULE").ok_or(Errno::ENOENT)?;
    system::load_module(File::open(path)?, c"")?;
    await_node()
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
