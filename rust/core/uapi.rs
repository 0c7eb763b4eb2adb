// SPDX-License-Identifier: GPL-2.0

//! The ioctls of `/dev/vhost-blk-rs` and their arguments, as in `<linux/vhost.h>` and
//! `include/uapi/linux/vhost_blk_rs.h`. A test holds them against those headers.

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

/// Tells the features that the device offers, a `u64`.
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
/// Sets the number of entries of a ring, a [`VringState`].
pub const VHOST_SET_VRING_NUM: u32 = iow::<VringState>(0x10);
/// Sets where a ring lies, a [`VringAddr`].
pub const VHOST_SET_VRING_ADDR: u32 = iow::<VringAddr>(0x11);
/// Sets where to begin in a ring, a [`VringState`].
pub const VHOST_SET_VRING_BASE: u32 = iow::<VringState>(0x12);
/// Tells where the device stands in a ring, a [`VringState`].
pub const VHOST_GET_VRING_BASE: u32 = iowr::<VringState>(0x12);
/// Sets the eventfd that says that there are requests, a [`VringFile`].
pub const VHOST_SET_VRING_KICK: u32 = iow::<VringFile>(0x20);
/// Sets the eventfd to signal for interrupts, a [`VringFile`].
pub const VHOST_SET_VRING_CALL: u32 = iow::<VringFile>(0x21);
/// Sets the eventfd to signal for malformed requests, a [`VringFile`].
pub const VHOST_SET_VRING_ERR: u32 = iow::<VringFile>(0x22);
/// Sets the negotiated back-end features, a `u64`.
pub const VHOST_SET_BACKEND_FEATURES: u32 = iow::<u64>(0x25);
/// Tells the back-end features on offer, a `u64`. The direction bits in `<linux/vhost.h>` are
/// those of a plain read of 8 bytes.
pub const VHOST_GET_BACKEND_FEATURES: u32 = ior::<u64>(0x26);
/// Attaches the disk, a [`VringFile`] with an open block device; [`FD_UNBIND`] detaches it.
pub const VHOST_BLK_SET_BACKEND: u32 = iow::<VringFile>(0xFF);

/// `VHOST_FILE_UNBIND`: the fd that takes a file away.
pub const FD_UNBIND: i32 = -1;

/// `VHOST_VRING_F_LOG`, a flag of [`VringAddr`].
pub const VRING_F_LOG: u32 = 0;

/// Tells the counters since SET_OWNER, a [`Stats`].
pub const VHOST_BLK_GET_STATS: u32 = ior::<Stats>(0xE0);
/// Sets what GET_ID answers: [`crate::request::ID_BYTES`] bytes, padded with zeroes.
pub const VHOST_BLK_SET_SERIAL: u32 = iow::<[u8; crate::request::ID_BYTES]>(0xE1);
/// Tells the version and the limits of the module, an [`Info`]. Needs no owner.
pub const VHOST_BLK_GET_INFO: u32 = ior::<Info>(0xE2);

/// Switches between writing back (1) and writing through (0), a `u32`: what the guest wrote to
/// `wce` of its configuration space.
pub const VHOST_BLK_SET_WRITEBACK: u32 = iow::<u32>(0xE3);
/// Tells the configuration space for a disk: a [`ConfigHeader`] and
/// [`crate::config::CONFIG_BYTES`] bytes behind it. Needs no owner.
pub const VHOST_BLK_GET_CONFIG: u32 =
    iowr::<[u8; ConfigHeader::BYTES + crate::config::CONFIG_BYTES]>(0xE4);
/// Sets the eventfd to signal when the configuration space has changed, an `i32`: an open file, or
/// [`FD_UNBIND`].
pub const VHOST_BLK_SET_CONFIG_CALL: u32 = iow::<i32>(0xE5);

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
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl $name {
            /// Size of the C structure in bytes.
            pub const BYTES: usize = size_of::<Self>();

            /// From the bytes of the C structure.
            pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
                Self {
                    $( $field: {
                        let mut raw = [0; size_of::<$type>()];
                        let from = bytes.iter().skip(core::mem::offset_of!(Self, $field));
                        raw.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                        <$type>::from_ne_bytes(raw)
                    }, )*
                }
            }

            /// The bytes of the C structure.
            pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
                let mut bytes = [0; size_of::<Self>()];
                $(
                    let to = bytes.iter_mut().skip(core::mem::offset_of!(Self, $field));
                    to.zip(self.$field.to_ne_bytes()).for_each(|(to, from)| *to = from);
                )*
                bytes
            }
        }
    };
}

argument! {
    /// `struct vhost_vring_state`.
    VringState {
        /// Which queue.
        index: u32,
        /// A number of entries, or a position.
        num: u32,
    }
}

argument! {
    /// `struct vhost_vring_file`.
    VringFile {
        /// Which queue.
        index: u32,
        /// An open file, or [`FD_UNBIND`].
        fd: i32,
    }
}

argument! {
    /// `struct vhost_vring_addr`. Addresses are those of the owner.
    VringAddr {
        /// Which queue.
        index: u32,
        /// A bit for [`VRING_F_LOG`], no other.
        flags: u32,
        /// Descriptor table.
        desc_user_addr: u64,
        /// Used ring.
        used_user_addr: u64,
        /// Available ring.
        avail_user_addr: u64,
        /// Where writes to the used ring are logged; not used.
        log_guest_addr: u64,
    }
}

argument! {
    /// The fixed part of `struct vhost_memory`.
    MemoryHeader {
        /// How many [`MemoryRegion`]s follow.
        nregions: u32,
        /// Must be 0.
        padding: u32,
    }
}

argument! {
    /// `struct vhost_memory_region`.
    MemoryRegion {
        /// Where it begins for the guest.
        guest_phys_addr: u64,
        /// Its length in bytes.
        memory_size: u64,
        /// Where it begins in the owner.
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
        /// Told: bytes of the configuration space behind this.
        size: u32,
        /// Told: the features that fit the disk.
        features: u64,
    }
}
