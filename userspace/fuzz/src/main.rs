// SPDX-License-Identifier: GPL-2.0

//! `vblk-device-fuzz-seeds DIR`: writes the inputs to begin with to `DIR/device/NAME`.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let directory = env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let target = Path::new(&directory).join("device");
    fs::create_dir_all(&target)?;
    for seed in vblk_device_fuzz::seeds::all() {
        fs::write(target.join(seed.name), seed.bytes)?;
    }
    Ok(())
}
