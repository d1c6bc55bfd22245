//! Seconds since 1970 as a date and time of day and back, for formats that store
//! dates in words. Proleptic Gregorian calendar, UTC, no leap seconds.

const SECONDS_PER_DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01; counting years from March puts the leap day last.
const MARCH_ZERO: i64 = 719_468;
const DAYS_PER_400_YEARS: i64 = 146_097;

/// A moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// Gregorian year.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// The date and time of day of a Unix timestamp.
pub fn civil_time(timestamp: i64) -> CivilTime {
    let (days, seconds) = (timestamp.div_euclid(SECONDS_PER_DAY), timestamp.rem_euclid(SECONDS_PER_DAY));
    let since_march = days + MARCH_ZERO;
    let era = since_march.div_euclid(DAYS_PER_400_YEARS);
    let day_of_era = since_march.rem_euclid(DAYS_PER_400_YEARS);
    // Every 4th year has a leap day, every 100th has none, the 400th has one.
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, five months have 153 days.
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    CivilTime {
        year: era * 400 + year_of_era + i64::from(month <= 2),
        month: month as u8,
        day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
        hour: (seconds / 3600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
    }
}

/// The Unix timestamp of a date and time of day; `None` for one that no calendar or clock shows.
pub fn unix_time(time: CivilTime) -> Option<i64> {
    // Longer years mean nothing to any format here, and the sums stay small.
    if !(0..=9999).contains(&time.year) {
        return None;
    }
    let (month, day) = (i64::from(time.month), i64::from(time.day));
    let (year, march_month) = if month > 2 { (time.year, month - 3) } else { (time.year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leap_days + (153 * march_month + 2) / 5 + day - 1 - MARCH_ZERO;
    let of_day = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second);
    let timestamp = days * SECONDS_PER_DAY + of_day;
    (civil_time(timestamp) == time).then_some(timestamp)
}

/// The Unix timestamp of a date as in Release files and HTTP headers (RFC 1123
/// §5.2.14): `Sat, 11 Jul 2026 10:16:37 UTC`. The zone must be UTC, under any
/// of its names; the name of the day is not compared with the date.
pub fn parse_rfc1123(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, clock, "UTC" | "GMT" | "Z" | "+0000"] = words[..] else { return None };
    let clock: Vec<&str> = clock.split(':').collect();
    let [hour, minute, second] = clock[..] else { return None };
    let digits = |text: &str, length: std::ops::RangeInclusive<usize>| {
        let legal = length.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if legal { text.parse::<u16>().ok() } else { None }
    };
    let small = |text| digits(text, 1..=2).map(|n| n as u8);
    unix_time(CivilTime {
        year: i64::from(digits(year, 4..=4)?),
        month: MONTHS.iter().position(|name| *name == month)? as u8 + 1,
        day: small(day)?,
        hour: small(hour)?,
        minute: small(minute)?,
        second: small(second)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_release_files_are_read() {
        // `date -u -d TEXT +%s`
        for (text, expected) in [
            ("Sat, 11 Jul 2026 10:16:37 UTC", Some(1_783_764_997)),
            ("Thu, 01 Jan 1970 00:00:00 +0000", Some(0)),
            ("Thu, 1 Jan 2026  7:05:09 GMT", Some(1_767_251_109)),
            ("Tue, 29 Feb 2000 23:59:59 UTC", Some(951_868_799)),
            ("Mon, 29 Feb 2100 00:00:00 UTC", None),
            ("Sat, 11 Jul 2026 24:00:00 UTC", None),
            ("Sat, 11 Jul 2026 10:60:00 UTC", None),
            ("Sat, 00 Jul 2026 10:16:37 UTC", None),
            ("Sat, 11 jul 2026 10:16:37 UTC", None),
            ("Sat, 11 Jul 2026 10:16:37 CEST", None),
            ("Sat, 11 Jul 2026 10:16:37", None),
            ("Sat, 11 Jul 26 10:16:37 UTC", None),
            ("Sat, +1 Jul 2026 10:16:37 UTC", None),
            ("2026-07-11T10:16:37Z", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc1123(text), expected, "{text}");
        }
    }

    #[test]
    fn agrees_with_date_1() {
        // `date -u -d @N +'%Y %m %d %H %M %S'`
        for (timestamp, year, month, day, hour, minute, second) in [
            (0, 1970, 1, 1, 0, 0, 0),
            (-1, 1969, 12, 31, 23, 59, 59),
            (315_532_800, 1980, 1, 1, 0, 0, 0),
            (951_782_400, 2000, 2, 29, 0, 0, 0),
            (951_868_800, 2000, 3, 1, 0, 0, 0),
            (1_767_225_599, 2025, 12, 31, 23, 59, 59),
            (4_107_542_399, 2100, 2, 28, 23, 59, 59),
            (4_107_542_400, 2100, 3, 1, 0, 0, 0),
            (4_354_819_198, 2107, 12, 31, 23, 59, 58),
        ] {
            let expected = CivilTime { year, month, day, hour, minute, second };
            assert_eq!(civil_time(timestamp), expected, "{timestamp}");
            assert_eq!(unix_time(expected), Some(timestamp));
        }
    }
}
