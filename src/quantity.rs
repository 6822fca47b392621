//! Formats counts, times and sizes: one function for each, so that the same quantity looks the same
//! everywhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Formats a number of things: `no clone`, `one clone`, `8 clones`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    match number {
        0 => format!("no {thing}"),
        1 => format!("one {thing}"),
        n => format!("{n} {}", plural(thing)),
    }
}

/// Formats a number of things in digits, for use with other numbers: `1 template and 0 clones`.
pub(crate) fn digits(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        n => format!("{n} {}", plural(thing)),
    }
}

/// Returns the plural of a noun, or of a phrase that ends in a noun.
fn plural(noun: &str) -> String {
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if noun.ends_with(['s', 'x', 'z']) || noun.ends_with("ch") || noun.ends_with("sh") => {
            format!("{noun}es")
        }
        _ => format!("{noun}s"),
    }
}

/// Formats a duration: `85 ms`, `3.2 s`, `3 min 5 s`, `48 h 36 min`, `12 d 4 h`.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    if s < 0.9995 {
        return format!("{:.0} ms", s * 1e3);
    }
    if s < 99.95 {
        return format!("{s:.1} s");
    }
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {smaller}"),
    };
    // Rounded first, so that the rest is never 60 s.
    let s = s.round() as u64;
    if s < 6000 {
        return two(s / 60, "min", s % 60, "s");
    }
    let minutes = (s + 30) / 60;
    if minutes < 100 * 60 {
        return two(minutes / 60, "h", minutes % 60, "min");
    }
    let hours = (s + 1800) / 3600;
    two(hours / 24, "d", hours % 24, "h")
}

/// Formats a duration in the syntax of the config: `90s`, `30m`, `1h 30m`, `14d`. Parses to the same
/// duration, to the nanosecond.
pub(crate) fn setting(time: Duration) -> String {
    const UNITS: [(u128, &str); 7] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let mut left = time.as_nanos();
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if left >= size {
            parts.push(format!("{}{unit}", left / size));
            left %= size;
        }
    }
    match parts.is_empty() {
        true => "0s".to_owned(),
        false => parts.join(" "),
    }
}

/// Formats an age for a table, in one unit: `40s`, `12m`, `7h`, `3d`.
pub(crate) fn age(seconds: f64) -> String {
    let (number, unit) = rounded(seconds);
    format!("{number:.0}{}", &unit[..1])
}

/// Formats the time until an end for a table: `in 40 s`, `in 12 h`, `in 14 d`; `over` if it has passed.
pub(crate) fn remaining(seconds: f64) -> String {
    match rounded(seconds) {
        _ if seconds <= 0.0 => "over".to_owned(),
        (number, unit) => format!("in {number:.0} {unit}"),
    }
}

/// Returns a rounded number below 100, with its unit; the number of days has no limit.
fn rounded(seconds: f64) -> (f64, &'static str) {
    let seconds = seconds.max(0.0);
    for (size, unit) in [(1.0, "s"), (60.0, "min"), (3600.0, "h")] {
        let number = (seconds / size).round();
        if number < 100.0 {
            return (number, unit);
        }
    }
    ((seconds / 86_400.0).round(), "d")
}

/// Formats a size: `0 bytes`, `512 bytes`, `4 kB`, `11.0 MB`, `1.2 GB`.
pub(crate) fn size(bytes: i64) -> String {
    match bytes as f64 {
        _ if bytes == 1 => "1 byte".to_owned(),
        b if b < 1e3 => format!("{b:.0} bytes"),
        b if b < 999.5e3 => format!("{:.0} kB", b / 1e3),
        b if b < 999.95e6 => format!("{:.1} MB", b / 1e6),
        b if b < 999.95e9 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.1} TB", b / 1e12),
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Bytes(u64);

impl Bytes {
    /// Returns a number of bytes, at most the maximum of Postgres.
    pub(crate) fn new(bytes: u64) -> Self {
        Bytes(bytes.min(i64::MAX as u64))
    }

    /// Returns the number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// Returns the number in the type of Postgres.
    pub(crate) fn signed(self) -> i64 {
        self.0 as i64
    }
}

/// A time in seconds, as Postgres measures it. A time in the future, after a clock was set back, is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) struct Seconds(pub(crate) f64);

impl Seconds {
    /// Compares two times; one that is no number comes last.
    pub(crate) fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }

    /// Converts to a duration, which is never negative.
    pub(crate) fn duration(self) -> Duration {
        Duration::try_from_secs_f64(self.0).unwrap_or_default()
    }
}

