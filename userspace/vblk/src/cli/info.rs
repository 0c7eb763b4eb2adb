// SPDX-License-Identifier: GPL-2.0

//! `vblk info`: what the kernel module offers.

use super::{
    stdio::{answer, tell},
    Status,
};
use crate::backend::vhost::{self, Module};
use clap::Args;
use vblk_core::features::{bit, Features};

const NAMES: [(u32, &str); 15] = [
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
    (bit::LOG_ALL, "LOG_ALL"),
    (bit::RING_INDIRECT_DESC, "INDIRECT_DESC"),
    (bit::RING_EVENT_IDX, "EVENT_IDX"),
    (bit::VERSION_1, "VERSION_1"),
    (bit::RING_PACKED, "RING_PACKED"),
];

/// The options of `vblk info`.
#[derive(Args, Debug)]
pub struct InfoOptions {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints it, or why the module is absent.
pub fn info(options: &InfoOptions) -> Result<Status, String> {
    match vhost::module() {
        Ok(module) if options.json => answer(&json(&module)),
        Ok(module) => answer(&text(&module)),
        Err(e) => {
            tell(&e.to_string());
            Ok(Status::Failure)
        }
    }
}

fn text(module: &Module) -> String {
    let info = module.info;
    format!(
        "module: vhost_blk_rs, interface version {}\n\
         features: {}\n\
         limits: {} queues, {} entries each, {} memory regions\n\
         vdpa: {}\n",
        info.version,
        names(module.features).join(" "),
        info.max_queues,
        info.max_queue_size,
        info.max_mem_regions,
        match info.has_vdpa {
            0 => "no (the module was built for a kernel without CONFIG_VDPA)",
            _ => "yes",
        }
    )
}

/// The names have nothing in them that JSON would want escaped.
fn json(module: &Module) -> String {
    let info = module.info;
    format!(
        "{{\"module\":\"vhost_blk_rs\",\"interface_version\":{},\"features\":[\"{}\"],\
         \"feature_bits\":\"{:#x}\",\"max_queues\":{},\"max_queue_size\":{},\
         \"max_mem_regions\":{},\"vdpa\":{}}}\n",
        info.version,
        names(module.features).join("\",\""),
        module.features.0,
        info.max_queues,
        info.max_queue_size,
        info.max_mem_regions,
        info.has_vdpa != 0
    )
}

fn names(features: Features) -> Vec<String> {
    let name = |number| match NAMES.iter().find(|(bit, _)| *bit == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("bit {number}"),
    };
    (0..64)
        .filter(|&number| features.has(number))
        .map(name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vblk_core::uapi::Info;

    #[test]
    fn features_have_names() {
        assert_eq!(
            names(Features::VHOST).join(" "),
            "SEG_MAX RO BLK_SIZE FLUSH TOPOLOGY CONFIG_WCE MQ DISCARD WRITE_ZEROES \
             SECURE_ERASE LOG_ALL INDIRECT_DESC EVENT_IDX VERSION_1 RING_PACKED"
        );
        assert_eq!(names(Features(1 << 33)), ["bit 33"]);
    }

    #[test]
    fn people_and_programs_read_the_same() {
        let module = Module {
            info: Info {
                version: 6,
                max_queues: 256,
                max_queue_size: 32768,
                max_mem_regions: 64,
                ..Info::default()
            },
            features: Features(1 << 32 | 1 << 9),
        };
        assert_eq!(
            text(&module),
            "module: vhost_blk_rs, interface version 6\nfeatures: FLUSH VERSION_1\nlimits: 256 \
             queues, 32768 entries each, 64 memory regions\nvdpa: no (the module was built for a \
             kernel without CONFIG_VDPA)\n"
        );
        assert_eq!(
            json(&module),
            "{\"module\":\"vhost_blk_rs\",\"interface_version\":6,\"features\":[\"FLUSH\",\
             \"VERSION_1\"],\"feature_bits\":\"0x100000200\",\"max_queues\":256,\
             \"max_queue_size\":32768,\"max_mem_regions\":64,\"vdpa\":false}\n"
        );
    }
}
