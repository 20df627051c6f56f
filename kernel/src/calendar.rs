//! What the registers of a PC's real-time clock say, which shows UTC.
//!
//! Sources: the data sheet of the MC146818A (registers), ACPI 6.5, section 5.2.9 (where the century is).

use control::Date;

/// What the registers show, as they show it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Register 0.
    pub second: u8,
    /// Register 2.
    pub minute: u8,
    /// Register 4.
    pub hour: u8,
    /// Register 7.
    pub day: u8,
    /// Register 8.
    pub month: u8,
    /// Register 9: without the century.
    pub year: u8,
    /// The register that ACPI names, if it names one.
    pub century: Option<u8>,
    /// Register B.
    pub status: u8,
}

impl Registers {
    /// The time; None if they show none.
    pub fn date(&self) -> Option<Date> {
        const HOURS_TO_24: u8 = 1 << 1;
        const BINARY: u8 = 1 << 2;
        const AFTERNOON: u8 = 1 << 7;
        let number = |register: u8| match self.status & BINARY {
            0 => (register & 15 < 10).then_some(u64::from(register >> 4) * 10 + u64::from(register & 15)),
            _ => Some(u64::from(register)),
        };
        let hour = if self.status & HOURS_TO_24 != 0 {
            number(self.hour)?
        } else {
            let hour = number(self.hour & !AFTERNOON).filter(|hour| (1..=12).contains(hour))?;
            hour % 12 + if self.hour & AFTERNOON != 0 { 12 } else { 0 }
        };
        let century = self.century.and_then(number).filter(|century| *century > 0).unwrap_or(20);
        let year = number(self.year).filter(|year| *year < 100)?;
        let date = (century * 100 + year, number(self.month)?, number(self.day)?);
        Date::new(date, (hour, number(self.minute)?, number(self.second)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 24 hours, in binary.
    const PLAIN: u8 = 6;

    fn at(date: (u8, u8, u8, u8), time: (u8, u8, u8), status: u8) -> Registers {
        let ((century, year, month, day), (hour, minute, second)) = (date, time);
        Registers { second, minute, hour, day, month, year, century: Some(century), status }
    }

    #[test]
    fn registers_show_the_same_time_in_all_their_manners() {
        let wanted = Some(Date(1_795_443_330));
        for registers in [
            at((20, 26, 11, 23), (14, 15, 30), PLAIN),
            at((0x20, 0x26, 0x11, 0x23), (0x14, 0x15, 0x30), 2),
            at((0x20, 0x26, 0x11, 0x23), (0x82, 0x15, 0x30), 0),
            at((20, 26, 11, 23), (0x82, 15, 30), 4),
            Registers { century: None, ..at((0, 26, 11, 23), (14, 15, 30), PLAIN) },
            // A machine that does not keep the century up.
            at((0, 26, 11, 23), (14, 15, 30), PLAIN),
        ] {
            assert_eq!(registers.date(), wanted, "{registers:x?}");
        }
    }

    #[test]
    fn midnight_and_noon_are_twelve() {
        let hour = |hour| at((0x20, 0x26, 0x11, 0x23), (hour, 0, 0), 0).date().unwrap().0 / 3600 % 24;
        assert_eq!([0x12, 0x01, 0x92, 0x91].map(hour), [0, 1, 12, 23]);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let good = at((20, 24, 2, 29), (23, 59, 59), PLAIN);
        assert!(good.date().is_some());
        for bad in [
            Registers { second: 60, ..good },
            Registers { minute: 60, ..good },
            Registers { hour: 24, ..good },
            Registers { day: 0, ..good },
            Registers { day: 30, ..good },
            Registers { year: 23, ..good },
            Registers { month: 13, ..good },
            Registers { month: 0, ..good },
            Registers { century: Some(19), year: 69, day: 1, ..good },
            Registers { hour: 0, status: 4, ..good },
            // In tens and ones.
            Registers {
                second: 0x1a,
                day: 0x29,
                year: 0x24,
                hour: 0x23,
                minute: 0x59,
                century: Some(0x20),
                status: 2,
                month: 2,
            },
            // Where there is no clock.
            at((0xff, 0xff, 0xff, 0xff), (0xff, 0xff, 0xff), 0xff),
        ] {
            assert_eq!(bad.date(), None, "{bad:x?}");
        }
    }
}
