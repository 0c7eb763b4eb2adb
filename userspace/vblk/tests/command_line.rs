// SPDX-License-Identifier: GPL-2.0

//! What a user who makes a mistake reads: one line, and exit status 2.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use vblk::disk::{Disk, Options};

/// A directory with files that are nearly right.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        };
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.dir.path(), everybody).unwrap();
        // As much of a bzImage as is looked at before disks are.
        let mut kernel = vec![0; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(place.path("kernel"), kernel).unwrap();
        fs::write(place.path("text"), "no kernel\n").unwrap();
        fs::write(place.path("disk"), vec![0; 1 << 20]).unwrap();
        fs::write(place.path("odd"), vec![0; 1000]).unwrap();
        fs::write(place.path("empty"), "").unwrap();
        fs::create_dir(place.path("directory")).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs it with words in which `@` stands for the directory.
    fn vblk(&self, words: &str) -> Output {
        let here = format!("{}/", self.dir.path().display());
        Command::new(env!("CARGO_BIN_EXE_vblk"))
            .args(
                words
                    .split_whitespace()
                    .map(|word| word.replace('@', &here)),
            )
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn refused(&self, words: &str, line: &str) {
        let output = self.vblk(words);
        let here = format!("{}/", self.dir.path().display());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said,
            format!("vblk: {}\n", line.replace('@', &here)),
            "{words}"
        );
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(output.stdout.is_empty(), "{words}");
    }
}

#[test]
fn every_wrong_option_is_named() {
    let place = Place::new();
    for (words, line) in [
        ("", "no command given: see vblk --help"),
        ("boot", "boot: unknown command"),
        ("run", "--kernel: missing"),
        ("run --kernel", "--kernel: needs a value"),
        ("info --xml", "--xml: unknown option"),
        ("completions", "<SHELL>: missing"),
        ("completions csh", "csh: unknown; known are bash, elvish, fish, powershell, zsh"),
        ("run --kernel @kernel --fast", "--fast: unknown option"),
        ("run --kernel @kernel extra", "extra: unknown option"),
        ("run --kernel @kernel --cpus 1 --cpus 2", "--cpus: given more than once"),
        ("run --kernel @kernel --cpus 0", "--cpus 0: not a number from 1 to 254"),
        ("run --kernel @kernel --cpus -1", "--cpus -1: not a number from 1 to 254"),
        ("run --kernel @kernel --cpus 255", "--cpus 255: not a number from 1 to 254"),
        ("run --kernel @kernel --cpus two", "--cpus two: not a number from 1 to 254"),
        ("run --kernel @kernel --memory 0", "--memory 0: too small: at least 16M"),
        ("run --kernel @kernel --memory 1M", "--memory 1M: too small: at least 16M"),
        ("run --kernel @kernel --memory 1.5G", "--memory 1.5G: not a size such as 256M or 1G"),
        ("run --kernel @kernel --memory -1G", "--memory -1G: not a size such as 256M or 1G"),
        ("run --kernel @kernel --memory 33554433", "--memory 33554433: not a multiple of 4096"),
        ("run --kernel @kernel --seccomp maybe", "--seccomp maybe: none of on, off, log"),
        ("run --kernel @none", "--kernel @none: No such file or directory"),
        ("run --kernel @directory", "--kernel @directory: Is a directory"),
        ("run --kernel /dev/null", "--kernel /dev/null: not a regular file"),
        ("run --kernel @text", "--kernel @text: neither a bzImage nor an ELF file"),
        ("run --kernel @empty", "--kernel @empty: neither a bzImage nor an ELF file"),
        ("run --kernel @kernel --initrd @none", "--initrd @none: No such file or directory"),
        ("run --kernel @kernel --initrd @directory", "--initrd @directory: Is a directory"),
        ("run --kernel @kernel --disk path=@none", "--disk path=@none: No such file or directory"),
        (
            "run --kernel @kernel --disk path=@directory",
            "--disk path=@directory: Is a directory (wanted: a block device, or a file for \
             backend=io-uring)",
        ),
        (
            "run --kernel @kernel --disk path=/dev/null",
            "--disk path=/dev/null: neither a block device nor a regular file",
        ),
        (
            "run --kernel @kernel --disk path=@disk",
            "--disk path=@disk: backend=vhost needs a block device: losetup --direct-io=on --show \
             --find @disk makes one",
        ),
        (
            "run --kernel @kernel --disk path=@disk,backend=io-uring --disk path=@disk,backend=io-uring",
            "--disk path=@disk: in use (mounted, part of a volume, given to another guest, or of a vDPA device: vblk vdpa list)",
        ),
        ("run --kernel @kernel --disk backend=vhost", "--disk backend=vhost: path= is missing"),
        (
            "run --kernel @kernel --disk path=@disk,backend=aio",
            "--disk backend=aio: no such back-end: vhost or io-uring",
        ),
    ] {
        place.refused(words, line);
    }
}

