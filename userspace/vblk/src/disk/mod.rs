// SPDX-License-Identifier: GPL-2.0

//! A disk: a block device or a file of the host, opened and measured.

mod identity;
mod kind;
mod queue_limits;

pub use kind::DiskKind;

use crate::{
    errno,
    sys::blockdev::{self, DirectAlign},
};
use queue_limits::QueueLimits;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use vblk_core::{addr::SECTOR_SIZE, config::Limits, disk, range::RangeOps, request::ID_BYTES};

/// An error of opening a disk. The text names the cause, and the caller adds the path.
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
    /// It is in use: by a mounted filesystem, another launcher, a volume manager, a vDPA device.
    #[error("in use (mounted, part of a volume, given to another guest, or of a vDPA device: vblk vdpa list)")]
    InUse,
    /// Writing was asked for, and is impossible.
    #[error("read-only; add readonly")]
    ReadOnly,
    /// Less than a sector long, or no whole number of blocks.
    #[error("{bytes} bytes are not a whole number of {block_size}-byte blocks{way_out}")]
    Size {
        /// Its length.
        bytes: u64,
        /// Its block size.
        block_size: u32,
        /// A remedy, with the words that lead to it.
        way_out: &'static str,
    },
    /// A block device has a block size of its own.
    #[error("block-size is for files; this block device has blocks of {0} bytes")]
    BlockSize(u32),
    /// The serial number is too long.
    #[error("serial {0:?} is longer than 20 bytes")]
    Serial(String),
}

/// How to open a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
    /// Answer to GET_ID, at most 20 bytes; an identity of the disk when `None`.
    pub serial: Option<String>,
    /// Unit of reads and writes of a file in bytes, a power of two; the smallest that it takes when
    /// `None`.
    pub block_size: Option<u32>,
}

/// Why I/O goes through the host's page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The file system has no direct I/O.
    FileSystem,
    /// Direct I/O on the file takes larger blocks than were asked for.
    SmallBlocks,
    /// It is a loop device that goes through the cache.
    Loop,
}

impl Cached {
    /// Returns what to tell the user.
    pub fn text(self) -> &'static str {
        match self {
            Self::FileSystem => "this file system has no direct I/O; its cache is used",
            Self::SmallBlocks => {
                "direct I/O on this file takes larger blocks; the host's cache is used"
            }
            Self::Loop => {
                "this loop device has no direct I/O; the host's cache is used (losetup \
                 --direct-io=on changes that)"
            }
        }
    }
}

/// An open disk. Unless it is read-only, it can't be opened as a disk again until it is dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: File,
    kind: DiskKind,
    bytes: u64,
    block_size: u32,
    physical_block_size: u32,
    memory_align: u32,
    read_only: bool,
    direct: bool,
    limits: QueueLimits,
    cached: Option<Cached>,
    id: [u8; ID_BYTES],
}

