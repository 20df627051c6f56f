//! Times of the calendar: Gregorian, UTC.

use core::fmt;

const DAY_SECONDS: u64 = 24 * 3600;
/// Days of a year before each month of it, February being short.
const DAYS_BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
/// The last year that is believed.
const LAST_YEAR: u64 = 2199;

/// A time in seconds since 1970, shown as RFC 3339 writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(pub u64);

impl Date {
    /// Year, month and day from 1, hour, minute and second; None if there is no such time, or it is before 1970 or not in the
    /// next centuries.
    pub fn new((year, month, day): (u64, u64, u64), (hour, minute, second): (u64, u64, u64)) -> Option<Self> {
        let (month, day) = (month.checked_sub(1)?, day.checked_sub(1)?);
        let is_day = (1970..=LAST_YEAR).contains(&year) && month < 12 && day < days_of(year, month);
        if !is_day || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = days_before_year(year) + days_before_month(year, month) + day;
        Some(Date(days * DAY_SECONDS + (hour * 60 + minute) * 60 + second))
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1970 to the start of a year that is not before.
fn days_before_year(year: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

/// Days of a year before a month, which counts from 0.
fn days_before_month(year: u64, month: u64) -> u64 {
    let days = DAYS_BEFORE_MONTH.get(month as usize).copied().unwrap_or_default();
    days + u64::from(month > 1 && is_leap(year))
}

fn days_of(year: u64, month: u64) -> u64 {
    let end = if month == 11 { 365 + u64::from(is_leap(year)) } else { days_before_month(year, month + 1) };
    end - days_before_month(year, month)
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / DAY_SECONDS, self.0 % DAY_SECONDS);
        // A year has at least 365 days, and what that misses in 400 years is less than one.
        let year = 1970 + days / 365;
        let year = if days_before_year(year) > days { year - 1 } else { year };
        let day = days - days_before_year(year);
        let month = (0..12).rev().find(|month| days_before_month(year, *month) <= day).unwrap_or_default();
        let day = day - days_before_month(year, month) + 1;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_date_is_shown_and_read_back_on_every_day() {
        assert_eq!(Date(1_795_443_330).to_string(), "2026-11-23T14:15:30Z");
        let mut last = String::new();
        for days in 0.. {
            let date = Date(days * DAY_SECONDS);
            let text = date.to_string();
            assert!(text > last, "{text} after {last}");
            let part = |range: core::ops::Range<usize>| text[range].parse::<u64>().unwrap();
            match Date::new((part(0..4), part(5..7), part(8..10)), (0, 0, 0)) {
                Some(read) => assert_eq!(read, date, "{text}"),
                None => {
                    assert_eq!(text, "2200-01-01T00:00:00Z");
                    break;
                }
            }
            last = text;
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        let at = |year, month, day| Date::new((year, month, day), (23, 59, 59));
        assert!(at(2024, 2, 29).is_some() && at(2000, 2, 29).is_some() && at(2023, 12, 31).is_some());
        for (year, month, day) in [
            (2023, 2, 29),
            (2100, 2, 29),
            (2024, 0, 1),
            (2024, 13, 1),
            (2024, 4, 31),
            (1969, 12, 31),
            (2024, 1, 0),
        ] {
            assert_eq!(at(year, month, day), None, "{year} {month} {day}");
        }
        assert_eq!(Date::new((2024, 1, 1), (24, 0, 0)), None);
    }
}
