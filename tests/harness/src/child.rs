// SPDX-License-Identifier: GPL-2.0

//! Parts of tests that need a process of their own: one to be killed, to fork, to become another
//! user. They run as `vblk-harness child ROLE …` and have a single thread.

use crate::{
    context::{Outcome, Pinning},
    vm,
};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, ExitCode, Stdio},
};

/// Tells a child that guest memory is pinned ahead.
const PINNED: &str = "VBLK_MEMORY_PINNED";

/// Tells a child that workers look at empty rings.
const POLLED: &str = "VBLK_POLLED";

/// A task that a child can be given.
pub struct Role {
    /// The name on the command line.
    pub name: &'static str,
    /// Does it, with the other arguments.
    pub run: fn(&[&str]) -> Outcome,
}

/// Plays a role, as the child's `main`.
pub fn main(role: &Role, arguments: &[&str]) -> ExitCode {
    match std::env::var(PINNED).as_deref() {
        Ok("ahead") => vm::use_memory(Pinning::Ahead),
        Ok("mapped") => vm::use_memory(Pinning::Mapped),
        _ => (),
    }
    vm::use_polling(std::env::var_os(POLLED).is_some());
    match (role.run)(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A command that starts a child; what it prints to stderr is told if it fails.
pub fn command(role: &Role, arguments: &[&str]) -> Result<Command, std::io::Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child").arg(role.name).args(arguments);
    match vm::pinning() {
        Pinning::PerRequest => command.env_remove(PINNED),
        Pinning::Ahead => command.env(PINNED, "ahead"),
        Pinning::Mapped => command.env(PINNED, "mapped"),
    };
    match vm::is_polled() {
        true => command.env(POLLED, "1"),
        false => command.env_remove(POLLED),
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// Runs a child to its end, which must be a good one.
pub fn finish(mut command: Command) -> Outcome {
    let output = command.stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("child: {}: {words}", output.status).into());
    }
    Ok(())
}

/// Starts a child and waits until it calls [`tell_ready`].
pub fn until_ready(mut command: Command) -> Result<Child, Box<dyn std::error::Error>> {
    let mut child = command.spawn()?;
    let out = child.stdout.as_mut().ok_or("child without stdout")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line != "ready\n" {
        child.kill()?;
        return Err(format!("child: {} instead of being ready", child.wait()?).into());
    }
    Ok(child)
}

/// Tells the parent that the child is where it should be.
pub fn tell_ready() -> Result<(), std::io::Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(b"ready\n")?;
    out.flush()
}

/// Waits until the parent closes the child's stdin, or kills it.
pub fn wait_for_parent() -> Result<(), std::io::Error> {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).map(drop)
}
