// SPDX-License-Identifier: GPL-2.0

//! The options of `vblk serve`.

use std::process::Command;
use tempfile::NamedTempFile;

#[test]
fn its_capabilities_are_printed_whatever_else_is_asked() {
    for more in [
        &[][..],
        &["--socket-path", "/nowhere/socket", "--read-only"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
            .args(["serve", "--print-capabilities"])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let words: String = text.split_whitespace().collect();
        assert_eq!(
            words,
            r#"{"type":"block","features":["read-only","blk-file"]}"#
        );
    }
}

#[test]
fn every_wrong_option_is_named() {
    // Beside the build, as direct I/O needs a real file system.
    let file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = file.path().display().to_string();
    let one = ["--blk-file", &disk, "--backend", "io-uring"];
    let socket = ["--socket-path", "/nowhere/socket"];
    for (options, line) in [
        (vec![], "--blk-file: missing".to_owned()),
        (one.to_vec(), "--socket-path: missing".into()),
        (
            [&one[..], &socket, &["--fd", "3"]].concat(),
            "--fd: not together with --socket-path".into(),
        ),
        (
            [&one[..], &socket].concat(),
            "--socket-path /nowhere/socket: No such file or directory".into(),
        ),
        (
            [&one[..], &["--fd", "x"]].concat(),
            "--fd x: not a number".into(),
        ),
        (
            [&one[..], &["--fd", "1"]].concat(),
            "--fd 1: Invalid argument".into(),
        ),
        (
            [&one[..], &["--fd", "99"]].concat(),
            "--fd 99: Bad file descriptor".into(),
        ),
        (
            vec!["--blk-file", &disk, "--backend", "fast"],
            "--backend: \"fast\" is none of vhost, io-uring".into(),
        ),
        (
            vec!["--blk-file", &disk],
            format!(
                "--blk-file {disk}: backend=vhost needs a block device: losetup --direct-io=on \
                 --show --find {disk} makes one"
            ),
        ),
        (
            [&one[..], &["--num-queues", "0"]].concat(),
            "--num-queues 0: not a number from 1 to 256".into(),
        ),
        (
            [&one[..], &["--queue-size", "3"]].concat(),
            "--queue-size 3: wanted a power of two from 4 to 32768".into(),
        ),
        (
            [&one[..], &["--serial", "012345678901234567890"]].concat(),
            "--serial 012345678901234567890: longer than 20 bytes".into(),
        ),
        (
            [&one[..], &["--seccomp", "maybe"]].concat(),
            "--seccomp maybe: none of on, off, log".into(),
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vblk"));
        let output = command.arg("serve").args(&options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, format!("vblk: {line}\n"));
        assert_eq!(output.status.code(), Some(2), "{said}");
    }
}
