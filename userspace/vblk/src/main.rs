// SPDX-License-Identifier: GPL-2.0

//! The command `vblk`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vblk::cli::main(std::env::args_os()).code().into()
}
