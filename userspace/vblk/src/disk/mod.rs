// SPDX-License-Identifier: GPL-2.0

//! A disk: a block device or a file of the host, opened and measured.

mod queue_limits;

use crate::{
    errno,
    sys::blockdev, //
};
use queue_limits::QueueLimits;
use std::{
    fs::{
        File,
        OpenOptions, //
    },
    io,
    os::unix::fs::{
        FileTypeExt,
        MetadataExt,
        OpenOptionsExt, //
    },
    path::{
        Path,
        PathBuf, //
    },
};
use vblk_core::{
    addr::SECTOR_SIZE,
    config::Limits,
    range::RangeOps,
    request::{
        self,
        ID_BYTES, //
    },
};

/// Why a disk can't be opened. The text names the cause; whoever prints it names the path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host said so.
    #[error("{}", errno::text(.0))]
    Host(#[from] io::Error),
    /// The path is a directory.
    #[error("Is a directory (wanted: a block device, or a file for backend=io-uring)")]
    Directory,
    /// The path is neither a block device nor a file.
    #[error("neither a block device nor a regular file")]
    NotADisk,
    /// Somebody else has it: a mounted filesystem, another launcher, a volume manager.
    #[error("in use (mounted, part of a volume, or given to another guest)")]
    InUse,
    /// Writing was asked for, and is impossible.
    #[error("read-only; add readonly")]
    ReadOnly,
    /// Less than a sector long, or no whole number of blocks.
    #[error("{bytes} bytes are not a whole number of {block_size}-byte blocks")]
    Size {
        /// Its length.
        bytes: u64,
        /// Its block size.
        block_size: u32,
    },
    /// The serial number is too long.
    #[error("serial {0:?} is longer than 20 bytes")]
    Serial(String),
}

/// What a disk is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Block,
    /// A regular file.
    File,
}

/// How to open a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
    /// What GET_ID answers, at most 20 bytes; the back-end's choice when `None`.
    pub serial: Option<String>,
}

/// An open disk. It can't be opened as a disk again until it is dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: File,
    kind: Kind,
    bytes: u64,
    block_size: u32,
    physical_block_size: u32,
    memory_align: u32,
    read_only: bool,
    direct: bool,
    limits: QueueLimits,
    serial: Option<[u8; ID_BYTES]>,
    /// What GET_ID answers when no serial number was given.
    default_serial: [u8; ID_BYTES],
}

impl Disk {
    /// Opens the block device or file at `path`, for nobody else as long as it is open.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        let serial = options.serial.as_deref().map(pad_serial).transpose()?;
        // Looked at before it is opened: opening a FIFO would wait, some devices act on it.
        let kind = kind_of(&std::fs::metadata(path)?)?;
        let (file, direct) = open(path, kind, options.read_only)?;
        let metadata = file.metadata()?;
        if kind_of(&metadata)? != kind {
            return Err(Error::NotADisk);
        }
        let mut disk = Self {
            path: path.to_owned(),
            kind,
            bytes: metadata.len(),
            block_size: SECTOR_SIZE as u32,
            physical_block_size: metadata.blksize().clamp(SECTOR_SIZE, 65536) as u32,
            memory_align: 1,
            read_only: options.read_only,
            direct,
            limits: queue_limits(kind, &metadata),
            serial,
            default_serial: default_serial(kind, &metadata),
            file,
        };
        disk.measure()?;
        Ok(disk)
    }

    fn measure(&mut self) -> Result<(), Error> {
        if self.kind == Kind::Block {
            self.bytes = blockdev::size(&self.file)?;
            self.block_size = blockdev::logical_block_size(&self.file)?;
            self.physical_block_size = blockdev::physical_block_size(&self.file)?;
            if !self.read_only && blockdev::is_read_only(&self.file)? {
                return Err(Error::ReadOnly);
            }
        }
        if self.direct {
            let told = blockdev::direct_align(&self.file);
            self.memory_align = told.map_or(self.block_size, |align| align.memory.max(1));
            if self.kind == Kind::File {
                // A page suits every filesystem when this one does not tell.
                self.block_size = told.map_or(4096, |align| align.offset.max(SECTOR_SIZE as u32));
            }
        }
        let block_size = self.block_size;
        if self.bytes == 0
            || !block_size.is_power_of_two()
            || self.bytes % u64::from(block_size) != 0
        {
            return Err(Error::Size {
                bytes: self.bytes,
                block_size,
            });
        }
        Ok(())
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Block device or file.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Length in bytes, when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length in virtio's sectors of 512 bytes, when it was opened.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_SIZE
    }

    /// Length now, in whole blocks counted as sectors of 512 bytes.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub fn sectors_now(&self) -> io::Result<u64> {
        let bytes = match self.kind {
            Kind::Block => blockdev::size(&self.file)?,
            Kind::File => self.file.metadata()?.len(),
        };
        Ok((bytes & !u64::from(self.block_size - 1)) / SECTOR_SIZE)
    }

    /// Unit of reads and writes in bytes, a power of two.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Unit that is written at best speed, in bytes.
    pub fn physical_block_size(&self) -> u32 {
        self.physical_block_size
    }

    /// What memory must be aligned to for direct I/O, in bytes.
    pub fn memory_align(&self) -> u32 {
        self.memory_align
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether I/O bypasses the host's page cache. Only filesystems that can't do that go through
    /// it.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// The serial number that was asked for, padded with zeroes.
    pub fn serial(&self) -> Option<&[u8; ID_BYTES]> {
        self.serial.as_ref()
    }

    /// What GET_ID answers: the serial number asked for, or `vhost-blk-<major>:<minor>` as the
    /// kernel module makes it.
    pub fn id(&self) -> &[u8; ID_BYTES] {
        self.serial.as_ref().unwrap_or(&self.default_serial)
    }

    /// What the configuration space tells of it. Secure erase is left out: only the module can
    /// find out whether a disk knows it.
    pub fn limits(&self) -> Limits {
        Limits {
            sectors: self.sectors(),
            block_size: self.block_size,
            physical_block_size: self.physical_block_size(),
            alignment_offset: self.limits.alignment_offset,
            io_min: self.limits.io_min,
            io_opt: self.limits.io_opt,
            max_segments: self.limits.max_segments,
            max_segment_size: self.limits.max_segment_size,
            read_only: self.read_only,
            discard_sectors: QueueLimits::in_sectors(self.limits.discard_bytes),
            discard_granularity: self.limits.discard_granularity,
            write_zeroes_sectors: QueueLimits::in_sectors(self.limits.write_zeroes_bytes),
            secure_erase_sectors: 0,
        }
    }

    /// What decides over a request of a driver that may use `range_ops`.
    pub fn rules(&self, range_ops: RangeOps) -> request::Disk {
        request::Disk {
            sectors: self.sectors(),
            block_size: self.block_size,
            read_only: self.read_only,
            range_ops,
        }
    }
}

