//! How often something may be done: `60/minute`.

use std::{fmt, str::FromStr};

/// So many times in a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many times.
    pub times: u32,
    per: Per,
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// 1 s.
    Second,
    /// 60 s.
    Minute,
    /// 3600 s.
    Hour,
    /// 86400 s.
    Day,
}

/// More than this is no limit.
const MOST: u32 = 1_000_000;

/// A text that is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a rate such as 60/minute")]
pub struct RateError;

impl Per {
    const ALL: [(Self, &'static str, u32); 4] = [
        (Self::Second, "second", 1),
        (Self::Minute, "minute", 60),
        (Self::Hour, "hour", 3600),
        (Self::Day, "day", 86400),
    ];

    const fn row(self) -> (Self, &'static str, u32) {
        Self::ALL[self as usize]
    }
}

impl Rate {
    /// So many times per minute.
    pub const fn per_minute(times: u32) -> Self {
        Self { times, per: Per::Minute }
    }

    /// The length of time, in seconds.
    pub const fn seconds(self) -> u32 {
        self.per.row().2
    }

    /// How many microseconds pass from one time to the next, if they come evenly.
    pub fn interval(self) -> i64 {
        i64::from(self.seconds()) * 1_000_000 / i64::from(self.times.max(1))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.times, self.per.row().1)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (times, per) = text.split_once('/').ok_or(RateError)?;
        let digits = !times.is_empty() && times.bytes().all(|byte| byte.is_ascii_digit());
        let times =
            times.parse().ok().filter(|times| digits && (1..=MOST).contains(times)).ok_or(RateError)?;
        let (per, ..) = Per::ALL.into_iter().find(|(_, name, _)| *name == per).ok_or(RateError)?;
        Ok(Self { times, per })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_length_of_time() {
        for (text, seconds, interval) in [
            ("60/minute", 60, 1_000_000),
            ("7/second", 1, 142_857),
            ("1/day", 86400, 86_400_000_000),
            ("1000000/second", 1, 1),
            ("600/hour", 3600, 6_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(
                (rate.seconds(), rate.interval(), rate.to_string()),
                (seconds, interval, text.to_owned())
            );
        }
        for text in [
            "",
            "60",
            "/minute",
            "0/minute",
            "-1/minute",
            "+1/minute",
            "60/min",
            "60 / minute",
            "1.5/second",
            "1000001/second",
            "60/Minute",
            "60/minute/2",
            "off",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }
}
