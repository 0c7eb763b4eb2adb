// SPDX-License-Identifier: GPL-2.0

//! `vblk info`: what the kernel module offers.

use super::Status;
use crate::backend::vhost;
use vblk_core::features::{
    bit,
    Features, //
};

const NAMES: [(u32, &str); 15] = [
    (bit::BLK_SIZE_MAX, "SIZE_MAX"),
    (bit::BLK_SEG_MAX, "SEG_MAX"),
    (bit::BLK_RO, "RO"),
    (bit::BLK_SIZE, "BLK_SIZE"),
    (bit::BLK_FLUSH, "FLUSH"),
    (bit::BLK_TOPOLOGY, "TOPOLOGY"),
    (bit::BLK_CONFIG_WCE, "CONFIG_WCE"),
    (bit::BLK_MQ, "MQ"),
    (bit::BLK_DISCARD, "DISCARD"),
    (bit::BLK_WRITE_ZEROES, "WRITE_ZEROES"),
    (bit::BLK_SECURE_ERASE, "SECURE_ERASE"),
    (bit::RING_INDIRECT_DESC, "INDIRECT_DESC"),
    (bit::RING_EVENT_IDX, "EVENT_IDX"),
    (bit::VERSION_1, "VERSION_1"),
    (bit::RING_PACKED, "RING_PACKED"),
];

/// Prints it, or why the module is absent.
pub fn info() -> Result<Status, String> {
    match vhost::module() {
        Ok(module) => {
            let info = module.info;
            println!("module: vhost_blk_rs, interface version {}", info.version);
            println!("features: {}", names(module.features));
            println!(
                "limits: {} queues, {} entries each, {} memory regions",
                info.max_queues, info.max_queue_size, info.max_mem_regions
            );
            Ok(Status::Success)
        }
        Err(e) => {
            eprintln!("vblk: {e}");
            Ok(Status::Failure)
        }
    }
}

fn names(features: Features) -> String {
    let name = |number| match NAMES.iter().find(|(bit, _)| *bit == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("bit {number}"),
    };
    let names: Vec<_> = (0..64)
        .filter(|&number| features.has(number))
        .map(name)
        .collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_names() {
        assert_eq!(
            names(Features::SUPPORTED),
            "SIZE_MAX SEG_MAX RO BLK_SIZE FLUSH TOPOLOGY CONFIG_WCE MQ DISCARD WRITE_ZEROES \
             SECURE_ERASE INDIRECT_DESC EVENT_IDX VERSION_1 RING_PACKED"
        );
        assert_eq!(names(Features(1 << 33)), "bit 33");
    }
}