fn kind_of(metadata: &std::fs::Metadata) -> Result<Kind, Error> {
    let file_type = metadata.file_type();
    if file_type.is_block_device() {
        Ok(Kind::Block)
    } else if file_type.is_file() {
        Ok(Kind::File)
    } else if file_type.is_dir() {
        Err(Error::Directory)
    } else {
        Err(Error::NotADisk)
    }
}

/// Opens and claims the file; also tells whether direct I/O is possible.
fn open(path: &Path, kind: Kind, read_only: bool) -> Result<(File, bool), Error> {
    // For a block device O_EXCL means: fail while anybody else claims it, and claim it.
    let claim = match kind {
        Kind::Block => libc::O_EXCL,
        Kind::File => 0,
    };
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | claim | flags)
            .open(path)
    };
    let (file, direct) = match open(libc::O_DIRECT) {
        Ok(file) => (file, true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (open(0).map_err(refusal)?, false),
        // Some drivers say that a device is read-only in these words.
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && is_read_only_device(path, kind) => {
            return Err(Error::ReadOnly)
        }
        Err(e) => return Err(refusal(e)),
    };
    if kind == Kind::File {
        blockdev::try_lock(&file, !read_only).map_err(refusal)?;
    }
    Ok((file, direct))
}

fn is_read_only_device(path: &Path, kind: Kind) -> bool {
    let read_only = |file: File| blockdev::is_read_only(&file).unwrap_or(false);
    kind == Kind::Block && File::open(path).is_ok_and(read_only)
}

fn refusal(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EWOULDBLOCK) => Error::InUse,
        Some(libc::EROFS) => Error::ReadOnly,
        _ => Error::Host(error),
    }
}

fn pad_serial(serial: &str) -> Result<[u8; ID_BYTES], Error> {
    let mut padded = [0; ID_BYTES];
    padded
        .get_mut(..serial.len())
        .ok_or_else(|| Error::Serial(serial.to_owned()))?
        .copy_from_slice(serial.as_bytes());
    Ok(padded)
}

/// Major and minor number of the disk, or of what a file lies on.
fn numbers(kind: Kind, metadata: &std::fs::Metadata) -> (u32, u32) {
    let device = match kind {
        Kind::Block => metadata.rdev(),
        Kind::File => metadata.dev(),
    };
    (libc::major(device), libc::minor(device))
}

fn queue_limits(kind: Kind, metadata: &std::fs::Metadata) -> QueueLimits {
    let (major, minor) = numbers(kind, metadata);
    match kind {
        Kind::Block => QueueLimits::of(major, minor),
        Kind::File => QueueLimits::of_a_file(),
    }
}

fn default_serial(kind: Kind, metadata: &std::fs::Metadata) -> [u8; ID_BYTES] {
    let (major, minor) = numbers(kind, metadata);
    let text = format!("vhost-blk-{major}:{minor}");
    let mut padded = [0; ID_BYTES];
    padded
        .iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
    padded
}
