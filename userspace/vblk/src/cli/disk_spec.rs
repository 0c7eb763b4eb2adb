// SPDX-License-Identifier: GPL-2.0

//! The value of `--disk`.

use super::UsageError;
use crate::{
    backend::{Kind, Tuning, Workers},
    devices::virtio::block::Virtqueues,
    disk::Options,
};
use std::path::PathBuf;
use vblk_core::{queue::MAX_QUEUE_SIZE, request::ID_BYTES};

/// Queues that the kernel module has.
const MAX_QUEUES: u16 = 256;
/// A request takes three descriptors.
const MIN_QUEUE_SIZE: u16 = 4;
const DEFAULT_QUEUE_SIZE: u16 = 256;
const KNOWN: &str =
    "unknown; known are path, backend, block-size, memory-pinned, packed, poll-us, \
                     readonly, queue-size, queues, serial, workers";
/// Longest polling of a ring, in microseconds: it is meant to be shorter than a sleep.
pub(super) const MAX_POLL_US: u32 = 1_000_000;
/// Smallest and largest block size of a file: Linux as a guest takes up to a page.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=4096;

/// A disk as the user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its path.
    pub path: PathBuf,
    /// The back-end that serves it.
    pub backend: Kind,
    /// How it is opened.
    pub options: Options,
    /// Which queues it has.
    pub queues: Virtqueues,
    /// How the module serves it.
    pub tuning: Tuning,
}

impl DiskSpec {
    /// Returns its name in messages.
    pub fn label(&self) -> String {
        format!("--disk path={}", self.path.display())
    }

    /// Reads `path=…` and other parts, see [`KNOWN`], in any order. A comma in a value is written
    /// twice.
    ///
    /// # Errors
    ///
    /// Names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, UsageError> {
        let mut path = None;
        let mut backend = None;
        let mut read_only = None;
        let mut serial = None;
        let mut queues = None;
        let mut queue_size = None;
        let mut packed = None;
        let mut block_size = None;
        let mut memory_pinned = None;
        let mut workers = None;
        let mut poll_us = None;
        for part in parts(text) {
            let refuse = |cause: &str| Err(UsageError::new(format!("--disk {part}"), cause));
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (part.as_str(), None),
            };
            let given_twice = match (key, value) {
                ("path", Some(value)) if !value.is_empty() => {
                    path.replace(PathBuf::from(value)).is_some()
                }
                ("backend", Some(value)) => match value.parse::<Kind>() {
                    Ok(kind) => backend.replace(kind).is_some(),
                    Err(_) => return refuse("no such back-end: vhost or io-uring"),
                },
                ("block-size", Some(value)) => match value.parse::<u32>() {
                    Ok(size) if BLOCK_SIZES.contains(&size) && size.is_power_of_two() => {
                        block_size.replace(size).is_some()
                    }
                    _ => return refuse("not a power of two from 512 to 4096"),
                },
                ("memory-pinned", None) => memory_pinned.replace(true).is_some(),
                ("workers", Some("per-queue")) => workers.replace(Workers::PerQueue).is_some(),
                ("workers", Some(value)) => match value.parse() {
                    Ok(count @ 1..=MAX_QUEUES) => workers.replace(Workers::Count(count)).is_some(),
                    _ => return refuse("neither per-queue nor a number from 1 to 256"),
                },
                ("poll-us", Some(value)) => match value.parse() {
                    Ok(us @ 0..=MAX_POLL_US) => poll_us.replace(us).is_some(),
                    _ => return refuse("not a number from 0 to 1000000"),
                },
                ("readonly", None) => read_only.replace(true).is_some(),
                ("serial", Some(value)) if value.len() > ID_BYTES => {
                    return refuse("longer than 20 bytes")
                }
                ("serial", Some(value)) => serial.replace(value.to_owned()).is_some(),
                ("queues", Some(value)) => match value.parse() {
                    Ok(count @ 1..=MAX_QUEUES) => queues.replace(count).is_some(),
                    _ => return refuse("not a number from 1 to 256"),
                },
                ("queue-size", Some(value)) => match value.parse::<u16>() {
                    Ok(size @ MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE) if size.is_power_of_two() => {
                        queue_size.replace(size).is_some()
                    }
                    _ => return refuse("not a power of two from 4 to 32768"),
                },
                ("packed", Some("on")) => packed.replace(true).is_some(),
                ("packed", Some("off")) => packed.replace(false).is_some(),
                ("packed", Some(_)) => return refuse("neither on nor off"),
                ("readonly" | "memory-pinned", Some(_)) => return refuse("takes no value"),
                (
                    "path" | "backend" | "block-size" | "serial" | "queues" | "queue-size"
                    | "packed" | "poll-us" | "workers",
                    _,
                ) => return refuse("needs a value"),
                _ => return refuse(KNOWN),
            };
            if given_twice {
                return refuse("given more than once");
            }
        }
        let Some(path) = path else {
            return Err(UsageError::new(
                format!("--disk {text}"),
                "path= is missing",
            ));
        };
        let backend = backend.unwrap_or(Kind::Vhost);
        let queues = queues.unwrap_or(1);
        let of_module = [
            ("memory-pinned", memory_pinned.is_some()),
            ("workers", workers.is_some()),
            ("poll-us", poll_us.is_some()),
        ];
        if let (Kind::IoUring, Some((option, _))) =
            (backend, of_module.into_iter().find(|(_, given)| *given))
        {
            return Err(UsageError::new(
                format!("--disk {option}"),
                "needs backend=vhost: a disk of io-uring has one thread, which pins no memory and does not poll",
            ));
        }
        let workers = workers.unwrap_or(Workers::Count(1)).for_queues(queues);
        Ok(Self {
            path,
            backend,
            options: Options {
                read_only: read_only.unwrap_or(false),
                serial,
                block_size,
            },
            tuning: Tuning {
                memory_pinned: memory_pinned.unwrap_or(false),
                workers: Workers::Count(workers),
                poll_us: poll_us.unwrap_or(0),
            },
            queues: Virtqueues {
                count: queues,
                size: queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
                packed: packed.unwrap_or(false),
            },
        })
    }
}

