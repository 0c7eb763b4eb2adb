// SPDX-License-Identifier: GPL-2.0

//! What a user who makes a mistake reads: one line, and exit status 2.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{
        Command,
        Output,
        Stdio, //
    },
};
use tempfile::TempDir;

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
            "--disk path=@disk: in use (mounted, part of a volume, or given to another guest)",
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
    for words in ["--help", "run --help", "info --help", "--version"] {
        let output = place.vblk(words);
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{words}"
        );
    }
}
