// SPDX-License-Identifier: GPL-2.0

//! Getting a Linux kernel into memory, with what its boot protocol asks for.

use super::{
    acpi,
    layout::{
        ACPI_TABLES,
        CMDLINE,
        CMDLINE_MAX,
        GAP_END,
        GAP_START,
        HIGH_MEMORY,
        LOW_MEMORY_END,
        ZERO_PAGE, //
    },
    registers,
};
use crate::{
    errno,
    memory::Memory, //
};
use linux_loader::loader::{
    bootparam::{
        boot_e820_entry,
        boot_params,
        setup_header, //
    },
    BzImage,
    Elf,
    KernelLoader, //
};
use std::{
    fs::File,
    io::{
        self,
        Read,
        Seek, //
    },
    path::{
        Path,
        PathBuf, //
    },
};
use vm_memory::{
    Address,
    Bytes,
    GuestAddress,
    GuestMemoryBackend,
    GuestMemoryRegion, //
};

/// What goes before the user's own words. A panic restarts the machine, and marks the restart as a
/// warm one, which other restarts are not: so the launcher can tell them apart.
const CMDLINE_PREFIX: &str = "panic=-1 reboot=panic_warm";

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

/// What a guest is to be booted with: open files.
pub struct Boot {
    kernel: (PathBuf, File),
    format: Format,
    initrd: Option<(PathBuf, File)>,
    cmdline: String,
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

    /// Loads everything, and describes a machine with so many CPUs and disks. Gives the address to
    /// start at.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn load(mut self, memory: &Memory, cpus: u8, disks: usize) -> Result<GuestAddress, Error> {
        let mut params = boot_params::default();
        let (entry, kernel_end) = self.load_kernel(memory, &mut params.hdr)?;
        self.load_initrd(memory, &mut params.hdr, kernel_end)?;
        self.load_cmdline(memory, &mut params.hdr)?;
        params.acpi_rsdp_addr = ACPI_TABLES.0;
        describe_memory(memory, &mut params);
        memory
            .write_obj(params, ZERO_PAGE)
            .and_then(|()| memory.write_slice(&acpi::tables(cpus, disks), ACPI_TABLES))
            .and_then(|()| registers::write_tables(memory))
            .map_err(|_| Error::Memory(HIGH_MEMORY.0 >> 20))?;
        Ok(entry)
    }

    /// The address to start at, and where the memory that the kernel takes at first ends.
    fn load_kernel(
        &mut self,
        memory: &Memory,
        header: &mut setup_header,
    ) -> Result<(GuestAddress, u64), Error> {
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
        let needed = |end: u64| Error::Memory(end.div_ceil(1 << 20));
        if HIGH_MEMORY.0 + size > low_memory(memory) {
            return Err(needed(HIGH_MEMORY.0 + size));
        }
        let mut end;
        let entry = match self.format {
            Format::BzImage => {
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
                end = (HIGH_MEMORY.0.max(header.pref_address))
                    .saturating_add(header.init_size.into());
                HIGH_MEMORY.unchecked_add(ENTRY_64)
            }
            Format::Elf => {
                let loaded = Elf::load(&**memory, None, file, Some(HIGH_MEMORY)).map_err(|_| {
                    refused("not a usable ELF kernel (64-bit, at 1 MiB or higher?)")
                })?;
                end = loaded.kernel_end;
                loaded.kernel_load
            }
        };
        end = end.max(HIGH_MEMORY.0 + size);
        if end > low_memory(memory) {
            return Err(needed(end));
        }
        header.header = MAGIC;
        header.boot_flag = 0xaa55;
        // A boot loader without a number of its own.
        header.type_of_loader = 0xff;
        Ok((entry, end))
    }

    fn load_initrd(
        &mut self,
        memory: &Memory,
        header: &mut setup_header,
        kernel_end: u64,
    ) -> Result<(), Error> {
        const PAGE: u64 = 4096;
        /// Where an initrd may end at most if the kernel does not say.
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
        let Some(start) = start.filter(|start| *start >= kernel_end) else {
            let needed = kernel_end.saturating_add(size).saturating_add(PAGE);
            return Err(Error::Memory(needed.div_ceil(1 << 20)));
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
        /// What a kernel takes that does not say.
        const DEFAULT_MAX: u32 = 255;

        let mut line = format!("{CMDLINE_PREFIX} {}", self.cmdline).into_bytes();
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

/// Where the memory that begins at 0 ends.
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
