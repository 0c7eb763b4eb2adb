// SPDX-License-Identifier: GPL-2.0

//! Programs that an administrator uses.

use crate::sys::Errno;
use std::process::Command;

/// Returns the output of a program, without the end of the line. What it complains about goes to
/// standard error.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, Errno> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        eprint!("{program}: {}", String::from_utf8_lossy(&output.stderr));
        return Err(Errno::EIO);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim_end().to_string())
}
