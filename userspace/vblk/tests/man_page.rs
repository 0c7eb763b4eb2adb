// SPDX-License-Identifier: GPL-2.0

//! The manual page against what the program knows.

use std::{collections::BTreeSet, fs, process::Command};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/man/vblk.1");

/// Words that describe one thing: a command, an option with its command, a part of `--disk`.
type Words = BTreeSet<String>;

/// Runs the program; returns all that it prints.
fn vblk(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vblk"))
        .args(words)
        .output()
        .unwrap();
    let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    texts.concat()
}

/// Adds what `--help` tells of `command`, and of those below it.
fn ask(command: &[&str], found: &mut Words) {
    let name = [&["vblk"], command].concat().join(" ");
    found.insert(name.clone());
    let text = vblk(&[command, &["--help"]].concat());
    let mut heading = "";
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let first = line.split_whitespace().next();
        match (heading, indent, first) {
            (_, 0, Some(_)) => heading = line,
            // Each help has its own help again.
            ("Commands:", 2, Some("help")) if !command.is_empty() => {}
            ("Commands:", 2, Some("help")) => {
                found.insert(format!("{name} help"));
            }
            ("Commands:", 2, Some(word)) => ask(&[command, &[word]].concat(), found),
            // Descriptions are indented further.
            ("Options:", 2..=6, Some(_)) => {
                let long = line.split([' ', ',']).find(|word| word.starts_with("--"));
                let long = long.expect("each option has a long form");
                if command.is_empty() || long != "--help" {
                    found.insert(format!("{name} {long}"));
                }
            }
            _ => {}
        }
    }
}

/// Returns what the program knows.
fn known() -> Words {
    let mut found = Words::new();
    ask(&[], &mut found);
    let text = vblk(&["run", "--kernel", "/dev/null", "--disk", "?"]);
    let (_, parts) = text
        .trim_end()
        .split_once("known are ")
        .expect("a list of parts");
    found.extend(parts.split(", ").map(|part| format!("--disk {part}")));
    found
}

/// Returns what the manual page describes.
fn described() -> Words {
    let page = fs::read_to_string(PAGE).unwrap();
    let mut found = Words::new();
    let mut command = "";
    for line in page.lines() {
        if let Some(name) = line.strip_prefix(".Ss ") {
            command = name;
            found.insert(name.into());
        } else if line.starts_with(".Sh ") {
            command = "";
        } else if let Some(option) = line.strip_prefix(".It Fl ") {
            let option = option.split(' ').next().unwrap_or_default();
            found.insert(format!("{command} -{option}"));
        } else if let Some(part) = line.strip_prefix(".It Cm ") {
            let part = part.split(' ').next().unwrap_or_default();
            found.insert(format!("--disk {part}"));
        }
    }
    found
}

#[test]
fn the_page_describes_each_command_and_option_and_no_other() {
    let (known, described) = (known(), described());
    for probe in ["vblk vdpa add", "vblk serve --fd", "--disk readonly"] {
        assert!(known.contains(probe), "{probe}: {known:?}");
    }
    let missing: Vec<_> = known.difference(&described).collect();
    let unknown: Vec<_> = described.difference(&known).collect();
    assert!(missing.is_empty(), "missing in vblk.1: {missing:?}");
    assert!(unknown.is_empty(), "not known to vblk: {unknown:?}");
}
