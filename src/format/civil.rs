//! Seconds since 1970 as a date and time of day, for formats that store dates
//! in words. Proleptic Gregorian calendar, UTC, no leap seconds.

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

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }
}
