// SPDX-License-Identifier: GPL-2.0

//! The battery-backed clock of a PC (MC146818): what a guest sets its time by.
//!
//! It can be read only: the time is the host's.

use super::bus::Device;
use std::time::{SystemTime, UNIX_EPOCH};

/// Port that chooses a register; the next one reads it.
pub const CLOCK_PORT: u64 = 0x70;
/// How many ports it has.
pub const CLOCK_PORTS: u64 = 2;
/// The register with the century, as the FADT tells.
pub const CENTURY: u8 = 0x32;

/// The clock.
#[derive(Default)]
pub struct Clock {
    register: u8,
}

/// A moment in the Gregorian calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Date {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::at(since.map_or(0, |since| since.as_secs()))
    }

    /// So many seconds after 1970 began.
    fn at(seconds: u64) -> Self {
        let (mut days, rest) = (seconds / 86400, seconds % 86400);
        let mut year = 1970;
        while days >= days_in_year(year) {
            days -= days_in_year(year);
            year += 1;
        }
        let mut month = 1;
        while days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: days as u8 + 1,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

fn is_leap_year(year: u64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_year(year: u64) -> u64 {
    365 + u64::from(is_leap_year(year))
}

fn days_in_month(year: u64, month: u8) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap_year(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// One digit in each half of the byte.
fn decimal(number: u8) -> u8 {
    ((number / 10 % 10) << 4) | (number % 10)
}

impl Clock {
    fn read_register(&self) -> u8 {
        /// The usual speed, and no update in progress.
        const STATUS_A: u8 = 0x26;
        /// Decimal digits, which Linux takes for granted, and 24 hours a day.
        const STATUS_B: u8 = 1 << 1;
        /// The battery is charged.
        const STATUS_D: u8 = 1 << 7;
        let now = Date::now();
        match self.register {
            0x0 => decimal(now.second),
            0x2 => decimal(now.minute),
            0x4 => decimal(now.hour),
            0x7 => decimal(now.day),
            0x8 => decimal(now.month),
            0x9 => decimal((now.year % 100) as u8),
            0xa => STATUS_A,
            0xb => STATUS_B,
            0xd => STATUS_D,
            CENTURY => decimal((now.year / 100) as u8),
            _ => 0,
        }
    }
}

impl Device for Clock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (1, [byte]) => *byte = self.read_register(),
            (_, other) => other.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, &[byte]) = (offset, data) {
            // The highest bit masks interrupts that there are none of.
            self.register = byte & 0x7f;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u64, month: u8, day: u8) -> Date {
        Date {
            year,
            month,
            day,
            hour: 0,
            minute: 0,
            second: 0,
        }
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        assert_eq!(Date::at(0), date(1970, 1, 1));
        assert_eq!(Date::at(951_782_400), date(2000, 2, 29));
        assert_eq!(Date::at(951_868_800), date(2000, 3, 1));
        assert_eq!(Date::at(4_107_542_400), date(2100, 3, 1));
        let last = Date::at(1_735_689_599);
        assert_eq!((last.year, last.month, last.day), (2024, 12, 31));
        assert_eq!((last.hour, last.minute, last.second), (23, 59, 59));
    }

    #[test]
    fn registers_are_chosen_and_read() {
        let mut clock = Clock::default();
        let mut read = |register: u8| {
            clock.write(0, &[register]);
            let mut byte = [0];
            clock.read(1, &mut byte);
            byte[0]
        };
        assert_eq!(read(0x80 | 0x0d), 0x80);
        assert_eq!(read(CENTURY), 0x20);
        assert!((0x01..=0x12).contains(&read(8)));
        assert_eq!(decimal(59), 0x59);
        assert_eq!(read(0xa) & 0x80, 0);
    }
}