impl Disk {
    /// Opens the block device or file at `path`. As long as it is open, nobody else can open it as
    /// a disk; several can share it when all of them only read.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        let serial = options.serial.as_deref().map(pad_serial).transpose()?;
        // Looked at before it is opened: opening a FIFO would wait, some devices act on it.
        let kind = kind(path)?;
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
            cached: None,
            id: serial.unwrap_or_else(|| identity::of(kind, &metadata)),
            file,
        };
        disk.measure(options.block_size)?;
        disk.cached = disk.cached(kind, &metadata);
        if kind == DiskKind::File && !disk.read_only && !blockdev::can_punch_holes(&disk.file) {
            disk.limits.discard_bytes = 0;
            disk.limits.write_zeroes_bytes = 0;
        }
        Ok(disk)
    }

    fn cached(&self, kind: DiskKind, metadata: &std::fs::Metadata) -> Option<Cached> {
        let (major, minor) = numbers(kind, metadata);
        match (kind, self.direct) {
            (DiskKind::Block, _) => loop_uses_cache(major, minor).then_some(Cached::Loop),
            // Which is found when the file is measured.
            (DiskKind::File, false) => self.cached.or(Some(Cached::FileSystem)),
            (DiskKind::File, true) => None,
        }
    }

    fn measure(&mut self, block_size: Option<u32>) -> Result<(), Error> {
        match self.kind {
            DiskKind::Block => self.measure_device(block_size)?,
            DiskKind::File => self.measure_file(block_size)?,
        }
        let block_size = self.block_size;
        if self.bytes == 0
            || !block_size.is_power_of_two()
            || self.bytes % u64::from(block_size) != 0
        {
            let smaller_would_do = self.kind == DiskKind::File
                && self.bytes > 0
                && self.bytes % SECTOR_SIZE == 0
                && u64::from(block_size) > SECTOR_SIZE;
            return Err(Error::Size {
                bytes: self.bytes,
                block_size,
                way_out: if smaller_would_do {
                    "; add block-size=512"
                } else {
                    ""
                },
            });
        }
        Ok(())
    }

    fn measure_device(&mut self, block_size: Option<u32>) -> Result<(), Error> {
        self.bytes = blockdev::size(&self.file)?;
        self.block_size = blockdev::logical_block_size(&self.file)?;
        self.physical_block_size = blockdev::physical_block_size(&self.file)?;
        if block_size.is_some_and(|wanted| wanted != self.block_size) {
            return Err(Error::BlockSize(self.block_size));
        }
        if !self.read_only && blockdev::is_read_only(&self.file)? {
            return Err(Error::ReadOnly);
        }
        if self.direct {
            let told = blockdev::direct_align(&self.file);
            self.memory_align = told.map_or(self.block_size, |align| align.memory.max(1));
        }
        Ok(())
    }

    fn measure_file(&mut self, block_size: Option<u32>) -> Result<(), Error> {
        let sector = SECTOR_SIZE as u32;
        let (mut smallest, mut memory) = (sector, 1);
        if self.direct {
            let told = blockdev::direct_align(&self.file);
            // A file system that does not tell is asked by trying. A page suits every one.
            let align = told.unwrap_or_else(|| {
                let unit = match blockdev::takes_direct_io(&self.file, sector) {
                    true => sector,
                    false => 4096,
                };
                DirectAlign {
                    memory: unit,
                    offset: unit,
                }
            });
            (smallest, memory) = (align.offset.max(sector), align.memory.max(1));
        }
        self.block_size = block_size.unwrap_or(smallest);
        self.memory_align = memory;
        if self.block_size < smallest {
            blockdev::leave_direct_io(&self.file)?;
            self.direct = false;
            self.memory_align = 1;
            self.cached = Some(Cached::SmallBlocks);
        }
        self.physical_block_size = self.physical_block_size.max(self.block_size);
        Ok(())
    }

    /// Returns the path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns whether it is a block device or a file.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Returns its length in bytes, when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns its length in virtio's sectors of 512 bytes, when it was opened.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_SIZE
    }

    /// Returns its length now, in whole blocks counted as sectors of 512 bytes.
    ///
    /// # Errors
    ///
    /// Returns the host's error.
    pub fn sectors_now(&self) -> io::Result<u64> {
        let bytes = match self.kind {
            DiskKind::Block => blockdev::size(&self.file)?,
            DiskKind::File => self.file.metadata()?.len(),
        };
        Ok((bytes & !u64::from(self.block_size - 1)) / SECTOR_SIZE)
    }

    /// Returns the unit of reads and writes in bytes, a power of two.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Returns the unit that is written at best speed, in bytes.
    pub fn physical_block_size(&self) -> u32 {
        self.physical_block_size
    }

    /// Returns the alignment of memory for direct I/O, in bytes.
    pub fn memory_align(&self) -> u32 {
        self.memory_align
    }

    /// Returns whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Returns why I/O goes through the host's page cache, if it does.
    pub fn cache_use(&self) -> Option<Cached> {
        self.cached
    }

    /// Returns the answer to GET_ID: the serial number that was asked for, padded with zeroes, or
    /// an identity of the disk.
    pub fn id(&self) -> &[u8; ID_BYTES] {
        &self.id
    }

    /// Returns its limits, for the configuration space. Secure erase is left out: only the module
    /// can find out whether a disk knows it.
    pub fn limits(&self) -> Limits {
        Limits {
            sectors: self.sectors(),
            block_size: self.block_size,
            physical_block_size: self.physical_block_size(),
            alignment_offset: self.limits.alignment_offset,
            io_min: self.limits.io_min,
            io_opt: self.limits.io_opt,
            read_only: self.read_only,
            discard_sectors: QueueLimits::in_sectors(self.limits.discard_bytes),
            discard_granularity: self.limits.discard_granularity,
            write_zeroes_sectors: QueueLimits::in_sectors(self.limits.write_zeroes_bytes),
            secure_erase_sectors: 0,
        }
    }

    /// Returns the properties that a request of a driver that may use `range_ops` is checked
    /// against.
    pub fn rules(&self, range_ops: RangeOps) -> disk::Disk {
        disk::Disk {
            sectors: self.sectors(),
            block_size: self.block_size,
            read_only: self.read_only,
            range_ops,
        }
    }
}