/// Cuts at commas, except at double ones, which stand for one.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if next != ',' || rest.next_if_eq(&',').is_some() {
            if let Some(part) = parts.last_mut() {
                part.push(next);
            }
        } else {
            parts.push(String::new());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_path_has_a_default() {
        assert_eq!(
            DiskSpec::parse("path=/dev/vda").unwrap(),
            DiskSpec {
                path: "/dev/vda".into(),
                backend: Kind::Vhost,
                options: Options::default(),
                queues: Virtqueues {
                    count: 1,
                    size: 256,
                    packed: false,
                },
                tuning: Tuning::default(),
            }
        );
    }

    #[test]
    fn parts_come_in_any_order() {
        let text = "serial=abc,queues=4,readonly,packed=on,backend=io-uring,queue-size=1024,\
             block-size=4096,path=a=b,,c";
        assert_eq!(
            DiskSpec::parse(text).unwrap(),
            DiskSpec {
                path: "a=b,c".into(),
                backend: Kind::IoUring,
                options: Options {
                    read_only: true,
                    serial: Some("abc".into()),
                    block_size: Some(4096),
                },
                queues: Virtqueues {
                    count: 4,
                    size: 1024,
                    packed: true,
                },
                tuning: Tuning::default(),
            }
        );
    }

    #[test]
    fn the_module_is_told_how_to_serve_a_disk() {
        let tuning = |text: &str| DiskSpec::parse(&format!("path=a,{text}")).unwrap().tuning;
        for (text, memory_pinned, workers, poll_us) in [
            ("queues=4,workers=3", false, 3, 0),
            ("queues=4,workers=per-queue", false, 4, 0),
            ("workers=8,memory-pinned", true, 1, 0),
            ("poll-us=50", false, 1, 50),
        ] {
            let expected = Tuning {
                memory_pinned,
                workers: Workers::Count(workers),
                poll_us,
            };
            assert_eq!(tuning(text), expected, "{text}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, line) in [
            ("", "--disk : unknown; known are path, backend, block-size, memory-pinned, packed, poll-us, readonly, queue-size, queues, serial, workers"),
            ("backend=vhost", "--disk backend=vhost: path= is missing"),
            ("path=", "--disk path=: needs a value"),
            ("path", "--disk path: needs a value"),
            ("path=a,backend=aio", "--disk backend=aio: no such back-end: vhost or io-uring"),
            ("path=a,readonly=on", "--disk readonly=on: takes no value"),
            ("path=a,packed", "--disk packed: needs a value"),
            ("path=a,packed=yes", "--disk packed=yes: neither on nor off"),
            ("path=a,queues=0", "--disk queues=0: not a number from 1 to 256"),
            ("path=a,queues=257", "--disk queues=257: not a number from 1 to 256"),
            ("path=a,queues=x", "--disk queues=x: not a number from 1 to 256"),
            ("path=a,queue-size=100", "--disk queue-size=100: not a power of two from 4 to 32768"),
            ("path=a,queue-size=2", "--disk queue-size=2: not a power of two from 4 to 32768"),
            ("path=a,queue-size=65536", "--disk queue-size=65536: not a power of two from 4 to 32768"),
            ("path=a,path=b", "--disk path=b: given more than once"),
            ("path=a,readonly,readonly", "--disk readonly: given more than once"),
            ("path=a,serial=123456789012345678901", "--disk serial=123456789012345678901: longer than 20 bytes"),
            ("path=a,block-size=513", "--disk block-size=513: not a power of two from 512 to 4096"),
            ("path=a,block-size=256", "--disk block-size=256: not a power of two from 512 to 4096"),
            ("path=a,block-size=8192", "--disk block-size=8192: not a power of two from 512 to 4096"),
            ("path=a,workers=0", "--disk workers=0: neither per-queue nor a number from 1 to 256"),
            ("path=a,workers=all", "--disk workers=all: neither per-queue nor a number from 1 to 256"),
            ("path=a,workers", "--disk workers: needs a value"),
            ("path=a,poll-us=1000001", "--disk poll-us=1000001: not a number from 0 to 1000000"),
            ("path=a,poll-us", "--disk poll-us: needs a value"),
            ("path=a,poll-us=5,backend=io-uring", "--disk poll-us: needs backend=vhost: a disk of io-uring has one thread, which pins no memory and does not poll"),
            ("path=a,memory-pinned=on", "--disk memory-pinned=on: takes no value"),
            ("path=a,backend=io-uring,workers=2", "--disk workers: needs backend=vhost: a disk of io-uring has one thread, which pins no memory and does not poll"),
            ("path=a,memory-pinned,backend=io-uring", "--disk memory-pinned: needs backend=vhost: a disk of io-uring has one thread, which pins no memory and does not poll"),
            ("path=a,cache=none", "--disk cache=none: unknown; known are path, backend, block-size, memory-pinned, packed, poll-us, readonly, queue-size, queues, serial, workers"),
        ] {
            let error = DiskSpec::parse(text).expect_err(text);
            assert_eq!(error.to_string(), line);
        }
    }
}
