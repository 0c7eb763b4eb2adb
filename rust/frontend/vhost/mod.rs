// SPDX-License-Identifier: GPL-2.0

//! `/dev/vhost-blk-rs`: the ioctls of C vhost, and some of its own. docs/uapi.md describes them.
//!
//! Meanings and errnos are those of C vhost, or stricter. The whole number of a command is matched:
//! what differs only in its size or direction is another command.

mod command;
mod execute;
mod open_file;
mod user_argument;
mod vdpa_command;

pub(crate) use open_file::OpenFile;