/// Returns which kind of disk a path is, without opening it.
///
/// # Errors
///
/// See [`Error`].
pub fn kind(path: &Path) -> Result<DiskKind, Error> {
    kind_of(&std::fs::metadata(path)?)
}

fn kind_of(metadata: &std::fs::Metadata) -> Result<DiskKind, Error> {
    let file_type = metadata.file_type();
    if file_type.is_block_device() {
        Ok(DiskKind::Block)
    } else if file_type.is_file() {
        Ok(DiskKind::File)
    } else if file_type.is_dir() {
        Err(Error::Directory)
    } else {
        Err(Error::NotADisk)
    }
}

/// Opens and claims the file. Also returns whether direct I/O is possible.
fn open(path: &Path, kind: DiskKind, read_only: bool) -> Result<(File, bool), Error> {
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | flags)
            .open(path)
    };
    // For a block device O_EXCL means: fail while anybody else claims it, and claim it. Readers
    // share it, and only look whether there is a writer or a mounted file system.
    let claim = match (kind, read_only) {
        (DiskKind::Block, false) => libc::O_EXCL,
        (DiskKind::Block, true) => {
            retry(5, || open(libc::O_EXCL)).map_err(refusal)?;
            0
        }
        (DiskKind::File, _) => 0,
    };
    let (file, direct) = match open(libc::O_DIRECT | claim) {
        Ok(file) => (file, true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (open(claim).map_err(refusal)?, false),
        // Some drivers say that a device is read-only in these words.
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && is_read_only_device(path, kind) => {
            return Err(Error::ReadOnly)
        }
        Err(e) => return Err(refusal(e)),
    };
    // Locks last a moment longer than their reason: the host's device manager looks at a new device,
    // a launcher that ended leaves its last I/O to the kernel, a process that is being started has
    // copies of its parent's files.
    retry(50, || blockdev::try_lock(&file, !read_only)).map_err(refusal)?;
    Ok((file, direct))
}

/// Tries something up to `tries` times while the answer is that it is in use.
fn retry<T>(tries: u32, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..tries {
        match attempt() {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EWOULDBLOCK)) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
    attempt()
}

fn is_read_only_device(path: &Path, kind: DiskKind) -> bool {
    let read_only = |file: File| blockdev::is_read_only(&file).unwrap_or(false);
    kind == DiskKind::Block && File::open(path).is_ok_and(read_only)
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
fn numbers(kind: DiskKind, metadata: &std::fs::Metadata) -> (u32, u32) {
    let device = match kind {
        DiskKind::Block => metadata.rdev(),
        DiskKind::File => metadata.dev(),
    };
    (libc::major(device), libc::minor(device))
}

fn queue_limits(kind: DiskKind, metadata: &std::fs::Metadata) -> QueueLimits {
    let (major, minor) = numbers(kind, metadata);
    match kind {
        DiskKind::Block => QueueLimits::of(major, minor),
        DiskKind::File => QueueLimits::of_a_file(),
    }
}

/// Returns whether the device is a loop device, or a partition of one, without direct I/O.
fn loop_uses_cache(major: u32, minor: u32) -> bool {
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    ["loop/dio", "../loop/dio"]
        .iter()
        .any(|name| std::fs::read_to_string(device.join(name)).is_ok_and(|dio| dio.trim() == "0"))
}
