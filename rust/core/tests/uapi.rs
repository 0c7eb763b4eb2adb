// SPDX-License-Identifier: GPL-2.0

//! Constants and structures against the C headers: a small C program says what they are there.
//!
//! A C compiler (`CC`, or `cc`) and Linux's source are needed; without them the tests fail. The
//! system's own headers may be older and lack some of the names. The source is that in
//! `VBLK_KERNEL_SOURCE`, or else the one that `make setup` puts into the cache.

use std::{
    collections::HashMap,
    env,
    fs,
    mem::offset_of,
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};
use vblk_core::{
    config::{
        CONFIG_BYTES,
        CONFIG_WCE, //
    },
    features::bit,
    packed,
    priority::Priority,
    queue::QueueSize,
    range::{
        RangeOp,
        RANGE_BYTES, //
    },
    request::{
        RequestType,
        Status,
        HEADER_BYTES,
        ID_BYTES, //
    },
    split::{
        self,
        Descriptor, //
    },
    uapi::*,
};

const HEADERS: [&str; 7] = [
    "linux/ioprio.h",
    "linux/vhost.h",
    "linux/vhost_blk_rs.h",
    "linux/virtio_blk.h",
    "linux/virtio_config.h",
    "linux/virtio_ring.h",
    "stddef.h",
];

/// Returns the headers in Linux's source, as they are before `make headers_install`.
fn kernel_headers() -> PathBuf {
    let has_headers = |source: &Path| source.join("include/uapi/linux/vhost.h").is_file();
    let source = if let Some(source) = env::var_os("VBLK_KERNEL_SOURCE") {
        let source = PathBuf::from(source);
        assert!(
            has_headers(&source),
            "VBLK_KERNEL_SOURCE={}: no source of a kernel",
            source.display()
        );
        source
    } else {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(set("HOME").expect("HOME is set")).join(".cache");
        let cache = cache.unwrap_or_else(home).join("vhost-blk-rs/src");
        let unpacked = fs::read_dir(&cache).into_iter().flatten();
        // The series that is tested first has the smallest number, see scripts/lib.sh.
        let source = unpacked
            .map(|entry| entry.expect("an entry of the cache").path())
            .filter(|path| path.join(".vhost-blk-rs-version").is_file() && has_headers(path))
            .min();
        source.unwrap_or_else(|| {
            panic!(
                "no kernel source under {}: run 'make setup', or set VBLK_KERNEL_SOURCE",
                cache.display()
            )
        })
    };
    source.join("include/uapi")
}

/// Returns a directory with the one header that those of Linux include and `make headers_install`
/// would have left out.
fn left_out_headers() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("include");
    fs::create_dir_all(dir.join("linux")).expect("a directory");
    fs::write(dir.join("linux/compiler.h"), "").expect("an empty header");
    dir
}

