// SPDX-License-Identifier: GPL-2.0

//! The host's page cache of a disk that is served. What programs on the host wrote through it is on
//! the disk before a guest reads, and no page of it is left that could be written over what a guest
//! writes or be read instead of that.

use crate::{
    disk::{self, Delays, NullBlk, Target},
    fixtures::{
        commands::assert_errno,
        place::{Place, DATA},
    },
    prelude::*,
};
use std::{fs::File, os::unix::fs::FileExt};

pub const TESTS: &[Test] = tests!["harness":
    host_writes_before_attach_reach_the_guest(20),
    host_pages_of_before_do_not_overwrite_the_guest(20),
    host_reads_after_detach_see_the_guest(20),
    attach_fails_when_host_pages_cannot_be_written_back(20),
];

const BYTES: usize = 4096;

/// Content by host and guest.
const HOST: u8 = b'H';
const GUEST: u8 = b'G';
const BEFORE: u8 = b'.';

/// Disks that finish at once, in an interrupt, and in another thread.
fn disks() -> Result<Vec<Disk>, Errno> {
    let delays = Delays { read: 1, write: 1 };
    Ok(vec![
        Disk::second_ram(),
        Disk::null(&NullBlk::default())?,
        Disk::delayed(8 << 20, delays)?,
    ])
}

/// Opens a disk as most programs of a host do, through the page cache.
fn buffered(disk: &Disk) -> Result<File, Errno> {
    disk::open(disk.path(), Mode::ReadWrite, 0)
}

fn read_block(vm: &mut Vm) -> Vec<u8> {
    let read = Place::of(vm).read(0, BYTES as u32);
    vm.memory.fill(DATA, BYTES, 0);
    let answer = vm.queue().request(&read);
    assert_eq!(answer, Answer::new(OK, BYTES as u32 + 1));
    vm.memory.read_vec(DATA, BYTES)
}

fn write_block(vm: &mut Vm, byte: u8) {
    let place = Place::of(vm);
    vm.memory.fill(DATA, BYTES, byte);
    let answer = vm.queue().request(&place.write(0, BYTES as u32));
    assert_eq!(answer, Answer::new(OK, 1));
    assert_eq!(vm.queue().request(&place.flush()), Answer::new(OK, 1));
}

#[track_caller]
fn assert_holds(bytes: &[u8], byte: u8, what: &str) {
    let wrong = bytes.iter().find(|found| **found != byte);
    let shown = wrong.map(|found| char::from(*found));
    assert_eq!(shown, None, "{what}, instead of {:?}", char::from(byte));
}

/// A disk that is served while a program of the host has it open, which wrote to it before.
fn attached_over_dirty_pages(disk: &Disk) -> Result<(Vm, File), Errno> {
    disk.write(0, &[BEFORE; BYTES])?;
    let host = buffered(disk)?;
    host.write_all_at(&[HOST; BYTES], 0)?;
    let vm = Vm::with_disk(&Setup::default(), disk)?;
    Ok((vm, host))
}

fn host_writes_before_attach_reach_the_guest(_: &Context) -> Outcome {
    for disk in disks()? {
        let (mut vm, host) = attached_over_dirty_pages(&disk)?;
        assert_holds(&read_block(&mut vm), HOST, "what the guest reads");
        drop(vm);
        drop(host);
    }
    Ok(())
}

fn host_pages_of_before_do_not_overwrite_the_guest(_: &Context) -> Outcome {
    for disk in disks()? {
        let (mut vm, host) = attached_over_dirty_pages(&disk)?;
        write_block(&mut vm, GUEST);
        host.sync_all()?;
        assert_holds(&disk.read(0, BYTES)?, GUEST, "on the disk after a sync");
        assert_holds(&read_block(&mut vm), GUEST, "what the guest reads");
        drop(vm);
        host.sync_all()?;
        drop(host);
        assert_holds(&disk.read(0, BYTES)?, GUEST, "on the disk in the end");
    }
    Ok(())
}

/// Pages that were read before, and pages that were read while the disk was served.
fn host_reads_after_detach_see_the_guest(_: &Context) -> Outcome {
    for disk in disks()? {
        let host = buffered(&disk)?;
        disk.write(0, &[BEFORE; BYTES])?;
        let mut bytes = [0; BYTES];
        host.read_exact_at(&mut bytes, 0)?;
        assert_holds(&bytes, BEFORE, "read before");
        let mut vm = Vm::with_disk(&Setup::default(), &disk)?;
        write_block(&mut vm, GUEST);
        host.read_exact_at(&mut bytes, 0)?;
        assert_holds(&bytes, GUEST, "read for the first time while it is served");
        write_block(&mut vm, HOST);
        vm.device.detach()?;
        host.read_exact_at(&mut bytes, 0)?;
        assert_holds(&bytes, HOST, "read after detaching");
        vm.attach(&disk.open(Mode::ReadWrite)?)?;
        host.read_exact_at(&mut bytes, 0)?;
        write_block(&mut vm, GUEST);
        drop(vm);
        host.read_exact_at(&mut bytes, 0)?;
        assert_holds(&bytes, GUEST, "read after closing");
    }
    Ok(())
}

fn attach_fails_when_host_pages_cannot_be_written_back(_: &Context) -> Outcome {
    let disk = Disk::mapped(&[Target::error(8 << 11)])?;
    let host = buffered(&disk)?;
    // A whole page: nothing has to be read for it.
    host.write_all_at(&[HOST; BYTES], 0)?;
    let vm = Vm::new(&Setup::default())?;
    let file = disk.open(Mode::ReadWrite)?;
    assert_errno("attach", vm.attach(&file), Errno::EIO);
    // Nothing is attached.
    vm.device.set_vring_base(0, 0)?;
    Ok(())
}
