// SPDX-License-Identifier: GPL-2.0

//! Mistakes in options.

use std::fmt;

/// Something is wrong with an option.
#[derive(Debug)]
pub struct UsageError {
    /// The option, with its value.
    pub option: String,
    /// The mistake.
    pub cause: String,
}

impl UsageError {
    /// `cause` is wrong with `option`.
    pub fn new(option: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self {
            option: option.into(),
            cause: cause.to_string(),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.cause)
    }
}