/// Returns the values of these C expressions, all integers.
fn c_values(test: &str, expressions: &[String]) -> HashMap<String, u64> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (dir.join(format!("{test}.c")), dir.join(test));
    let includes: String = HEADERS
        .iter()
        .map(|h| format!("#include <{h}>\n"))
        .collect();
    let prints: String = expressions
        .iter()
        .map(|e| format!("\tprintf(\"%llu\\n\", (unsigned long long)({e}));\n"))
        .collect();
    let text =
        format!("{includes}#include <stdio.h>\nint main(void)\n{{\n{prints}\treturn 0;\n}}\n");
    fs::write(&source, text).expect("the program is written");

    let cc = env::var("CC").unwrap_or_else(|_| "cc".into());
    let compiled = Command::new(&cc)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror"])
        .args(["-D__EXPORTED_HEADERS__", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include/uapi"))
        .arg("-I")
        .arg(kernel_headers())
        .arg("-I")
        .arg(left_out_headers())
        .arg("-o")
        .args([&program, &source])
        .status()
        .unwrap_or_else(|error| panic!("a C compiler is needed, `{cc}` does not start: {error}"));
    assert!(compiled.success(), "{cc} refused {}", source.display());
    let output = Command::new(&program).output().expect("the program runs");
    let printed = String::from_utf8(output.stdout).expect("numbers");
    let values = printed.lines().map(|line| line.parse().expect("a number"));
    let values: HashMap<_, _> = expressions.iter().cloned().zip(values).collect();
    assert_eq!(
        values.len(),
        expressions.len(),
        "each once, each with a value"
    );
    values
}

/// Compares C expressions with what they should be.
fn compare(test: &str, expected: &[(String, u64)]) {
    let expressions: Vec<_> = expected.iter().map(|(e, _)| e.clone()).collect();
    let values = c_values(test, &expressions);
    for (expression, value) in expected {
        let in_c = values[expression];
        assert_eq!(
            in_c, *value,
            "{expression} is {in_c:#x} in C, {value:#x} here"
        );
    }
}

/// Each constant under the same name in C.
macro_rules! constants {
    ($($name:ident),* $(,)?) => {
        vec![$((stringify!($name).to_string(), u64::from($name))),*]
    };
}

#[test]
fn command_numbers_are_those_of_the_headers() {
    let commands = constants![
        VHOST_GET_FEATURES,
        VHOST_SET_FEATURES,
        VHOST_SET_OWNER,
        VHOST_RESET_OWNER,
        VHOST_SET_MEM_TABLE,
        VHOST_SET_VRING_NUM,
        VHOST_SET_VRING_ADDR,
        VHOST_SET_VRING_BASE,
        VHOST_GET_VRING_BASE,
        VHOST_SET_VRING_KICK,
        VHOST_SET_VRING_CALL,
        VHOST_SET_VRING_ERR,
        VHOST_SET_BACKEND_FEATURES,
        VHOST_GET_BACKEND_FEATURES,
        VHOST_NEW_WORKER,
        VHOST_FREE_WORKER,
        VHOST_ATTACH_VRING_WORKER,
        VHOST_GET_VRING_WORKER,
        VHOST_SET_FORK_FROM_OWNER,
        VHOST_GET_FORK_FROM_OWNER,
        VHOST_BLK_SET_BACKEND,
        VHOST_BLK_GET_STATS,
        VHOST_BLK_SET_SERIAL,
        VHOST_BLK_GET_INFO,
        VHOST_BLK_SET_WRITEBACK,
        VHOST_BLK_GET_CONFIG,
        VHOST_BLK_SET_CONFIG_CALL,
        VHOST_BLK_SET_MEMORY_PINNED,
        VHOST_BLK_VDPA_ADD,
        VHOST_BLK_VDPA_DEL,
        VHOST_BLK_VDPA_GET,
        VHOST_BLK_VDPA_GET_STATS,
    ];
    compare("commands", &commands);
}

/// Size of a C structure, size and offset of its fields, against those of the Rust one.
macro_rules! structure {
    ($rust:ident, $c:literal: $($field:ident),* $(,)?) => {{
        let mut expected = vec![(format!("sizeof({})", $c), $rust::BYTES as u64)];
        $(
            let field = stringify!($field);
            expected.push((
                format!("offsetof({}, {field})", $c),
                offset_of!($rust, $field) as u64,
            ));
            expected.push((
                format!("sizeof((({} *)0)->{field})", $c),
                size_of_val(&$rust::default().$field) as u64,
            ));
        )*
        // All fields of the Rust structure are named: their sizes add up.
        let fields: usize = [$(size_of_val(&$rust::default().$field)),*].iter().sum();
        assert_eq!(fields, $rust::BYTES, "fields of {}", $c);
        expected
    }};
}

#[test]
fn structures_are_those_of_the_headers() {
    let expected = [
        structure!(VringState, "struct vhost_vring_state": index, num),
        structure!(VringFile, "struct vhost_vring_file": index, fd),
        structure!(
            VringAddr,
            "struct vhost_vring_addr":
            index,
            flags,
            desc_user_addr,
            used_user_addr,
            avail_user_addr,
            log_guest_addr,
        ),
        // The regions behind it have no size in C either.
        structure!(MemoryHeader, "struct vhost_memory": nregions, padding),
        structure!(
            MemoryRegion,
            "struct vhost_memory_region":
            guest_phys_addr,
            memory_size,
            userspace_addr,
            flags_padding,
        ),
        structure!(
            Stats,
            "struct vhost_blk_stats":
            kicks,
            requests,
            bytes_read,
            bytes_written,
            flushes,
            interrupts,
            io_errors,
            malformed,
            stopped_queues,
            reserved,
        ),
        structure!(
            Info,
            "struct vhost_blk_info":
            version,
            max_queues,
            max_queue_size,
            max_mem_regions,
            has_vdpa,
            reserved,
        ),
        structure!(
            VdpaAdd,
            "struct vhost_blk_vdpa_add": fd, flags, queues, queue_size, serial, name, poll_us,
            reserved,
        ),
        structure!(VdpaName, "struct vhost_blk_vdpa_name": name),
        structure!(VdpaStats, "struct vhost_blk_vdpa_stats": name, queue, reserved, stats),
        structure!(
            VdpaInfo,
            "struct vhost_blk_vdpa_info":
            index,
            flags,
            major,
            minor,
            queues,
            queue_size,
            status,
            read_only,
            serial,
            name,
            poll_us,
            reserved,
        ),
        structure!(WorkerState, "struct vhost_worker_state": worker_id),
        structure!(VringWorker, "struct vhost_vring_worker": index, worker_id),
    ];
    compare("structures", &expected.concat());

    // What lies behind the header is an array, which the macro does not know.
    let is = |name: &str, value: usize| (name.to_string(), value as u64);
    let config = [
        is(
            "sizeof(struct vhost_blk_config)",
            ConfigHeader::BYTES + CONFIG_ROOM,
        ),
        is(
            "offsetof(struct vhost_blk_config, config)",
            ConfigHeader::BYTES,
        ),
        is("offsetof(struct vhost_blk_config, fd)", 0),
        is(
            "offsetof(struct vhost_blk_config, features)",
            offset_of!(ConfigHeader, features),
        ),
        is("VHOST_BLK_CONFIG_BYTES", CONFIG_ROOM),
        is(
            "offsetof(struct virtio_blk_config, secure_erase_sector_alignment) + 4",
            CONFIG_BYTES,
        ),
        is("offsetof(struct virtio_blk_config, wce)", CONFIG_WCE),
    ];
    compare("config", &config);
}

#[test]
fn numbers_of_vhost_and_virtio_are_those_of_the_headers() {
    let is = |name: &str, value: u64| (name.to_string(), value);
    let one = QueueSize::new(1).expect("a size");
    let split = split::parts(one);
    // The headers have one name for these in both formats.
    assert_eq!(
        [
            packed::Descriptor::F_NEXT,
            packed::Descriptor::F_WRITE,
            packed::Descriptor::F_INDIRECT,
        ],
        [
            Descriptor::F_NEXT,
            Descriptor::F_WRITE,
            Descriptor::F_INDIRECT,
        ],
    );
    let expected = [
        is(
            "(unsigned int)VHOST_FILE_UNBIND",
            u64::from(FD_UNBIND as u32),
        ),
        is("VHOST_VRING_F_LOG", VRING_F_LOG.into()),
        is("VHOST_FORK_OWNER_KTHREAD", FORK_OWNER_KTHREAD.into()),
        is("VHOST_FORK_OWNER_TASK", FORK_OWNER_TASK.into()),
        is("VHOST_BLK_SERIAL_BYTES", ID_BYTES as u64),
        is("VHOST_BLK_VDPA_NAME_BYTES", VDPA_NAME_BYTES as u64),
        is("VHOST_BLK_VDPA_PACKED", VDPA_PACKED.into()),
        is("VHOST_BLK_VDPA_HOST", VDPA_HOST.into()),
        is("VIRTIO_BLK_ID_BYTES", ID_BYTES as u64),
        is("sizeof(struct virtio_blk_outhdr)", HEADER_BYTES as u64),
        is("sizeof(struct vring_desc)", Descriptor::BYTES as u64),
        is("VRING_DESC_F_NEXT", Descriptor::F_NEXT.into()),
        is("VRING_DESC_F_WRITE", Descriptor::F_WRITE.into()),
        is("VRING_DESC_F_INDIRECT", Descriptor::F_INDIRECT.into()),
        is("VRING_DESC_ALIGN_SIZE", split.desc.align),
        is("VRING_AVAIL_ALIGN_SIZE", split.driver.align),
        is("VRING_USED_ALIGN_SIZE", split.device.align),
        is(
            "1 << VRING_PACKED_DESC_F_AVAIL",
            packed::Descriptor::F_AVAIL.into(),
        ),
        is(
            "1 << VRING_PACKED_DESC_F_USED",
            packed::Descriptor::F_USED.into(),
        ),
        is(
            "sizeof(struct vring_packed_desc)",
            packed::parts(one).desc.bytes as u64,
        ),
        is(
            "sizeof(struct vring_packed_desc_event)",
            packed::parts(one).driver.bytes as u64,
        ),
        is("VIRTIO_BLK_S_OK", Status::Ok as u64),
        is("VIRTIO_BLK_S_IOERR", Status::IoError as u64),
        is("VIRTIO_BLK_S_UNSUPP", Status::Unsupported as u64),
        is("VIRTIO_BLK_F_SIZE_MAX", bit::BLK_SIZE_MAX.into()),
        is("VIRTIO_BLK_F_TOPOLOGY", bit::BLK_TOPOLOGY.into()),
        is("VIRTIO_BLK_F_CONFIG_WCE", bit::BLK_CONFIG_WCE.into()),
        is("VIRTIO_BLK_F_DISCARD", bit::BLK_DISCARD.into()),
        is("VIRTIO_BLK_F_WRITE_ZEROES", bit::BLK_WRITE_ZEROES.into()),
        is("VIRTIO_BLK_F_SECURE_ERASE", bit::BLK_SECURE_ERASE.into()),
        is(
            "sizeof(struct virtio_blk_discard_write_zeroes)",
            RANGE_BYTES as u64,
        ),
        is("VIRTIO_BLK_F_SEG_MAX", bit::BLK_SEG_MAX.into()),
        is("VIRTIO_BLK_F_RO", bit::BLK_RO.into()),
        is("VIRTIO_BLK_F_BLK_SIZE", bit::BLK_SIZE.into()),
        is("VIRTIO_BLK_F_FLUSH", bit::BLK_FLUSH.into()),
        is("VIRTIO_BLK_F_MQ", bit::BLK_MQ.into()),
        is(
            "VIRTIO_RING_F_INDIRECT_DESC",
            bit::RING_INDIRECT_DESC.into(),
        ),
        is("VIRTIO_RING_F_EVENT_IDX", bit::RING_EVENT_IDX.into()),
        is("VIRTIO_F_VERSION_1", bit::VERSION_1.into()),
        is("VIRTIO_F_RING_PACKED", bit::RING_PACKED.into()),
    ];
    compare("numbers", &expected);

    let types = [
        ("VIRTIO_BLK_T_IN", RequestType::In),
        ("VIRTIO_BLK_T_OUT", RequestType::Out),
        ("VIRTIO_BLK_T_FLUSH", RequestType::Flush),
        ("VIRTIO_BLK_T_GET_ID", RequestType::GetId),
        (
            "VIRTIO_BLK_T_DISCARD",
            RequestType::Ranges(RangeOp::Discard),
        ),
        (
            "VIRTIO_BLK_T_WRITE_ZEROES",
            RequestType::Ranges(RangeOp::WriteZeroes),
        ),
        (
            "VIRTIO_BLK_T_SECURE_ERASE",
            RequestType::Ranges(RangeOp::SecureErase),
        ),
    ];
    let values = c_values("types", &types.map(|(name, _)| name.to_string()));
    for (name, kind) in types {
        assert_eq!(RequestType::from(values[name] as u32), kind, "{name}");
    }
}

#[test]
fn classes_of_priorities_are_those_of_the_headers() {
    let value = |class: &str, level: u16| format!("{class} << IOPRIO_CLASS_SHIFT | {level}");
    let grants = [
        ("IOPRIO_CLASS_NONE", [false, false]),
        ("IOPRIO_CLASS_RT", [false, true]),
        ("IOPRIO_CLASS_BE", [true, true]),
        ("IOPRIO_CLASS_IDLE", [true, true]),
        ("IOPRIO_CLASS_IDLE + 1", [false, false]),
    ];
    let expressions = grants.map(|(class, _)| value(&format!("({class})"), 7));
    let values = c_values("priorities", &expressions);
    for ((class, granted), expression) in grants.into_iter().zip(&expressions) {
        let value = values[expression] as u16;
        let get = |realtime| Priority::grant(value.into(), realtime).get();
        let expected = granted.map(|granted| if granted { value } else { 0 });
        assert_eq!([get(false), get(true)], expected, "{class}");
    }
}

#[test]
fn structures_survive_the_way_through_bytes() {
    let bytes: [u8; VringAddr::BYTES] = core::array::from_fn(|i| i as u8 + 1);
    let addr = VringAddr::from_bytes(&bytes);
    assert_eq!(addr.to_bytes(), bytes);
    assert_eq!(addr.index, u32::from_ne_bytes([1, 2, 3, 4]));
    assert_eq!(addr.flags, u32::from_ne_bytes([5, 6, 7, 8]));
    assert_eq!(
        addr.desc_user_addr,
        u64::from_ne_bytes([9, 10, 11, 12, 13, 14, 15, 16])
    );
    assert_eq!(
        addr.log_guest_addr,
        u64::from_ne_bytes([33, 34, 35, 36, 37, 38, 39, 40])
    );

    let file = VringFile {
        index: 7,
        fd: FD_UNBIND,
    };
    assert_eq!(VringFile::from_bytes(&file.to_bytes()), file);
    let stats = Stats {
        kicks: 1,
        malformed: u64::MAX,
        ..Stats::default()
    };
    assert_eq!(Stats::from_bytes(&stats.to_bytes()), stats);
}
