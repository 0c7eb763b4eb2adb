// SPDX-License-Identifier: GPL-2.0

//! Telling a restart from a panic and from a crash.
//!
//! Linux writes down at 0x472 before every restart whether it is a warm or a cold one, and from 5.2
//! on a panic can have a kind of its own (`reboot=panic_warm`). The launcher makes that the kind
//! that other restarts do not have.

use super::{
    ending::End,
    layout::{RESET_FLAG, RESET_FLAG_UNTOUCHED, RESET_FLAG_WARM},
};
use crate::memory::Memory;
use vm_memory::Bytes;

/// How the guest's kernel marks its restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartMarks {
    /// Ordinary restarts are warm.
    restart_is_warm: bool,
    /// Restarts by a panic are warm.
    panic_is_warm: bool,
    /// The user has chosen the latter.
    chosen: bool,
}

impl RestartMarks {
    /// Reads the user's words for the kernel's command line, as `reboot_setup()` of
    /// kernel/reboot.c does. The last word counts.
    pub fn of(cmdline: &str) -> Self {
        let (mut restart, mut panic) = (false, None);
        let values = cmdline
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("reboot="));
        for choice in values.flat_map(|value| value.split(',')) {
            let (choice, is_panic) = match choice.strip_prefix("panic_") {
                Some(choice) => (choice, true),
                None => (choice, false),
            };
            let is_warm = match choice.bytes().next() {
                Some(b'w') => true,
                Some(b'c' | b'h' | b's' | b'g') => false,
                // The way to restart, not the kind.
                _ => continue,
            };
            match is_panic {
                true => panic = Some(is_warm),
                false => restart = is_warm,
            }
        }
        Self {
            restart_is_warm: restart,
            panic_is_warm: panic.unwrap_or(!restart),
            chosen: panic.is_some(),
        }
    }

    /// Returns the word for the kernel, to stand before the user's. Kernels before 5.2 take it for
    /// a restart by port 0xcf9, which works too.
    pub fn word(self) -> &'static str {
        match (self.chosen, self.panic_is_warm) {
            (true, _) => "",
            (false, true) => " reboot=panic_warm",
            (false, false) => " reboot=panic_cold",
        }
    }

    /// Returns how the guest ended that asked for a reset.
    pub fn after_reset(self, memory: &Memory) -> End {
        self.judge(flag(memory)).unwrap_or(End::Reset)
    }

    /// Returns how the guest ended whose CPU shut down, which resets a PC.
    pub fn after_triple_fault(self, memory: &Memory) -> End {
        self.judge(flag(memory))
            .unwrap_or_else(|| End::Failed("the guest crashed (triple fault)".into()))
    }

    /// `None`: the kernel has not prepared a restart.
    fn judge(self, flag: u16) -> Option<End> {
        if flag == RESET_FLAG_UNTOUCHED {
            return None;
        }
        let is_warm = flag == RESET_FLAG_WARM;
        let can_tell = self.panic_is_warm != self.restart_is_warm;
        Some(match can_tell && is_warm == self.panic_is_warm {
            true => End::Panic,
            false => End::Reset,
        })
    }
}

fn flag(memory: &Memory) -> u16 {
    memory.read_obj(RESET_FLAG).unwrap_or(RESET_FLAG_UNTOUCHED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_has_the_mark_that_restarts_do_not_have() {
        for (cmdline, word, warm, cold) in [
            ("", " reboot=panic_warm", End::Panic, End::Reset),
            ("reboot=t", " reboot=panic_warm", End::Panic, End::Reset),
            (
                "reboot=p quiet",
                " reboot=panic_warm",
                End::Panic,
                End::Reset,
            ),
            ("a reboot=w b", " reboot=panic_cold", End::Reset, End::Panic),
            (
                "reboot=k,warm",
                " reboot=panic_cold",
                End::Reset,
                End::Panic,
            ),
            (
                "reboot=w reboot=c",
                " reboot=panic_warm",
                End::Panic,
                End::Reset,
            ),
            // Chosen by the user, who may make it impossible to tell.
            ("reboot=panic_warm", "", End::Panic, End::Reset),
            ("reboot=w,panic_cold", "", End::Reset, End::Panic),
            ("reboot=w,panic_warm", "", End::Reset, End::Reset),
        ] {
            let marks = RestartMarks::of(cmdline);
            assert_eq!(marks.word(), word, "{cmdline}");
            assert_eq!(marks.judge(RESET_FLAG_WARM), Some(warm), "{cmdline}");
            assert_eq!(marks.judge(0), Some(cold), "{cmdline}");
            assert_eq!(marks.judge(RESET_FLAG_UNTOUCHED), None, "{cmdline}");
        }
    }
}