#[test]
fn there_are_not_more_disks_than_interrupts() {
    let disks = " --disk path=@disk,backend=io-uring".repeat(19);
    Place::new().refused(
        &format!("run --kernel @kernel{disks}"),
        "--disk: given 19 times, 18 is the most",
    );
}

#[test]
fn absurd_memory_is_more_than_the_host_has() {
    let place = Place::new();
    let output = place.vblk("run --kernel @kernel --memory 16000000T");
    let said = String::from_utf8(output.stderr).unwrap();
    let line = "vblk: --memory 16000000T: this host has only ";
    assert!(
        said.starts_with(line) && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(output.status.code(), Some(2));
    place.refused(
        "run --kernel @kernel --memory 99999999999T",
        "--memory 99999999999T: not a size such as 256M or 1G",
    );
}

#[test]
fn a_disk_of_no_whole_blocks_is_refused() {
    let place = Place::new();
    for name in ["odd", "empty"] {
        let output = place.vblk(&format!(
            "run --kernel @kernel --disk path=@{name},backend=io-uring"
        ));
        let said = String::from_utf8(output.stderr).unwrap();
        let line = format!("vblk: --disk path={}: ", place.path(name));
        assert!(said.starts_with(&line), "{said}");
        assert!(said.contains("bytes are not a whole number of"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn control_characters_do_not_reach_the_kernels_command_line() {
    let place = Place::new();
    let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
        .args([
            "run",
            "--kernel",
            &place.path("kernel"),
            "--cmdline",
            "a\nb",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "vblk: --cmdline: has control characters\n");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn files_that_one_may_not_read_are_named() {
    let place = Place::new();
    fs::set_permissions(place.path("kernel"), fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read(place.path("kernel")).is_ok() {
        // Root reads everything: ask somebody else, who must be able to get here.
        let mut dir = Some(place.dir.path());
        while let Some(path) = dir.filter(|path| *path != Path::new("/")) {
            if fs::metadata(path).unwrap().permissions().mode() & 1 == 0 {
                eprintln!("NOT TESTED: nobody can't reach {}", path.display());
                return;
            }
            dir = path.parent();
        }
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_vblk"))
        .args(["run", "--kernel", &place.path("kernel")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let line = format!(
        "vblk: --kernel {}: Permission denied\n",
        place.path("kernel")
    );
    assert_eq!(said, line);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn without_the_module_the_way_out_is_named() {
    if Path::new("/dev/vhost-blk-rs").exists() {
        eprintln!("NOT TESTED: the module is loaded");
        return;
    }
    let place = Place::new();
    let output = place.vblk("info");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "vblk: no /dev/vhost-blk-rs: load the module vhost_blk_rs, or use backend=io-uring\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_and_version_succeed() {
    let place = Place::new();
    for words in [
        "--help",
        "run --help",
        "info --help",
        "--version",
        "completions bash",
        "completions zsh",
        "completions fish",
    ] {
        let output = place.vblk(words);
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{words}"
        );
    }
}

/// Whatever becomes of its output, the program does not panic: status 101 would be that.
#[test]
fn output_that_goes_nowhere_is_no_reason_to_panic() {
    let place = Place::new();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let kernel = place.path("text");
    for (words, status) in [
        (vec!["run", "--kernel", &kernel], 2),
        (vec!["run"], 2),
        (vec![], 2),
        (vec!["--help"], 1),
        (vec!["run", "--help"], 1),
        (vec!["--version"], 1),
        (vec!["info"], 1),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
            .args(&words)
            .stdin(Stdio::null())
            .stdout(full())
            .stderr(full())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}");
    }
    // What the user asked for and does not get is told.
    let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
        .arg("--version")
        .stdout(full())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "vblk: standard output: No space left on device\n");
}

/// As `vblk --help | head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for words in [&["--help"][..], &["run", "--help"]] {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
            .args(words)
            .stdout(OwnedFd::from(writer))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(output.stderr.is_empty(), "{words:?}");
    }
}

/// Runs it in a shell, with limits set there.
fn limited(limits: &str, words: &str) -> (Option<i32>, String) {
    let script = format!("{limits} && exec \"$0\" {words}");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_vblk")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[test]
fn a_limit_on_files_is_named_with_the_need() {
    let place = Place::new();
    let kernel = place.path("kernel");
    let disk = format!("--disk path={},backend=io-uring", place.path("disk"));
    for (limits, words) in [
        ("ulimit -n 24", format!("run --kernel {kernel} {disk}")),
        (
            "ulimit -n 4000",
            format!(
                "run --kernel {kernel} {}",
                format!("{disk},queues=256 ").repeat(5)
            ),
        ),
    ] {
        let (status, said) = limited(limits, &words);
        assert_eq!(status, Some(2), "{said}");
        let start = "vblk: --disk: these disks and queues need ";
        assert!(
            said.starts_with(start) && said.lines().count() == 1,
            "{said}"
        );
        let limit = limits.rsplit(' ').next().unwrap();
        let end = format!("the limit is {limit} (RLIMIT_NOFILE, ulimit -n)\n");
        assert!(said.ends_with(&end), "{said}");
    }
    // Only the soft limit is too low: it is raised, and something else is found.
    let (status, said) = limited(
        "ulimit -S -n 24",
        &format!("run --kernel {kernel} --disk path={}", place.path("none")),
    );
    assert_eq!(status, Some(2));
    assert!(
        said.ends_with("none: No such file or directory\n"),
        "{said}"
    );
}

#[test]
fn files_have_small_blocks_unless_asked_otherwise() {
    let place = Place::new();
    for (name, bytes) in [("seed", 374_784), ("dos", 1 << 20)] {
        fs::write(place.path(name), vec![0; bytes]).unwrap();
    }
    // On any file system: one that demands more is read through its cache.
    let options = Options {
        block_size: Some(512),
        ..Options::default()
    };
    let disk = Disk::open(Path::new(&place.path("seed")), &options).unwrap();
    assert_eq!((disk.block_size(), disk.sectors()), (512, 732));
    drop(disk);
    let options = Options {
        block_size: Some(4096),
        ..Options::default()
    };
    let disk = Disk::open(Path::new(&place.path("dos")), &options).unwrap();
    assert_eq!(disk.block_size(), 4096);
    drop(disk);
    place.refused(
        "run --kernel @kernel --disk path=@seed,backend=io-uring,block-size=4096",
        "--disk path=@seed: 374784 bytes are not a whole number of 4096-byte blocks; add \
         block-size=512",
    );
    // A file in memory.
    let shm = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    shm.as_file().set_len(374_784).unwrap();
    let disk = Disk::open(shm.path(), &Options::default()).unwrap();
    assert_eq!(disk.block_size(), 512);
}

#[test]
fn two_images_without_serial_numbers_differ() {
    let place = Place::new();
    fs::write(place.path("other"), vec![0; 1 << 20]).unwrap();
    let id = |name| {
        let disk = Disk::open(Path::new(&place.path(name)), &Options::default()).unwrap();
        *disk.id()
    };
    assert_ne!(id("disk"), id("other"));
    assert_eq!(id("disk"), id("disk"));
}

#[test]
fn readers_share_a_file_and_a_writer_does_not() {
    let place = Place::new();
    let path = place.path("disk");
    let read_only = Options {
        read_only: true,
        ..Options::default()
    };
    let open = |options: &Options| Disk::open(Path::new(&path), options);
    let first = open(&read_only).unwrap();
    let second = open(&read_only).unwrap();
    let refused = open(&Options::default()).unwrap_err().to_string();
    assert!(refused.starts_with("in use"), "{refused}");
    drop((first, second));
    let _writer = open(&Options::default()).unwrap();
    let refused = open(&read_only).unwrap_err().to_string();
    assert!(refused.starts_with("in use"), "{refused}");
}

#[test]
fn a_lock_that_ends_in_a_moment_is_waited_for() {
    let place = Place::new();
    let path = place.path("disk");
    let open = || Disk::open(Path::new(&path), &Options::default());
    let first = open().unwrap();
    let (ended, second) = std::thread::scope(|scope| {
        let ending = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            let ended = Instant::now();
            drop(first);
            ended
        });
        let second = open().map(|_| Instant::now());
        (ending.join().unwrap(), second)
    });
    assert!(second.unwrap() >= ended);
}

#[test]
fn every_wrong_vdpa_option_is_named() {
    let place = Place::new();
    for (words, line) in [
        ("vdpa add vm1", "--path: missing"),
        (
            "vdpa add vm1 --path @none",
            "--path @none: No such file or directory",
        ),
        (
            "vdpa add vm1 --path @disk",
            "--path @disk: a vDPA device needs a block device (for a file: losetup --direct-io=on)",
        ),
        (
            "vdpa add vm1 --path @disk --queues 0",
            "--queues 0: wanted 1 to 128 for a VMM",
        ),
        (
            "vdpa add vm1 --path @disk --queues 257 --for host",
            "--queues 257: wanted 1 to 256 for the host",
        ),
        (
            "vdpa add vm1 --path @disk --poll-us 1000001",
            "--poll-us 1000001: wanted 0 to 1000000",
        ),
        (
            "vdpa add vm1 --path @disk --queues -1",
            "--queues -1: wanted 1 to 128 for a VMM",
        ),
        (
            "vdpa add vm1 --path @disk --queues 129",
            "--queues 129: wanted 1 to 128 for a VMM",
        ),
        (
            "vdpa add vm1 --path @disk --queues 129 --for host",
            "--path @disk: a vDPA device needs a block device (for a file: losetup --direct-io=on)",
        ),
        (
            "vdpa add vm1 --path @disk --queue-size 100",
            "--queue-size 100: wanted a power of two from 4 to 32768",
        ),
        (
            "vdpa add vm1 --path @disk --queue-size 65536",
            "--queue-size 65536: wanted a power of two from 4 to 32768",
        ),
        (
            "vdpa add vm1 --path @disk --serial 123456789012345678901",
            "--serial 123456789012345678901: longer than 20 bytes",
        ),
        (
            "vdpa add vm1 --path @disk --for nobody",
            "nobody: unknown; known are guest, host",
        ),
        ("vdpa rename", "rename: unknown command"),
    ] {
        place.refused(words, line);
    }
}

#[test]
fn only_a_block_device_becomes_a_vdpa_device() {
    let place = Place::new();
    // Neither is told of a length or a block size that a back-end in user space would want.
    for path in ["@disk", "@odd", "@empty", "@directory", "/dev/null"] {
        place.refused(
            &format!("vdpa add vm1 --path {path}"),
            &format!(
                "--path {path}: a vDPA device needs a block device (for a file: losetup \
                 --direct-io=on)"
            ),
        );
    }
}

#[test]
fn a_wrong_name_of_a_vdpa_device_is_told_first() {
    let long = "x".repeat(64);
    for name in ["", "..", "vm/1", "vm 1", &long] {
        for (before, after) in [
            (&["vdpa", "add"][..], &["--path", "/none"][..]),
            (&["vdpa", "del"], &[]),
            (&["vdpa", "stats"], &[]),
        ] {
            let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
                .args(before)
                .arg(name)
                .args(after)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let line = format!(
                "vblk: {name:?}: a name has 1 to 63 visible ASCII characters, and no '/'\n"
            );
            assert_eq!(said, line);
            assert_eq!(output.status.code(), Some(2));
        }
    }
}

#[test]
fn without_the_module_vdpa_names_the_way_out() {
    if Path::new("/dev/vhost-blk-rs").exists() {
        eprintln!("NOT TESTED: the module is loaded");
        return;
    }
    let place = Place::new();
    for words in ["vdpa list", "vdpa del vm1", "vdpa stats vm1"] {
        place.refused(words, "no /dev/vhost-blk-rs: load the module vhost_blk_rs");
    }
}

#[test]
fn help_of_vdpa_has_each_command_and_option() {
    let place = Place::new();
    for (words, parts) in [
        ("vdpa --help", &["add", "list", "del", "stats"][..]),
        (
            "vdpa add --help",
            &[
                "<NAME>",
                "--path <DISK>",
                "--readonly",
                "--serial <STR>",
                "--queues <N>",
                "[default: 1]",
                "--queue-size <N>",
                "[default: 256]",
                "--packed",
                "--poll-us <N>",
                "--for <WHO>",
                "[default: guest]",
                "[possible values: guest, host]",
                "/dev/vhost-vdpa-N",
            ],
        ),
        ("vdpa del --help", &["<NAME>"]),
        ("vdpa stats --help", &["<NAME>"]),
        ("vdpa list --help", &["name, node, disk"]),
    ] {
        let output = place.vblk(words);
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert!(output.stderr.is_empty(), "{words}");
        let said = String::from_utf8(output.stdout).unwrap();
        for part in parts {
            assert!(said.contains(part), "{words}: no {part:?} in {said}");
        }
    }
}
