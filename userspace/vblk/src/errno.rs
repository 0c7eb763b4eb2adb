// SPDX-License-Identifier: GPL-2.0

//! Operating system errors as people read them.

use std::io;

/// The text of `error` without the number that the standard library puts behind it, as in
/// "No such file or directory".
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_left_out() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(text(&error), "No such file or directory");
        assert_eq!(text(&io::Error::other("plain")), "plain");
    }
}
