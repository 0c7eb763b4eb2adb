// SPDX-License-Identifier: GPL-2.0

//! The interfaces that user space has.

pub(crate) mod vhost;
