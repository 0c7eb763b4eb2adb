// SPDX-License-Identifier: GPL-2.0

//! Answers on standard output, and lines on standard error, while no thread writes there.

use super::Status;
use crate::errno;
use std::io::{self, Write};

/// Writes a line to standard error. If that is not possible, there is no place to say so.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "vblk: {line}");
}

/// Writes `text` to standard output: what the user asked for.
pub fn answer(text: &str) -> Result<Status, String> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    Ok(match written.and_then(|()| stdout.flush()) {
        Ok(()) => Status::Success,
        // A reader that has seen enough, as `head` does.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Status::Success,
        Err(e) => {
            tell(&format!("standard output: {}", errno::text(&e)));
            Status::Failure
        }
    })
}
