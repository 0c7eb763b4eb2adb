// SPDX-License-Identifier: GPL-2.0

//! The ioctls of `/dev/vhost-blk-rs` and their arguments, as in `<linux/vhost.h>` and
//! `include/uapi/linux/vhost_blk_rs.h`. A test holds them against those headers.
//!
//! ```
//! use vblk_core::uapi::{VringState, VHOST_SET_VRING_NUM};
//!
//! // _IOW(0xAF, 0x10, struct vhost_vring_state)
//! assert_eq!(VHOST_SET_VRING_NUM, 0x4008_af10);
//! let state = VringState { index: 1, num: 256 };
//! assert_eq!(VringState::from_bytes(&state.to_bytes()), state);
//! ```

/// `VHOST_VIRTIO`, the type of all of them.
const VHOST: u32 = 0xAF;

const fn io(nr: u32) -> u32 {
    VHOST << 8 | nr
}

const fn iow<T>(nr: u32) -> u32 {
    1 << 30 | (size_of::<T>() as u32) << 16 | io(nr)
}

const fn ior<T>(nr: u32) -> u32 {
    2 << 30 | (size_of::<T>() as u32) << 16 | io(nr)
}

const fn iowr<T>(nr: u32) -> u32 {
    3 << 30 | (size_of::<T>() as u32) << 16 | io(nr)
}

/// Returns the features that the device offers, a `u64`.
pub const VHOST_GET_FEATURES: u32 = ior::<u64>(0x00);
/// Sets the features that were negotiated, a `u64`.
pub const VHOST_SET_FEATURES: u32 = iow::<u64>(0x00);
/// Makes the caller's address space the owner.
pub const VHOST_SET_OWNER: u32 = io(0x01);
/// Gives up the device, with all that was set up.
pub const VHOST_RESET_OWNER: u32 = io(0x02);
/// Sets the memory table: a [`MemoryHeader`] and [`MemoryRegion`]s behind it, which the size in
/// the number does not cover.
pub const VHOST_SET_MEM_TABLE: u32 = iow::<MemoryHeader>(0x03);
/// Sets where the log of written memory is in the owner, a `u64`.
pub const VHOST_SET_LOG_BASE: u32 = iow::<u64>(0x04);
/// Sets the number of entries of a ring, a [`VringState`].
pub const VHOST_SET_VRING_NUM: u32 = iow::<VringState>(0x10);
/// Sets the addresses of a ring's parts, a [`VringAddr`].
pub const VHOST_SET_VRING_ADDR: u32 = iow::<VringAddr>(0x11);
/// Sets the position to begin at in a ring, a [`VringState`].
pub const VHOST_SET_VRING_BASE: u32 = iow::<VringState>(0x12);
/// Returns the position of the device in a ring, a [`VringState`].
pub const VHOST_GET_VRING_BASE: u32 = iowr::<VringState>(0x12);
/// Sets the eventfd that says that there are requests, a [`VringFile`].
pub const VHOST_SET_VRING_KICK: u32 = iow::<VringFile>(0x20);
/// Sets the eventfd to signal for interrupts, a [`VringFile`].
pub const VHOST_SET_VRING_CALL: u32 = iow::<VringFile>(0x21);
/// Sets the eventfd to signal for malformed requests, a [`VringFile`].
pub const VHOST_SET_VRING_ERR: u32 = iow::<VringFile>(0x22);
/// Creates a worker thread and returns its id, a [`WorkerState`].
pub const VHOST_NEW_WORKER: u32 = ior::<WorkerState>(0x08);
/// Stops a worker thread that no queue is attached to, a [`WorkerState`].
pub const VHOST_FREE_WORKER: u32 = iow::<WorkerState>(0x09);
/// Attaches a queue to a worker thread, a [`VringWorker`].
pub const VHOST_ATTACH_VRING_WORKER: u32 = iow::<VringWorker>(0x15);
/// Returns the worker thread of a queue, a [`VringWorker`].
pub const VHOST_GET_VRING_WORKER: u32 = iowr::<VringWorker>(0x16);
/// Selects the kind of worker threads, a `u8`: [`FORK_OWNER_KTHREAD`] or [`FORK_OWNER_TASK`].
pub const VHOST_SET_FORK_FROM_OWNER: u32 = iow::<u8>(0x84);
/// Returns the kind of worker threads, a `u8`.
pub const VHOST_GET_FORK_FROM_OWNER: u32 = ior::<u8>(0x85);
/// Sets for how many microseconds a worker may look at an empty ring, a [`VringState`]; 0: not at all.
pub const VHOST_SET_VRING_BUSYLOOP_TIMEOUT: u32 = iow::<VringState>(0x23);
/// Returns that, a [`VringState`]. The direction bits in `<linux/vhost.h>` are those of a write.
pub const VHOST_GET_VRING_BUSYLOOP_TIMEOUT: u32 = iow::<VringState>(0x24);
/// Sets the negotiated back-end features, a `u64`.
pub const VHOST_SET_BACKEND_FEATURES: u32 = iow::<u64>(0x25);
/// Returns the back-end features on offer, a `u64`. The direction bits in `<linux/vhost.h>` are
/// those of a plain read of 8 bytes.
pub const VHOST_GET_BACKEND_FEATURES: u32 = ior::<u64>(0x26);
/// Attaches the disk, a [`VringFile`] with an open block device; [`FD_UNBIND`] detaches it.
pub const VHOST_BLK_SET_BACKEND: u32 = iow::<VringFile>(0xFF);

