// SPDX-License-Identifier: GPL-2.0

//! Numbers of bytes.

/// Reads `4096`, `512K`, `256M`, `1G` or `1T`; `None` if it is nothing of the kind or too large.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    // `parse` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("512k"), Some(512 << 10));
        assert_eq!(parse_size("256M"), Some(256 << 20));
        assert_eq!(parse_size("1G"), Some(1 << 30));
        assert_eq!(parse_size("2T"), Some(2 << 40));
        assert_eq!(parse_size("0"), Some(0));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1M",
            "1.5G",
            "1MB",
            "1 G",
            "0x10",
            "99999999999T",
            "ä",
        ] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }
}
