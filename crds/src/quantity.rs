//! Values of the spec that carry a unit or an exact decimal. Kubernetes APIs take no floats, so both travel as strings.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a quantity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a sequence of number and unit.
    #[error("{0:?} is not a duration; write a number and a unit, such as \"100ms\", \"30s\", \"5m\" or \"1h30m\"")]
    Duration(String),
    /// Not a plain decimal number.
    #[error("{0:?} is not a decimal number; write it as a string, such as \"0.7\"")]
    Decimal(String),
}

const DURATION_PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$";
const DECIMAL_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?$";

/// A length of time, written as numbers with the units `ms`, `s`, `m`, `h`: `"100ms"`, `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(time::Duration);

impl Duration {
    /// A duration of whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(time::Duration::from_millis(milliseconds))
    }
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }
    /// The standard library's type.
    pub const fn get(self) -> time::Duration {
        self.0
    }
    /// The length in seconds.
    pub fn seconds(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || QuantityError::Duration(text.to_owned());
        let mut rest = text;
        let mut total = time::Duration::ZERO;
        if rest.is_empty() {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(invalid)?;
            let (number, tail) = rest.split_at(digits);
            let (unit_nanoseconds, unit) = if tail.starts_with("ms") {
                (1_000_000_u64, 2)
            } else if tail.starts_with('s') {
                (1_000_000_000, 1)
            } else if tail.starts_with('m') {
                (60_000_000_000, 1)
            } else if tail.starts_with('h') {
                (3_600_000_000_000, 1)
            } else {
                return Err(invalid());
            };
            let nanoseconds = scaled(number, unit_nanoseconds).ok_or_else(invalid)?;
            total = total
                .checked_add(time::Duration::from_nanos(nanoseconds))
                .ok_or_else(invalid)?;
            rest = &tail[unit..];
        }
        Ok(Self(total))
    }
}

/// `number` × `unit` in integers, so that no whole number of nanoseconds is rounded.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let fraction = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / 10_u128.pow(fraction.len() as u32);
    whole.checked_add(u64::try_from(fraction).ok()?)
}

impl fmt::Display for Duration {
    /// The shortest exact form in milliseconds, seconds, minutes or hours.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        match milliseconds {
            0 => write!(formatter, "0s"),
            m if m % 3_600_000 == 0 => write!(formatter, "{}h", m / 3_600_000),
            m if m % 60_000 == 0 => write!(formatter, "{}m", m / 60_000),
            m if m % 1000 == 0 => write!(formatter, "{}s", m / 1000),
            m => write!(formatter, "{m}ms"),
        }
    }
}

/// An exact, non-negative decimal number, written as a string: `"0"`, `"0.7"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(String);

impl Decimal {
    /// The value as a double.
    pub fn get(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }
}

impl Default for Decimal {
    fn default() -> Self {
        Self("0".to_owned())
    }
}

impl FromStr for Decimal {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if digits(whole) && digits(fraction) {
            Ok(Self(text.to_owned()))
        } else {
            Err(QuantityError::Decimal(text.to_owned()))
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

macro_rules! string_quantity {
    ($type:ident, $pattern:expr, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'_, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "maxLength": 32, "description": $description})
            }
        }
    };
}
string_quantity!(
    Duration,
    DURATION_PATTERN,
    "Numbers with the units ms, s, m, h, such as 100ms or 1h30m."
);
string_quantity!(
    Decimal,
    DECIMAL_PATTERN,
    "A non-negative decimal number as a string, such as \"0.7\"."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_with_every_unit_and_their_sums() {
        for (text, seconds) in [
            ("100ms", 0.1),
            ("30s", 30.0),
            ("5m", 300.0),
            ("1h30m", 5400.0),
            ("1.5s", 1.5),
        ] {
            assert!(
                (text.parse::<Duration>().unwrap().seconds() - seconds).abs() < 1e-9,
                "{text}"
            );
        }
    }

    #[test]
    fn a_duration_without_a_unit_or_a_number_is_refused() {
        for text in ["", "5", "s", "5 s", "-5s", "5d", "1.2.3s", "9999999999999999999999h"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_decimal_takes_no_sign_exponent_or_blank() {
        assert!((("0.7").parse::<Decimal>().unwrap().get() - 0.7).abs() < f64::EPSILON);
        for text in ["", "-1", "1e3", ".5", "5.", "NaN", "1,5"] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_duration_survives_being_written_and_read(milliseconds in 0_u64..10_000_000_000) {
            let duration = Duration::from_millis(milliseconds);
            proptest::prop_assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }
    }
}
