// SPDX-License-Identifier: GPL-2.0

//! As much of an ELF file as tells how much memory its segments take.

use std::{fs::File, ops::Range, os::unix::fs::FileExt};

/// Bytes of the header of a 64-bit file.
const HEADER: usize = 64;
/// Bytes of a program header.
const ENTRY: usize = 56;
/// The type of a segment that is loaded.
const PT_LOAD: u32 = 1;

/// Returns the physical addresses from the first to behind the last segment that is loaded. `None`
/// if there is none, or the file is no 64-bit ELF file for little-endian machines.
pub fn segments(file: &File) -> Option<Range<u64>> {
    let header: [u8; HEADER] = read(file, 0)?;
    // "ELF" of 64 bits, little-endian.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let table = word(&header, 32)?;
    let size = u64::from(half(&header, 54)?);
    let count = u64::from(half(&header, 56)?);
    if size != ENTRY as u64 {
        return None;
    }
    let mut all: Option<Range<u64>> = None;
    for number in 0..count {
        let entry: [u8; ENTRY] = read(file, table.checked_add(number * size)?)?;
        if u32::from_le_bytes(*entry.first_chunk()?) == PT_LOAD {
            let (start, len) = (word(&entry, 24)?, word(&entry, 40)?);
            let end = start.checked_add(len)?;
            all = Some(match all {
                Some(all) => all.start.min(start)..all.end.max(end),
                None => start..end,
            });
        }
    }
    all
}

fn read<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A file with segments of these types, addresses and lengths.
    fn elf(segments: &[(u32, u64, u64)]) -> File {
        let mut bytes = vec![0; HEADER + segments.len() * ENTRY];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        bytes[54..56].copy_from_slice(&(ENTRY as u16).to_le_bytes());
        bytes[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (number, (kind, start, len)) in segments.iter().enumerate() {
            let entry = &mut bytes[HEADER + number * ENTRY..];
            entry[..4].copy_from_slice(&kind.to_le_bytes());
            entry[24..32].copy_from_slice(&start.to_le_bytes());
            entry[40..48].copy_from_slice(&len.to_le_bytes());
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn only_what_is_loaded_counts() {
        let segments = [
            (PT_LOAD, 16 << 20, 3 << 20),
            (4, 1 << 40, 1 << 40),
            (PT_LOAD, 20 << 20, 1 << 20),
            (PT_LOAD, 19 << 20, 1 << 20),
        ];
        let file = elf(&segments);
        // Debug information.
        file.set_len(1 << 30).unwrap();
        assert_eq!(super::segments(&file), Some(16 << 20..21 << 20));
    }

    #[test]
    fn what_is_no_kernel_has_no_end() {
        assert_eq!(segments(&elf(&[])), None);
        assert_eq!(segments(&elf(&[(4, 0, 1)])), None);
        assert_eq!(segments(&elf(&[(PT_LOAD, u64::MAX, 1)])), None);
        let cut = elf(&[(PT_LOAD, 0, 1)]);
        cut.set_len(HEADER as u64 + 10).unwrap();
        assert_eq!(segments(&cut), None);
        cut.set_len(10).unwrap();
        assert_eq!(segments(&cut), None);
    }
}