/// `VHOST_FORK_OWNER_KTHREAD`: workers are threads of the system.
pub const FORK_OWNER_KTHREAD: u8 = 0;
/// `VHOST_FORK_OWNER_TASK`: workers are threads of the owner.
pub const FORK_OWNER_TASK: u8 = 1;

/// Room for the configuration space in `struct vhost_blk_config`, in bytes.
pub const CONFIG_ROOM: usize = 96;

/// `VHOST_FILE_UNBIND`: the fd that takes a file away.
pub const FD_UNBIND: i32 = -1;

/// `VHOST_VRING_F_LOG`, the number of a flag of [`VringAddr`]: writes to the ring are logged.
pub const VRING_F_LOG: u32 = 0;

/// Returns the counters since SET_OWNER, a [`Stats`].
pub const VHOST_BLK_GET_STATS: u32 = ior::<Stats>(0xE0);
/// Sets the answer to GET_ID: [`crate::request::ID_BYTES`] bytes, padded with zeroes.
pub const VHOST_BLK_SET_SERIAL: u32 = iow::<[u8; crate::request::ID_BYTES]>(0xE1);
/// Returns the version and the limits of the module, an [`Info`]. Needs no owner.
pub const VHOST_BLK_GET_INFO: u32 = ior::<Info>(0xE2);

/// Switches between writing back (1) and writing through (0), a `u32`: the value that the guest
/// wrote to `wce` of its configuration space.
pub const VHOST_BLK_SET_WRITEBACK: u32 = iow::<u32>(0xE3);
/// Returns the configuration space for a disk: a [`ConfigHeader`] and [`CONFIG_ROOM`] bytes behind it.
/// Needs no owner.
pub const VHOST_BLK_GET_CONFIG: u32 = iowr::<[u8; ConfigHeader::BYTES + CONFIG_ROOM]>(0xE4);
/// Sets the eventfd to signal when the configuration space has changed, an `i32`: an open file, or
/// [`FD_UNBIND`].
pub const VHOST_BLK_SET_CONFIG_CALL: u32 = iow::<i32>(0xE5);
/// Selects how guest memory is held, a `u32`: 0 pins pages for each request, 1 pins all of the
/// memory table when it is set.
pub const VHOST_BLK_SET_MEMORY_PINNED: u32 = iow::<u32>(0xE6);
/// Makes a vDPA device, a [`VdpaAdd`]. Needs no owner.
pub const VHOST_BLK_VDPA_ADD: u32 = iow::<VdpaAdd>(0xE7);
/// Deletes a vDPA device, a [`VdpaName`]. Needs no owner.
pub const VHOST_BLK_VDPA_DEL: u32 = iow::<VdpaName>(0xE8);
/// Returns what a vDPA device is, a [`VdpaInfo`]. Needs no owner.
pub const VHOST_BLK_VDPA_GET: u32 = iowr::<VdpaInfo>(0xE9);
/// Returns the counters of a queue of a vDPA device, a [`VdpaStats`]. Needs no owner.
pub const VHOST_BLK_VDPA_GET_STATS: u32 = iowr::<VdpaStats>(0xEA);

/// Bytes of the name of a vDPA device, with at least one zero at the end.
pub const VDPA_NAME_BYTES: usize = 64;
/// A flag of [`VdpaAdd`]: packed rings are offered.
pub const VDPA_PACKED: u32 = 0x1;
/// A flag of [`VdpaAdd`]: the device is for the host itself.
pub const VDPA_HOST: u32 = 0x2;

/// A field of an argument: an integer of the host, an array of them, or another argument.
trait Field {
    /// Reads the field from its bytes; 0 where there are too few.
    fn from_raw(raw: &[u8]) -> Self;
    /// Writes the field to the beginning of `raw`.
    fn to_raw(&self, raw: &mut [u8]);
}