impl From<Duration> for Seconds {
    fn from(time: Duration) -> Self {
        Seconds(time.as_secs_f64())
    }
}

/// A time in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(u64);

impl Millis {
    /// Returns the number in seconds.
    pub(crate) fn seconds(self) -> f64 {
        self.duration().as_secs_f64()
    }

    /// Returns the number, as Postgres has it.
    pub(crate) fn signed(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// As a duration.
    pub(crate) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Duration> for Millis {
    fn from(time: Duration) -> Self {
        Millis(u64::try_from(time.as_millis()).unwrap_or(i64::MAX as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!(count(0, "clone"), "no clone");
        assert_eq!(count(1, "clone"), "one clone");
        assert_eq!(count(2, "clone"), "2 clones");
        assert_eq!(count(2, "leftover entry"), "2 leftover entries");
        assert_eq!(count(3, "key"), "3 keys");
        assert_eq!(count(3, "branch"), "3 branches");
        assert_eq!(digits(0, "clone"), "0 clones");
        assert_eq!(digits(1, "clone"), "1 clone");
    }

    #[test]
    fn times_are_rounded_before_they_are_split() {
        let of = |s: f64| seconds(Duration::from_secs_f64(s));
        assert_eq!(of(0.0), "0 ms");
        assert_eq!(of(0.0854), "85 ms");
        assert_eq!(of(0.9996), "1.0 s");
        assert_eq!(of(99.94), "99.9 s");
        assert_eq!(of(99.96), "1 min 40 s");
        assert_eq!(of(239.7), "4 min");
        assert_eq!(of(185.2), "3 min 5 s");
        // 2916 min 18 s
        assert_eq!(of(174_978.0), "48 h 36 min");
        assert_eq!(of(5999.6), "1 h 40 min");
        assert_eq!(of(7199.0), "2 h");
        assert_eq!(of(12.0 * 86_400.0 + 14_000.0), "12 d 4 h");
        for tenths in 0..100_000 {
            let text = of(f64::from(tenths) / 10.0);
            assert!(!text.ends_with("min 60 s") && !text.ends_with("h 60 min"), "{text}");
        }
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        for text in ["0s", "90ms", "14d", "12h", "2m", "1h 30m", "365d", "7d 1s"] {
            let time = humantime::parse_duration(text).unwrap();
            assert_eq!(setting(time), text);
        }
        assert_eq!(setting(Duration::from_secs(90)), "1m 30s");
        for nanos in [1, 1_000, 999_999_999, 3_600_000_000_001] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(humantime::parse_duration(&setting(time)).unwrap(), time);
        }
    }

    #[test]
    fn ages_and_ends_have_one_unit() {
        assert_eq!(age(0.2), "0s");
        assert_eq!(age(99.6), "2m");
        assert_eq!(age(720.0), "12m");
        assert_eq!(age(86_400.0), "24h");
        assert_eq!(age(14.0 * 86_400.0), "14d");
        assert_eq!(remaining(43_199.5), "in 12 h");
        assert_eq!(remaining(40.0), "in 40 s");
        assert_eq!(remaining(300.0), "in 5 min");
        assert_eq!(remaining(14.0 * 86_400.0 - 1.0), "in 14 d");
        assert_eq!(remaining(-1.0), "over");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (512, "512 bytes"),
            (4096, "4 kB"),
            (999_700, "1.0 MB"),
            (11_000_000, "11.0 MB"),
            (999_960_000, "1.0 GB"),
            (20_000_000_000, "20.0 GB"),
            (1_500_000_000_000, "1.5 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
