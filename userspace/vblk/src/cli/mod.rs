// SPDX-License-Identifier: GPL-2.0

//! The command line.
//!
//! Whatever is wrong with it gets one line that names the option and the cause, and exit status 2.

mod disk_spec;
mod info;
mod run;
mod size;

pub use disk_spec::DiskSpec;
pub use run::RunOptions;
pub use size::parse_size;

use clap::{
    error::{
        ContextKind,
        ContextValue,
        ErrorKind, //
    },
    Parser,
    Subcommand, //
};
use std::{
    ffi::OsString,
    fmt, //
};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The guest ended as it wanted to, or the question was answered.
    Success,
    /// The guest or a back-end failed.
    Failure,
    /// The command line, or what it refers to, is wrong.
    Usage,
    /// A signal ended it.
    Signal(u8),
}

impl Status {
    /// As the shell sees it.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Signal(number) => number.saturating_add(128),
        }
    }
}

/// Something is wrong with an option.
#[derive(Debug)]
pub struct UsageError {
    /// The option, with its value.
    pub option: String,
    /// What is wrong.
    pub cause: String,
}

impl UsageError {
    /// `cause` is wrong with `option`.
    pub fn new(option: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self {
            option: option.into(),
            cause: cause.to_string(),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.cause)
    }
}

/// Boots guests whose disks are served by the kernel module vhost_blk_rs.
#[derive(Parser)]
#[command(name = "vblk", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots a Linux kernel, with its console on this terminal (Ctrl-A x quits).
    ///
    /// Exit status: 0 when the guest powers off or restarts, 1 when it panics or a back-end fails,
    /// 2 when an option is wrong.
    Run(RunOptions),
    /// Tells what the kernel module offers, or why it is absent.
    Info,
}

/// Runs the command, and says on standard error what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Status {
    let result = match Cli::try_parse_from(arguments) {
        Ok(cli) => match cli.command {
            Command::Run(options) => run::run(&options),
            Command::Info => info::info(),
        },
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = e.print();
            Ok(Status::Success)
        }
        Err(e) => Err(one_line(&e)),
    };
    result.unwrap_or_else(|line| {
        eprintln!("vblk: {line}");
        Status::Usage
    })
}

/// What clap says in a paragraph.
fn one_line(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    // Without the name of its value.
    let option = argument
        .split_once(" <")
        .map_or(argument.as_str(), |(option, _)| option);
    match error.kind() {
        ErrorKind::UnknownArgument => format!("{option}: unknown option"),
        ErrorKind::MissingRequiredArgument => format!("{option}: missing"),
        ErrorKind::InvalidSubcommand => {
            format!(
                "{}: unknown command",
                context(ContextKind::InvalidSubcommand)
            )
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "no command given: see vblk --help".into()
        }
        ErrorKind::ArgumentConflict => format!("{option}: given more than once"),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            format!("{option}: needs a value")
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}
