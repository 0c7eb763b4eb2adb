// SPDX-License-Identifier: GPL-2.0

//! `vblk-fuzz-seeds DIR`: writes the inputs to begin with to `DIR/TARGET/NAME`.

use std::{
    env,
    fs,
    io,
    path::Path, //
};

fn main() -> io::Result<()> {
    let directory = env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    for seed in vblk_fuzz::seeds::all() {
        let target = Path::new(&directory).join(seed.target);
        fs::create_dir_all(&target)?;
        fs::write(target.join(seed.name), seed.bytes)?;
    }
    Ok(())
}