macro_rules! integer_field {
    ($($type:ty)*) => { $(
        impl Field for $type {
            fn from_raw(raw: &[u8]) -> Self {
                raw.first_chunk().map_or(0, |bytes| Self::from_ne_bytes(*bytes))
            }

            fn to_raw(&self, raw: &mut [u8]) {
                raw.iter_mut().zip(self.to_ne_bytes()).for_each(|(to, from)| *to = from);
            }
        }
    )* };
}
integer_field!(u8 i32 u32 u64);

impl<T: Field, const N: usize> Field for [T; N] {
    fn from_raw(raw: &[u8]) -> Self {
        core::array::from_fn(|at| T::from_raw(raw.get(at * size_of::<T>()..).unwrap_or_default()))
    }

    fn to_raw(&self, raw: &mut [u8]) {
        for (item, to) in self.iter().zip(raw.chunks_exact_mut(size_of::<T>())) {
            item.to_raw(to);
        }
    }
}

/// Declares an argument: a C structure without padding, made of integers of the host.
macro_rules! argument {
    (
        $(#[$meta:meta])*
        $name:ident {
            $( $(#[$field_meta:meta])* $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl Field for $name {
            fn from_raw(raw: &[u8]) -> Self {
                let mut bytes = [0; size_of::<Self>()];
                bytes.iter_mut().zip(raw).for_each(|(to, from)| *to = *from);
                Self::from_bytes(&bytes)
            }

            fn to_raw(&self, raw: &mut [u8]) {
                raw.iter_mut().zip(self.to_bytes()).for_each(|(to, from)| *to = from);
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::from_bytes(&[0; size_of::<Self>()])
            }
        }

        impl $name {
            /// Size of the C structure in bytes.
            pub const BYTES: usize = size_of::<Self>();

            /// Decodes the C structure.
            pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
                Self {
                    $( $field: {
                        let mut raw = [0; size_of::<$type>()];
                        let from = bytes.iter().skip(core::mem::offset_of!(Self, $field));
                        raw.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                        Field::from_raw(&raw)
                    }, )*
                }
            }

            /// Encodes the C structure.
            pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
                let mut bytes = [0; size_of::<Self>()];
                $(
                    let to = bytes.get_mut(core::mem::offset_of!(Self, $field)..);
                    self.$field.to_raw(to.unwrap_or_default());
                )*
                bytes
            }
        }
    };
}

argument! {
    /// `struct vhost_vring_state`.
    VringState {
        /// Number of the queue.
        index: u32,
        /// A number of entries, a position, or a time in microseconds.
        num: u32,
    }
}

argument! {
    /// `struct vhost_vring_file`.
    VringFile {
        /// Number of the queue.
        index: u32,
        /// An open file, or [`FD_UNBIND`].
        fd: i32,
    }
}

argument! {
    /// `struct vhost_vring_addr`. Addresses are those of the owner.
    VringAddr {
        /// Number of the queue.
        index: u32,
        /// A bit for [`VRING_F_LOG`], no other.
        flags: u32,
        /// Descriptor table.
        desc_user_addr: u64,
        /// Used ring.
        used_user_addr: u64,
        /// Available ring.
        avail_user_addr: u64,
        /// Guest-physical address of the used ring, for the log.
        log_guest_addr: u64,
    }
}

argument! {
    /// The fixed part of `struct vhost_memory`.
    MemoryHeader {
        /// Number of [`MemoryRegion`]s that follow.
        nregions: u32,
        /// Must be 0.
        padding: u32,
    }
}

argument! {
    /// `struct vhost_memory_region`.
    MemoryRegion {
        /// Guest-physical address of the first byte.
        guest_phys_addr: u64,
        /// Length in bytes.
        memory_size: u64,
        /// The owner's address of the first byte.
        userspace_addr: u64,
        /// Not used; ignored.
        flags_padding: u64,
    }
}

argument! {
    /// `struct vhost_blk_stats`. All counters are sums over the queues.
    Stats {
        /// Times that the kick eventfd woke the worker.
        kicks: u64,
        /// Requests given back to the guest, good or bad.
        requests: u64,
        /// Bytes of data that successful reads moved from the disk to the guest.
        bytes_read: u64,
        /// Bytes of data that successful writes moved from the guest to the disk.
        bytes_written: u64,
        /// Flushes that succeeded.
        flushes: u64,
        /// Times that the call eventfd was signalled.
        interrupts: u64,
        /// Requests that the disk failed.
        io_errors: u64,
        /// Chains and entries that held no well-formed request.
        malformed: u64,
        /// Queues that are stopped now: their rings make no sense, or the owner's memory behind a
        /// status byte could not be reached.
        stopped_queues: u64,
        /// Zero.
        reserved: [u64; 7],
    }
}

impl core::ops::AddAssign<&Self> for Stats {
    /// Adds counter by counter. They wrap at 2^64.
    fn add_assign(&mut self, other: &Self) {
        let Self {
            kicks,
            requests,
            bytes_read,
            bytes_written,
            flushes,
            interrupts,
            io_errors,
            malformed,
            stopped_queues,
            reserved: _,
        } = other;
        let pairs = [
            (&mut self.kicks, kicks),
            (&mut self.requests, requests),
            (&mut self.bytes_read, bytes_read),
            (&mut self.bytes_written, bytes_written),
            (&mut self.flushes, flushes),
            (&mut self.interrupts, interrupts),
            (&mut self.io_errors, io_errors),
            (&mut self.malformed, malformed),
            (&mut self.stopped_queues, stopped_queues),
        ];
        for (sum, count) in pairs {
            *sum = sum.wrapping_add(*count);
        }
    }
}

argument! {
    /// `struct vhost_blk_info`.
    Info {
        /// Version of this interface; grows with each addition.
        version: u32,
        /// Queues that a device has.
        max_queues: u32,
        /// Most entries of a ring.
        max_queue_size: u32,
        /// Most regions of a memory table.
        max_mem_regions: u32,
        /// 1 if the module has vDPA devices, else 0.
        has_vdpa: u32,
        /// Zero.
        reserved: [u32; 11],
    }
}

argument! {
    /// `struct vhost_worker_state`.
    WorkerState {
        /// Number of the worker.
        worker_id: u32,
    }
}

argument! {
    /// `struct vhost_vring_worker`.
    VringWorker {
        /// Number of the queue.
        index: u32,
        /// Number of the worker.
        worker_id: u32,
    }
}

argument! {
    /// The fixed part of `struct vhost_blk_config`.
    ConfigHeader {
        /// An open block device.
        fd: i32,
        /// Queues that the device shall have.
        queues: u32,
        /// Entries of each queue.
        queue_size: u32,
        /// Returned: bytes of the configuration space behind this.
        size: u32,
        /// Returned: the features that fit the disk.
        features: u64,
        /// Must be 0.
        reserved: u64,
    }
}

argument! {
    /// `struct vhost_blk_vdpa_add`.
    VdpaAdd {
        /// An open block device.
        fd: i32,
        /// [`VDPA_PACKED`], [`VDPA_HOST`].
        flags: u32,
        /// Queues.
        queues: u32,
        /// Most entries of each queue.
        queue_size: u32,
        /// The answer to GET_ID.
        serial: [u8; crate::request::ID_BYTES],
        /// The name on the vDPA bus, ended by a zero.
        name: [u8; VDPA_NAME_BYTES],
        /// Microseconds for which an empty ring may be looked at; 0: not at all.
        poll_us: u32,
        /// Must be 0.
        reserved: [u32; 6],
    }
}

argument! {
    /// `struct vhost_blk_vdpa_name`.
    VdpaName {
        /// The name on the vDPA bus, ended by a zero.
        name: [u8; VDPA_NAME_BYTES],
    }
}

argument! {
    /// `struct vhost_blk_vdpa_info`.
    VdpaInfo {
        /// Which device, from 0.
        index: u32,
        /// Returned: [`VDPA_PACKED`], [`VDPA_HOST`].
        flags: u32,
        /// Returned: the disk's major number.
        major: u32,
        /// Returned: the disk's minor number.
        minor: u32,
        /// Returned: queues.
        queues: u32,
        /// Returned: most entries of each queue.
        queue_size: u32,
        /// Returned: the virtio device status; 0 when no driver uses the device.
        status: u32,
        /// Returned: 1 if the disk is read-only.
        read_only: u32,
        /// Returned: the answer to GET_ID.
        serial: [u8; crate::request::ID_BYTES],
        /// Returned: the name on the vDPA bus.
        name: [u8; VDPA_NAME_BYTES],
        /// Returned: microseconds for which an empty ring may be looked at.
        poll_us: u32,
        /// Must be 0.
        reserved: [u32; 2],
    }
}

argument! {
    /// `struct vhost_blk_vdpa_stats`.
    VdpaStats {
        /// The name on the vDPA bus, ended by a zero.
        name: [u8; VDPA_NAME_BYTES],
        /// Number of the queue.
        queue: u32,
        /// Must be 0.
        reserved: u32,
        /// Returned: the counters since the device was made.
        stats: Stats,
    }
}
