// SPDX-License-Identifier: GPL-2.0

//! The command line.
//!
//! Whatever is wrong with it gets one line that names the option and the cause, and exit status 2.

mod disk_spec;
mod info;
mod limits;
mod ready;
mod run;
mod serve;
mod size;
mod status;
mod stdio;
mod usage_error;
mod vdpa;

pub use disk_spec::DiskSpec;
pub use info::InfoOptions;
pub use run::RunOptions;
pub use serve::ServeOptions;
pub use size::parse_size;
pub use status::Status;
pub use usage_error::UsageError;
pub use vdpa::VdpaCommand;

use clap::{
    error::{ContextKind, ContextValue, ErrorKind},
    CommandFactory, Parser, Subcommand,
};
use clap_complete::Shell;
use std::ffi::OsString;
use stdio::{answer, tell};

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
    /// Exit status: 0 when the guest powers off, restarts or halts, or Ctrl-A x was typed; 1 when
    /// it panics or crashes, or a back-end fails; 2 when an option, or a limit of the host, does
    /// not allow the guest to start; 128 and its number for a signal.
    Run(RunOptions),
    /// Serves a disk to a VMM that speaks vhost-user (QEMU, libvirt, Firecracker, ...).
    ///
    /// With the module, no request passes through this process. It serves one VMM after the other,
    /// until a signal ends it. docs/vmm.md shows how each is used. Exit status: 0 after SIGTERM,
    /// SIGINT or SIGHUP, and when the VMM at a connected socket of --fd has gone; 1 when a back-end
    /// fails; 2 when an option, or what it refers to, is wrong.
    Serve(ServeOptions),
    /// Tells what the kernel module offers, or why it is absent.
    ///
    /// Exit status: 0 when the module is there, 1 when it is not.
    Info(InfoOptions),
    /// Makes disks for other VMMs (QEMU, Cloud Hypervisor, ...) and for the host, by vDPA.
    ///
    /// docs/vmm.md shows how each is used. Exit status: 0, or 2 when it can't be done.
    Vdpa {
        #[command(subcommand)]
        command: VdpaCommand,
    },
    /// Prints a script that completes the words of this command in a shell.
    ///
    /// For bash: source <(vblk completions bash)
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs the command, and says on standard error what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Status {
    let result = match Cli::try_parse_from(arguments) {
        Ok(cli) => match cli.command {
            Command::Run(options) => run::run(&options),
            Command::Serve(options) => serve::serve(&options),
            Command::Info(options) => info::info(&options),
            Command::Vdpa { command } => vdpa::vdpa(&command),
            Command::Completions { shell } => completions(shell),
        },
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            answer(&e.to_string())
        }
        Err(e) => Err(one_line(&e)),
    };
    result.unwrap_or_else(|line| {
        tell(&line);
        Status::Usage
    })
}

fn completions(shell: Shell) -> Result<Status, String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vblk", &mut script);
    answer(&String::from_utf8_lossy(&script))
}

/// Returns in one line what clap says in a paragraph.
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
        ErrorKind::InvalidValue if !context(ContextKind::ValidValue).is_empty() => format!(
            "{}: unknown; known are {}",
            context(ContextKind::InvalidValue),
            context(ContextKind::ValidValue)
        ),
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
