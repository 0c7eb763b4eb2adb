// SPDX-License-Identifier: GPL-2.0

//! The value of `--disk`.

use super::UsageError;
use crate::{
    backend::Kind,
    devices::virtio::block::Virtqueues,
    disk::Options, //
};
use std::path::PathBuf;
use vblk_core::{
    queue::MAX_QUEUE_SIZE,
    request::ID_BYTES, //
};

/// Queues that the kernel module has.
const MAX_QUEUES: u16 = 256;
/// A request takes three descriptors.
const MIN_QUEUE_SIZE: u16 = 4;
const DEFAULT_QUEUE_SIZE: u16 = 256;
const KNOWN: &str =
    "unknown; known are path, backend, packed, readonly, queue-size, queues, serial";

/// What a disk is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Where it is.
    pub path: PathBuf,
    /// Who serves it.
    pub backend: Kind,
    /// How it is opened.
    pub options: Options,
    /// Which queues it has.
    pub queues: Virtqueues,
}

impl DiskSpec {
    /// What names the disk in messages.
    pub fn label(&self) -> String {
        format!("--disk path={}", self.path.display())
    }

    /// Reads `path=…,backend=…[,packed=on|off][,readonly][,queue-size=…][,queues=…][,serial=…]`, in
    /// any order. A comma in a value is written twice.
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
                ("readonly", Some(_)) => return refuse("takes no value"),
                ("path" | "backend" | "serial" | "queues" | "queue-size" | "packed", _) => {
                    return refuse("needs a value")
                }
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
        Ok(Self {
            path,
            backend: backend.unwrap_or(Kind::Vhost),
            options: Options {
                read_only: read_only.unwrap_or(false),
                serial,
            },
            queues: Virtqueues {
                count: queues.unwrap_or(1),
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
            }
        );
    }

    #[test]
    fn parts_come_in_any_order() {
        let text =
            "serial=abc,queues=4,readonly,packed=on,backend=io-uring,queue-size=1024,path=a=b,,c";
        assert_eq!(
            DiskSpec::parse(text).unwrap(),
            DiskSpec {
                path: "a=b,c".into(),
                backend: Kind::IoUring,
                options: Options {
                    read_only: true,
                    serial: Some("abc".into()),
                },
                queues: Virtqueues {
                    count: 4,
                    size: 1024,
                    packed: true,
                },
            }
        );
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, line) in [
            ("", "--disk : unknown; known are path, backend, packed, readonly, queue-size, queues, serial"),
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
            ("path=a,cache=none", "--disk cache=none: unknown; known are path, backend, packed, readonly, queue-size, queues, serial"),
        ] {
            let error = DiskSpec::parse(text).expect_err(text);
            assert_eq!(error.to_string(), line);
        }
    }
}
