// SPDX-License-Identifier: GPL-2.0

//! Getting a Linux kernel into memory, with what its boot protocol asks for.

use super::{
    acpi, elf,
    layout::{
        ACPI_TABLES, CMDLINE, CMDLINE_MAX, GAP_END, GAP_START, HIGH_MEMORY, LOW_MEMORY_END,
        RESET_FLAG, RESET_FLAG_UNTOUCHED, RESET_VECTOR, ZERO_PAGE,
    },
    registers,
    restart::RestartMarks,
};
use crate::{errno, memory::Memory};
use linux_loader::loader::{
    bootparam::{boot_e820_entry, boot_params, setup_header},
    BzImage, Elf, KernelLoader,
};
use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Words for the kernel before the user's own: a panic restarts the machine.
const CMDLINE_PREFIX: &str = "panic=-1";
/// Code for a kernel that wants the BIOS to restart: the keyboard controller does it.
/// `mov al, 0xfe; out 0x64, al; hlt; jmp $-1`
const RESET_CODE: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// Why a guest can't be booted. The text names the option.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel is of no use.
    #[error("--kernel {}: {cause}", .path.display())]
    Kernel {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The initial file system is of no use.
    #[error("--initrd {}: {cause}", .path.display())]
    Initrd {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The command line is of no use.
    #[error("--cmdline: {0}")]
    Cmdline(String),
    /// Kernel and initial file system do not fit.
    #[error("--memory: too small for this guest, which needs at least {0} MiB")]
    Memory(u64),
}

/// The files and words that a guest is booted with.
pub struct Boot {
    kernel: (PathBuf, File),
    format: Format,
    initrd: Option<(PathBuf, File)>,
    cmdline: String,
}

/// A kernel in memory.
struct LoadedKernel {
    /// The address to start at.
    entry: GuestAddress,
    /// The end of the memory that it takes at first.
    end: u64,
    /// Bytes that it takes.
    bytes: u64,
}

impl LoadedKernel {
    /// Returns how much memory it takes to unpack an initial file system of `initrd` bytes. A
    /// kernel with less stops without a word, or ends its own processes for a minute.
    fn memory_to_unpack(&self, initrd: u64) -> u64 {
        /// For page tables, caches, and the first processes.
        const ROOM: u64 = 16 << 20;
        // The archive and its content are there at the same time; the content is not smaller.
        let file_system = initrd.saturating_mul(2);
        let taken = self.bytes.saturating_add(file_system);
        taken.saturating_add(HIGH_MEMORY.0 + ROOM)
    }
}

enum Format {
    BzImage,
    Elf,
}

impl Boot {
    /// Opens the files.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<Self, Error> {
        let refused = |cause: String| Error::Kernel {
            path: kernel.to_owned(),
            cause,
        };
        let mut file = open(kernel).map_err(refused)?;
        let format = format(&mut file).map_err(refused)?;
        let initrd = initrd.map(|path| match open(path) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(cause) => Err(Error::Initrd {
                path: path.to_owned(),
                cause,
            }),
        });
        if cmdline.contains(|c: char| c.is_control()) {
            return Err(Error::Cmdline("has control characters".into()));
        }
        Ok(Self {
            kernel: (kernel.to_owned(), file),
            format,
            initrd: initrd.transpose()?,
            cmdline: cmdline.to_owned(),
        })
    }

    /// Returns how the kernel will mark its restarts.
    pub fn restart_marks(&self) -> RestartMarks {
        RestartMarks::of(&self.cmdline)
    }

    /// Loads everything, and describes a machine with so many CPUs and disks. Gives the address to
    /// start at.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn load(mut self, memory: &Memory, cpus: u8, disks: usize) -> Result<GuestAddress, Error> {
        let mut params = boot_params::default();
        let kernel = self.load_kernel(memory, &mut params.hdr)?;
        self.load_initrd(memory, &mut params.hdr, &kernel)?;
        self.load_cmdline(memory, &mut params.hdr)?;
        params.acpi_rsdp_addr = ACPI_TABLES.0;
        describe_memory(memory, &mut params);
        memory
            .write_obj(params, ZERO_PAGE)
            .and_then(|()| memory.write_slice(&acpi::tables(cpus, disks), ACPI_TABLES))
            .and_then(|()| registers::write_tables(memory))
            .and_then(|()| memory.write_obj(RESET_FLAG_UNTOUCHED, RESET_FLAG))
            .and_then(|()| memory.write_slice(&RESET_CODE, RESET_VECTOR))
            .map_err(|_| Error::Memory(HIGH_MEMORY.0 >> 20))?;
        Ok(kernel.entry)
    }

    /// Loads the kernel.
    fn load_kernel(
        &mut self,
        memory: &Memory,
        header: &mut setup_header,
    ) -> Result<LoadedKernel, Error> {
        /// The kernel has an entry for CPUs in 64-bit mode, at this offset.
        const XLF_KERNEL_64: u16 = 1;
        const ENTRY_64: u64 = 0x200;
        const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

        let (path, file) = &mut self.kernel;
        let refused = |cause: &str| Error::Kernel {
            path: path.clone(),
            cause: cause.to_owned(),
        };
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let check = |end: u64| match end > low_memory(memory) {
            true => Err(Error::Memory(end.div_ceil(1 << 20))),
            false => Ok(()),
        };
        let kernel = match self.format {
            Format::BzImage => {
                check(HIGH_MEMORY.0.saturating_add(size))?;
                let loaded = BzImage::load(&**memory, Some(HIGH_MEMORY), file, None)
                    .map_err(|_| refused("not a usable bzImage"))?;
                *header = loaded.setup_header.unwrap_or_default();
                // In units of 16 bytes, of which the last may be a part.
                let code = u64::from(header.syssize) * 16;
                let setup = (u64::from(header.setup_sects.max(1)) + 1) * 512;
                if size + 15 < setup + code {
                    return Err(refused("cut short"));
                }
                if header.xloadflags & XLF_KERNEL_64 == 0 {
                    return Err(refused("not a 64-bit kernel"));
                }
                let unpacked = (HIGH_MEMORY.0.max(header.pref_address))
                    .saturating_add(header.init_size.into());
                LoadedKernel {
                    entry: HIGH_MEMORY.unchecked_add(ENTRY_64),
                    end: unpacked.max(HIGH_MEMORY.0 + size),
                    bytes: header.init_size.into(),
                }
            }
            Format::Elf => {
                const UNUSABLE: &str = "not a usable ELF kernel (64-bit, at 1 MiB or higher?)";
                // Debug information may make a file many times as long as what is loaded of it.
                let segments = elf::segments(file).ok_or_else(|| refused(UNUSABLE))?;
                check(segments.end)?;
                let loaded = Elf::load(&**memory, None, file, Some(HIGH_MEMORY))
                    .map_err(|_| refused(UNUSABLE))?;
                LoadedKernel {
                    entry: loaded.kernel_load,
                    end: segments.end,
                    bytes: segments.end - segments.start,
                }
            }
        };
        check(kernel.end)?;
        header.header = MAGIC;
        header.boot_flag = 0xaa55;
        // A boot loader without a number of its own.
        header.type_of_loader = 0xff;
        Ok(kernel)
    }

    fn load_initrd(
        &mut self,
        memory: &Memory,
        header: &mut setup_header,
        kernel: &LoadedKernel,
    ) -> Result<(), Error> {
        const PAGE: u64 = 4096;
        /// The last address of an initrd if the kernel does not say.
        const MAX: u32 = 0x7fff_ffff;

        let Some((path, file)) = &mut self.initrd else {
            return Ok(());
        };
        let refused = |cause: String| Error::Initrd {
            path: path.clone(),
            cause,
        };
        let size = file.metadata().map_err(|e| refused(errno::text(&e)))?.len();
        if size == 0 {
            return Err(refused("is empty".into()));
        }
        let max = match header.initrd_addr_max {
            0 => MAX,
            max => max,
        };
        let top = low_memory(memory).min(u64::from(max) + 1);
        let start = top.checked_sub(size).map(|start| start & !(PAGE - 1));
        let all = memory.iter().map(GuestMemoryRegion::len).sum::<u64>();
        let needed = kernel.memory_to_unpack(size);
        let Some(start) = start.filter(|start| *start >= kernel.end && needed <= all) else {
            let place = kernel.end.saturating_add(size).saturating_add(PAGE);
            return Err(Error::Memory(needed.max(place).div_ceil(1 << 20)));
        };
        memory
            .read_exact_volatile_from(GuestAddress(start), file, size as usize)
            .map_err(|_| refused("can't be read to its end".into()))?;
        // Both are below 2^32, as `max` is.
        header.ramdisk_image = start as u32;
        header.ramdisk_size = size as u32;
        Ok(())
    }

    fn load_cmdline(&self, memory: &Memory, header: &mut setup_header) -> Result<(), Error> {
        /// The length that a kernel takes that does not say.
        const DEFAULT_MAX: u32 = 255;

        let word = self.restart_marks().word();
        let mut line = format!("{CMDLINE_PREFIX}{word} {}", self.cmdline).into_bytes();
        let max = match (&self.format, header.cmdline_size) {
            (Format::Elf, _) => CMDLINE_MAX - 1,
            (Format::BzImage, 0) => DEFAULT_MAX as usize,
            (Format::BzImage, max) => (max as usize).min(CMDLINE_MAX - 1),
        };
        if line.len() > max {
            let excess = line.len() - max;
            return Err(Error::Cmdline(format!(
                "{excess} bytes too long for this kernel"
            )));
        }
        line.push(0);
        memory
            .write_slice(&line, CMDLINE)
            .map_err(|_| Error::Memory(HIGH_MEMORY.0 >> 20))?;
        header.cmd_line_ptr = CMDLINE.0 as u32;
        header.cmdline_size = line.len() as u32;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, String> {
    let metadata = std::fs::metadata(path).map_err(|e| errno::text(&e))?;
    if metadata.is_dir() {
        return Err("Is a directory".into());
    }
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    File::open(path).map_err(|e| errno::text(&e))
}

fn format(file: &mut File) -> Result<Format, String> {
    const ELF: &[u8] = b"\x7fELF";
    const BZIMAGE_AT: usize = 0x202;
    const BZIMAGE: &[u8] = b"HdrS";

    let mut start = Vec::new();
    let read = io::Read::by_ref(file).take(1024).read_to_end(&mut start);
    read.and_then(|_| file.rewind())
        .map_err(|e| errno::text(&e))?;
    if start.starts_with(ELF) {
        Ok(Format::Elf)
    } else if start
        .get(BZIMAGE_AT..)
        .is_some_and(|at| at.starts_with(BZIMAGE))
    {
        Ok(Format::BzImage)
    } else {
        Err("neither a bzImage nor an ELF file".into())
    }
}

/// Returns the end of the memory that begins at 0.
fn low_memory(memory: &Memory) -> u64 {
    memory
        .find_region(GuestAddress(0))
        .map_or(0, |region| region.len().min(GAP_START))
}

/// Tells the kernel where memory is.
fn describe_memory(memory: &Memory, params: &mut boot_params) {
    const USABLE: u32 = 1;
    const RESERVED: u32 = 2;
    let entry = |addr, end: u64, kind| boot_e820_entry {
        addr,
        size: end.saturating_sub(addr),
        r#type: kind,
    };
    let mut entries = vec![
        entry(0, LOW_MEMORY_END, USABLE),
        entry(LOW_MEMORY_END, HIGH_MEMORY.0, RESERVED),
        entry(HIGH_MEMORY.0, low_memory(memory), USABLE),
    ];
    if let Some(high) = memory.find_region(GuestAddress(GAP_END)) {
        entries.push(entry(GAP_END, GAP_END + high.len(), USABLE));
    }
    params.e820_entries = entries.len() as u8;
    params.e820_table[..entries.len()].copy_from_slice(&entries);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initial_file_system_takes_its_place_twice() {
        const MIB: u64 = 1 << 20;
        let kernel = LoadedKernel {
            entry: HIGH_MEMORY,
            end: 32 * MIB,
            bytes: 16 * MIB,
        };
        assert_eq!(kernel.memory_to_unpack(11 * MIB), (1 + 16 + 16 + 22) * MIB);
    }
}
