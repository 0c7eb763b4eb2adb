// SPDX-License-Identifier: GPL-2.0

//! The format of an input.

use vblk_core::{
    features::{bit, Features},
    testing::Input,
};

/// Properties of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Packed rings are offered.
    pub packed: bool,
    /// Writes are refused.
    pub read_only: bool,
}

impl Control {
    pub(crate) fn take(input: &mut Input<'_>) -> Option<Self> {
        let bits = input.u8()?;
        Some(Self {
            packed: bits & 1 != 0,
            read_only: bits & 2 != 0,
        })
    }

    /// As [`Self::take`] reads it.
    pub fn to_bytes(self) -> Vec<u8> {
        vec![u8::from(self.packed) | u8::from(self.read_only) << 1]
    }
}

/// A step of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes 32 bits to a register.
    Register {
        /// A quarter of its offset.
        number: u8,
        /// The value.
        value: u32,
    },
    /// Writes anywhere, in any width.
    Write(u16, Vec<u8>),
    /// Reads from anywhere, in any width.
    Read(u16, usize),
    /// Puts bytes into its memory.
    Fill(u32, Vec<u8>),
    /// Does what a driver does to begin, with these features and with the first queue where
    /// [`crate::seeds`] puts it.
    Begin(Features),
    /// Kicks a queue, as KVM does for it.
    Kick(u8),
    /// Lets the launcher look whether the disk has changed.
    Refresh,
}

/// The features that the bits of [`Step::Begin`] stand for.
const CHOICES: [u32; 8] = [
    bit::RING_INDIRECT_DESC,
    bit::RING_EVENT_IDX,
    bit::RING_PACKED,
    bit::BLK_FLUSH,
    bit::BLK_CONFIG_WCE,
    bit::BLK_DISCARD,
    bit::BLK_WRITE_ZEROES,
    bit::BLK_MQ,
];

impl Step {
    pub(crate) fn take(input: &mut Input<'_>) -> Option<Self> {
        Some(match input.u8()? % 7 {
            0 => Self::Register {
                number: input.u8()?,
                value: input.u32()?,
            },
            1 => {
                let at = input.u16()?;
                let len = input.u8()? % 9;
                Self::Write(at, input.bytes(len.into())?)
            }
            2 => Self::Read(input.u16()?, usize::from(input.u8()? % 9)),
            3 => {
                let at = input.u32()?;
                let len = input.u8()?;
                Self::Fill(at, input.bytes(len.into())?)
            }
            4 => {
                let bits = input.u8()?;
                let chosen = CHOICES.iter().enumerate();
                let chosen = chosen.filter(|(number, _)| bits & 1 << number != 0);
                let features = chosen.fold(1 << bit::VERSION_1, |all, (_, bit)| all | 1 << bit);
                Self::Begin(Features(features))
            }
            5 => Self::Kick(input.u8()?),
            _ => Self::Refresh,
        })
    }

    /// The first step in some bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::take(&mut Input(bytes))
    }

    /// As [`Self::from_bytes`] reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Register { number, value } => [&[0, *number][..], &value.to_le_bytes()].concat(),
            Self::Write(at, data) => {
                [&[1][..], &at.to_le_bytes(), &[data.len() as u8], data].concat()
            }
            Self::Read(at, len) => [&[2][..], &at.to_le_bytes(), &[*len as u8]].concat(),
            Self::Fill(at, data) => {
                [&[3][..], &at.to_le_bytes(), &[data.len() as u8], data].concat()
            }
            Self::Begin(features) => {
                let bits = (0u8..).zip(CHOICES).filter(|(_, bit)| features.has(*bit));
                vec![4, bits.fold(0, |all, (number, _)| all | 1 << number)]
            }
            Self::Kick(queue) => vec![5, *queue],
            Self::Refresh => vec![6],
        }
    }
}
