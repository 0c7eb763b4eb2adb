// SPDX-License-Identifier: GPL-2.0

//! The disk of tests/disk, a module of its own: loaded for a test, and unloaded behind it.

use super::held::HELD;
use crate::{
    context::PATIENCE,
    sys::{system, Errno},
};
use std::{
    env,
    ffi::CString,
    fs::File,
    path::PathBuf,
    time::{Duration, Instant as Time},
};

/// Content of a range that was discarded.
pub const DISCARDED: u8 = 0xdd;
/// Content of a range that was erased.
pub const ERASED: u8 = 0xee;

/// Status by which a disk tells that it can't zero sectors.
#[derive(Clone, Copy, Debug)]
pub enum ZeroesError {
    /// `BLK_STS_NOTSUPP`.
    NotSupported = 1,
    /// `BLK_STS_TARGET`, as a SCSI disk does.
    Target = 2,
}

/// Behaviour of the test disk. Limits of 0: it can't do this, or the kernel's default.
#[derive(Clone, Copy, Debug)]
pub struct TestDisk {
    /// Size in MiB.
    pub mib: u32,
    /// Logical block size.
    pub block_size: u32,
    /// Physical block size.
    pub physical_block_size: u32,
    /// Most segments of a request.
    pub max_segments: u32,
    /// Most bytes of a segment.
    pub max_segment_size: u32,
    /// Mask of the addresses between which it takes no gap.
    pub virt_boundary_mask: u32,
    /// Most sectors to discard at a time.
    pub max_discard_sectors: u32,
    /// Unit of discarding in bytes.
    pub discard_granularity: u32,
    /// Most sectors to erase at a time.
    pub max_secure_erase_sectors: u32,
    /// Most sectors to zero at a time.
    pub max_write_zeroes_sectors: u32,
    /// Reports a volatile cache.
    pub write_cache: bool,
    /// Reports that it can write past that cache.
    pub fua: bool,
    /// Mask of the alignment that it wants of buffers; 511 by default.
    pub dma_alignment: u32,
    /// Fails the first attempt to zero sectors, and then reports that it can't.
    pub write_zeroes_fails: Option<ZeroesError>,
}

impl TestDisk {
    /// One that can only be read and written.
    pub const DEFAULT: Self = Self {
        mib: 16,
        block_size: 512,
        physical_block_size: 512,
        max_segments: 0,
        max_segment_size: 0,
        virt_boundary_mask: 0,
        max_discard_sectors: 0,
        discard_granularity: 0,
        max_secure_erase_sectors: 0,
        max_write_zeroes_sectors: 0,
        write_cache: false,
        fua: false,
        dma_alignment: 0,
        write_zeroes_fails: None,
    };

    /// Returns the parameters in the form of `insmod`.
    fn parameters(&self) -> CString {
        let text = format!(
            "size_mib={} logical_block_size={} physical_block_size={} max_segments={} \
             max_segment_size={} virt_boundary_mask={} max_discard_sectors={} discard_granularity={} \
             max_secure_erase_sectors={} max_write_zeroes_sectors={} write_cache={} fua={} \
             dma_alignment={} write_zeroes_fails={}",
            self.mib,
            self.block_size,
            self.physical_block_size,
            self.max_segments,
            self.max_segment_size,
            self.virt_boundary_mask,
            self.max_discard_sectors,
            self.discard_granularity,
            self.max_secure_erase_sectors,
            self.max_write_zeroes_sectors,
            u8::from(self.write_cache),
            u8::from(self.fua),
            self.dma_alignment,
            self.write_zeroes_fails.map_or(0, |error| error as u32),
        );
        CString::new(text).expect("no zero in it")
    }
}

/// The disk that was made.
pub struct Instance(());

impl Instance {
    /// Loads the file that the environment variable TEST_DISK names.
    pub fn new(options: &TestDisk) -> Result<Self, Errno> {
        let path = env::var_os("TEST_DISK").ok_or(Errno::ENOENT)?;
        system::load_module(File::open(path)?, &options.parameters())?;
        Ok(Self(()))
    }

    /// The device node.
    pub fn node(&self) -> PathBuf {
        "/dev/vblktest".into()
    }

    /// Unloads it. Its last user may still be on the way out.
    pub fn remove(&mut self) {
        let deadline = Time::now() + PATIENCE;
        while let Err(error) = system::unload_module(c"vblk_test_disk") {
            if error != Errno::EAGAIN || Time::now() > deadline {
                if let Ok(mut list) = HELD.lock() {
                    list.push(format!("the module of the test disk: {error}"));
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
