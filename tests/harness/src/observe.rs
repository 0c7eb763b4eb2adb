// SPDX-License-Identifier: GPL-2.0

//! Runs a command before the oracle, for tests that are programs of their own: `scripts/test-guest`.

use crate::{kmod, oracle::Oracle, sys::Errno};
use std::{
    error::Error,
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, ExitStatus},
};

/// Status when the command succeeds and the oracle complains. Otherwise it is the command's own.
const COMPLAINTS: u8 = 120;

/// Status when the command can't be observed or started.
const FAILED: u8 = 125;

/// Arguments of the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Observation<'a> {
    /// File for the complaints, which go to standard error without.
    file: Option<&'a str>,
    /// The command and its arguments.
    command: &'a [&'a str],
}

impl<'a> Observation<'a> {
    /// Reads `[--complaints FILE] -- COMMAND [ARGUMENT…]`.
    pub fn parse(words: &'a [&'a str]) -> Option<Self> {
        let (file, command) = match words {
            ["--complaints", file, "--", command @ ..] => (Some(*file), command),
            ["--", command @ ..] => (None, command),
            _ => return None,
        };
        (!command.is_empty()).then_some(Self { file, command })
    }

    /// Runs the command, whose input and output are this process's, and tells the complaints.
    pub fn main(&self) -> ExitCode {
        let result = self.run().and_then(|(status, complaints)| {
            self.tell(&complaints)?;
            Ok(verdict(status, complaints.is_empty()))
        });
        ExitCode::from(result.unwrap_or_else(|error| {
            eprintln!("vblk-harness: observe: {error}");
            FAILED
        }))
    }

    /// Returns the command's status and the complaints after it.
    fn run(&self) -> Result<(ExitStatus, Vec<String>), Box<dyn Error>> {
        let mut oracle = Oracle::new().map_err(|error| format!("the kernel: {error}"))?;
        let mut command = Command::new(self.command[0]);
        let status = command.args(&self.command[1..]).status();
        let status = status.map_err(|error| format!("{}: {error}", self.command[0]))?;
        let mut complaints = oracle.complaints();
        if let Err(error) = reload() {
            complaints.push(format!(
                "the module does not unload and load again: {error}"
            ));
        }
        // What the module says of that.
        complaints.extend(oracle.alarms());
        Ok((status, complaints))
    }

    fn tell(&self, complaints: &[String]) -> Result<(), Box<dyn Error>> {
        let lines = complaints.iter().flat_map(|complaint| complaint.lines());
        let text: String = lines.map(|line| format!("oracle: {line}\n")).collect();
        match self.file {
            Some(file) => fs::write(file, text).map_err(|error| format!("{file}: {error}"))?,
            None => eprint!("{text}"),
        }
        Ok(())
    }
}

/// Unloads the module, which nothing uses any more, and loads it.
fn reload() -> Result<(), Errno> {
    kmod::unload().and_then(|()| kmod::load())
}

/// The exit status: that of a command that fails, as a shell tells it.
fn verdict(status: ExitStatus, is_content: bool) -> u8 {
    let ended = status.signal().map_or(0, |signal| 128 + signal);
    match status.code().unwrap_or(ended) {
        0 if is_content => 0,
        0 => COMPLAINTS,
        code => code as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_stands_behind_two_dashes() {
        let plain = Observation {
            file: None,
            command: &["true", "--complaints"],
        };
        assert_eq!(
            Observation::parse(&["--", "true", "--complaints"]),
            Some(plain)
        );
        let with_file = Observation {
            file: Some("told"),
            command: &["true"],
        };
        assert_eq!(
            Observation::parse(&["--complaints", "told", "--", "true"]),
            Some(with_file)
        );
        let wrong: [&[&str]; 4] = [&[], &["--"], &["true"], &["--complaints", "--", "true"]];
        for words in wrong {
            assert_eq!(Observation::parse(words), None);
        }
    }

    #[test]
    fn the_status_tells_a_failure_from_complaints() {
        let exited = |code| ExitStatus::from_raw(code << 8);
        assert_eq!(verdict(exited(0), true), 0);
        assert_eq!(verdict(exited(0), false), COMPLAINTS);
        assert_eq!(verdict(exited(3), true), 3);
        assert_eq!(verdict(exited(3), false), 3);
        assert_eq!(verdict(ExitStatus::from_raw(9), true), 137);
    }
}
