//! When was that?
//!
//! Microseconds since 1970, UTC, read from RFC 3339 and written as people read them.

/// Reads RFC 3339 (`2026-11-21T20:40:00.123456789Z`, with an offset too), or a number of seconds,
/// milliseconds, microseconds or nanoseconds since 1970, told apart by their size.
pub fn at(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse::<u64>() {
        return Some(from_number(number));
    }
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.splitn(3, '-');
    let mut part = || date.next()?.parse::<i64>().ok();
    let (year, month, day) = (part()?, part()?, part()?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let mut clock = time.splitn(3, ':');
    let hour: i64 = clock.next()?.parse().ok().filter(|h| (0..24).contains(h))?;
    let minute: i64 = clock.next()?.parse().ok().filter(|m| (0..60).contains(m))?;
    let (second, fraction) = match clock.next() {
        None => ("0", ""),
        Some(seconds) => seconds.split_once('.').unwrap_or((seconds, "")),
    };
    let second: i64 = second.parse().ok().filter(|s| (0..=60).contains(s))?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from((seconds - self::offset(offset)?) * 1_000_000 + micros).ok()
}

fn from_number(number: u64) -> u64 {
    match number {
        0..100_000_000_000 => number * 1_000_000,
        100_000_000_000..100_000_000_000_000 => number * 1000,
        100_000_000_000_000..100_000_000_000_000_000 => number,
        _ => number / 1000,
    }
}

/// `Z`, `+02:00`, in seconds.
fn offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("Z" | "z", "") => return Some(0),
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let hours: i64 = hours.parse().ok().filter(|h| (0..24).contains(h))?;
    let minutes: i64 = minutes.parse().ok().filter(|m| (0..60).contains(m))?;
    Some(sign * (hours * 3600 + minutes * 60))
}

/// Days from 1970 to a date of the Gregorian calendar: years begin in March, so that the day that
/// comes and goes is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

/// The time as `2026-11-21 20:40:00`, UTC.
pub fn clock(micros: u64) -> String {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX / 2);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_again() {
        for (text, expected) in [
            ("2026-11-21T20:40:07.5Z", "2026-11-21 20:40:07"),
            ("2024-02-29T23:59:59Z", "2024-02-29 23:59:59"),
            ("2024-03-01T00:30:00+01:00", "2024-02-29 23:30:00"),
            ("1970-01-01T00:00:00Z", "1970-01-01 00:00:00"),
            ("2000-12-31 12:00:00", "2000-12-31 12:00:00"),
            ("1700000000", "2023-11-14 22:13:20"),
            ("1700000000000", "2023-11-14 22:13:20"),
            ("1700000000000000", "2023-11-14 22:13:20"),
            ("1700000000000000000", "2023-11-14 22:13:20"),
        ] {
            assert_eq!(at(text).map(clock).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(at("1970-01-01T00:00:01.0000015Z"), Some(1_000_001));
        for bad in ["", "now", "2026-13-01T00:00:00Z", "2026-01-01", "1969-12-31T23:00:00Z"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
