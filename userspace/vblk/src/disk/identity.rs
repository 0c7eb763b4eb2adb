// SPDX-License-Identifier: GPL-2.0

//! An identity of a disk: the serial number that a guest sees unless it is given one.
//!
//! Two disks of a guest must not have the same, or it may take them for two ways to one disk. The
//! same disk has the same one whenever it is used, by either back-end. It is a hash, since names
//! and numbers of the host are not the guest's business.

use super::kind::DiskKind;
use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use vblk_core::request::ID_BYTES;

/// Attributes in sysfs that identify a disk, the best one first.
const OWN: [&str; 5] = ["wwid", "device/wwid", "dm/uuid", "md/uuid", "serial"];

/// Returns the identity of the disk behind `metadata`.
pub fn of(kind: DiskKind, metadata: &Metadata) -> [u8; ID_BYTES] {
    let hash = match kind {
        DiskKind::File => file(metadata),
        DiskKind::Block => {
            let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
            device(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
        }
    };
    let text = format!("vblk{:016x}", hash.0);
    let mut id = [0; ID_BYTES];
    id.iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
    id
}

fn file(metadata: &Metadata) -> Hash {
    Hash::new("file")
        .with(&metadata.dev().to_le_bytes())
        .with(&metadata.ino().to_le_bytes())
}

/// Returns the identity of a block device with this directory in sysfs.
fn device(directory: &Path) -> Hash {
    // Without the link, as a partition lies in the directory of its disk.
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    match (read(&directory.join("partition")), directory.parent()) {
        (Some(number), Some(disk)) => device(disk).with(b"partition").with(number.as_bytes()),
        _ => whole_disk(&directory),
    }
}

fn whole_disk(directory: &Path) -> Hash {
    let own = OWN.iter().find_map(|name| {
        let text = read(&directory.join(name))?;
        Some(Hash::new(name).with(text.as_bytes()))
    });
    own.or_else(|| loop_device(directory)).unwrap_or_else(|| {
        let name = directory.file_name().unwrap_or_default();
        Hash::new("name").with(name.as_encoded_bytes())
    })
}

/// A loop device over a whole file is as good as the file.
fn loop_device(directory: &Path) -> Option<Hash> {
    let path = read(&directory.join("loop/backing_file"))?;
    let backing = match fs::metadata(&path) {
        Ok(metadata) => file(&metadata),
        Err(_) => Hash::new("backing file").with(path.as_bytes()),
    };
    let part = ["offset", "sizelimit"].map(|name| read(&directory.join("loop").join(name)));
    Some(match part {
        [offset, limit]
            if offset.as_deref().unwrap_or("0") == "0"
                && limit.as_deref().unwrap_or("0") == "0" =>
        {
            backing
        }
        [offset, limit] => backing
            .with(offset.unwrap_or_default().as_bytes())
            .with(limit.unwrap_or_default().as_bytes()),
    })
}

/// Returns what is in a file, unless that is nothing.
fn read(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The hash FNV-1a of 64 bits. Parts are kept apart by their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u64);

impl Hash {
    fn new(kind: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).with(kind.as_bytes())
    }

    fn with(self, part: &[u8]) -> Self {
        const PRIME: u64 = 0x100_0000_01b3;
        let len = (part.len() as u64).to_le_bytes();
        let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        Self(len.iter().chain(part).fold(self.0, add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(directory: &Path, name: &str, text: &str) {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn files_differ_and_a_file_is_itself_under_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        for name in ["one", "two"] {
            fs::write(path(name), "same").unwrap();
        }
        fs::hard_link(path("one"), path("also one")).unwrap();
        let id = |name| of(DiskKind::File, &fs::metadata(path(name)).unwrap());
        assert_ne!(id("one"), id("two"));
        assert_eq!(id("one"), id("also one"));
        assert!(id("one").starts_with(b"vblk"));
        assert!(id("one").iter().all(u8::is_ascii_alphanumeric));
    }

    #[test]
    fn a_disk_keeps_its_identity_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let (sda, sdb) = (dir.path().join("sda"), dir.path().join("sdb"));
        put(&sda, "device/wwid", "naa.5000c500a1b2c3d4\n");
        let first = device(&sda);
        fs::rename(&sda, &sdb).unwrap();
        assert_eq!(device(&sdb), first);
        put(&sda, "device/wwid", "naa.5000c500a1b2c3d5\n");
        assert_ne!(device(&sda), first);
        // Without one, there is the name.
        put(&dir.path().join("ram0"), "size", "8\n");
        put(&dir.path().join("ram1"), "size", "8\n");
        assert_ne!(
            device(&dir.path().join("ram0")),
            device(&dir.path().join("ram1"))
        );
    }

    #[test]
    fn partitions_of_a_disk_differ() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("nvme0n1");
        put(&disk, "wwid", "eui.0025385b21404321\n");
        for number in ["1", "2"] {
            let name = format!("nvme0n1p{number}/partition");
            put(&disk, &name, &format!("{number}\n"));
        }
        let ids = [
            device(&disk),
            device(&disk.join("nvme0n1p1")),
            device(&disk.join("nvme0n1p2")),
        ];
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }

    #[test]
    fn a_loop_device_over_a_whole_file_is_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::write(&image, "x").unwrap();
        let of_file = file(&fs::metadata(&image).unwrap());
        let loop0 = dir.path().join("loop0");
        put(
            &loop0,
            "loop/backing_file",
            &format!("{}\n", image.display()),
        );
        put(&loop0, "loop/offset", "0\n");
        put(&loop0, "loop/sizelimit", "0\n");
        assert_eq!(device(&loop0), of_file);
        put(&loop0, "loop/offset", "512\n");
        assert_ne!(device(&loop0), of_file);
    }
}
