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
    /// Neither a number of things nor a share of them.
    #[error("{0:?} is neither a whole number nor a share; write 5 or \"10%\"")]
    CountOrPercentage(String),
    /// Not an amount of a resource.
    #[error("{0:?} is not an amount of a resource; write a number and a suffix, such as \"500m\" or \"4Gi\"")]
    Amount(String),
}

// Bounded digits: whatever matches can be read, and a sum of so many hours does not overflow.
const DURATION_PATTERN: &str = "^([0-9]{1,12}([.][0-9]{1,9})?(ms|s|m|h))+$";
const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;
pub(crate) const DECIMAL_PATTERN: &str = "^[0-9]+([.][0-9]+)?$";
pub(crate) const AMOUNT_PATTERN: &str = "^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)?$";

pub(crate) const COUNT_OR_PERCENTAGE_PATTERN: &str = "^([0-9]{1,6}|([1-9]?[0-9]|100)%)$";

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
            let length = scaled(number, unit_nanoseconds).ok_or_else(invalid)?;
            total = total.checked_add(length).ok_or_else(invalid)?;
            rest = &tail[unit..];
        }
        Ok(Self(total))
    }
}

/// `number` × `unit` in integers, so that no whole number of nanoseconds is rounded.
fn scaled(number: &str, unit: u64) -> Option<time::Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !(1..=12).contains(&whole.len()) || !(1..=9).contains(&fraction.len()) {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit);
    let fraction = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / 10_u128.pow(fraction.len() as u32);
    let nanoseconds = whole + fraction;
    let seconds = u64::try_from(nanoseconds / NANOSECONDS_PER_SECOND).ok()?;
    Some(time::Duration::new(
        seconds,
        (nanoseconds % NANOSECONDS_PER_SECOND) as u32,
    ))
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

/// An amount of a resource as Kubernetes writes it, never negative: `2`, `500m`, `4Gi`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(String);

impl FromStr for Amount {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let suffixes = [
            "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
        ];
        if number.parse::<Decimal>().is_ok() && suffixes.contains(&&text[number.len()..]) {
            Ok(Self(text.to_owned()))
        } else {
            Err(QuantityError::Amount(text.to_owned()))
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What Kubernetes calls int-or-string.
#[derive(Deserialize)]
#[serde(untagged)]
enum IntegerOrText<'a> {
    Integer(u64),
    Text(Cow<'a, str>),
}

impl fmt::Display for IntegerOrText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(formatter, "{number}"),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IntegerOrText::deserialize(deserializer)? {
            IntegerOrText::Integer(number) => Ok(Self(number.to_string())),
            IntegerOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "description": "A number with an optional suffix, such as 2, 500m or 4Gi."
        })
    }
}

/// A number of things, or a share of them in whole per cent: `5`, `"10%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountOrPercentage {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percentage(u32),
}

impl CountOrPercentage {
    /// How many of `total` that is. A share is rounded up: 10 % of 3 is 1.
    pub const fn of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percentage(share) => (total as u64 * share as u64).div_ceil(100) as u32,
        }
    }
}

impl FromStr for CountOrPercentage {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || QuantityError::CountOrPercentage(text.to_owned());
        let digits = text.strip_suffix('%').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: u32 = digits.parse().map_err(|_| invalid())?;
        match (text.ends_with('%'), number) {
            (true, 0..=100) => Ok(Self::Percentage(number)),
            (false, 0..=999_999) => Ok(Self::Count(number)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for CountOrPercentage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(formatter, "{count}"),
            Self::Percentage(share) => write!(formatter, "{share}%"),
        }
    }
}

impl Serialize for CountOrPercentage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Percentage(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for CountOrPercentage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = IntegerOrText::deserialize(deserializer)?;
        written.to_string().parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for CountOrPercentage {
    fn schema_name() -> Cow<'static, str> {
        "CountOrPercentage".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 7,
            "description": "A whole number such as 5, or a share such as 10%."
        })
    }
}

/// A limit, written as a whole number or as a decimal in a string: `500`, `"0.5"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limit(Decimal);

impl Limit {
    /// The value as a double.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

impl From<u32> for Limit {
    fn from(whole: u32) -> Self {
        Self(Decimal(whole.to_string()))
    }
}

impl FromStr for Limit {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Limit {
    /// Whole numbers that every reader of JSON can hold are written as numbers, as they were read.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.0.parse::<u32>() {
            Ok(whole) if whole.to_string() == self.0.0 => serializer.serialize_u32(whole),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = IntegerOrText::deserialize(deserializer)?;
        written.to_string().parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "description": "A non-negative number: 500, or \"0.5\"."
        })
    }
}

macro_rules! string_quantity {
    ($type:ident, $pattern:expr, $message:literal, $description:literal) => {
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
                // A rule and no pattern: a pattern has no message of its own.
                json_schema!({
                    "type": "string",
                    "maxLength": 32,
                    "description": $description,
                    "x-kubernetes-validations": [{"rule": format!("self.matches('{}')", $pattern), "message": $message}]
                })
            }
        }
    };
}
string_quantity!(
    Duration,
    DURATION_PATTERN,
    "must be numbers with the units ms, s, m, h, such as 100ms or 1h30m",
    "Numbers with the units ms, s, m, h, such as 100ms or 1h30m."
);
string_quantity!(
    Decimal,
    DECIMAL_PATTERN,
    "must be a decimal number and not negative, such as 0.7",
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
        for text in ["", "5", "s", "5 s", "-5s", "5d", "1.2.3s", "9999999999999h"] {
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

    #[test]
    fn the_longest_duration_that_the_pattern_admits_can_be_read() {
        let text = "999999999999h999999999999h";
        assert!((text.parse::<Duration>().unwrap().seconds() - 2.0 * 999_999_999_999.0 * 3600.0).abs() < 1.0);
    }

    #[test]
    fn an_amount_is_an_integer_of_any_length_or_a_number_with_a_suffix_of_kubernetes() {
        for (json, text) in [
            ("8589934592", "8589934592"),
            ("\"500m\"", "500m"),
            ("\"1.5Gi\"", "1.5Gi"),
        ] {
            assert_eq!(serde_json::from_str::<Amount>(json).unwrap().to_string(), text);
        }
        for json in ["-1", "1.5", "\"100 parsecs\"", "\"\"", "\"Gi\"", "\"4gi\"", "true"] {
            assert!(serde_json::from_str::<Amount>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_share_is_rounded_up_so_that_a_small_fleet_is_measured_at_all() {
        let of = |text: &str, total| text.parse::<CountOrPercentage>().unwrap().of(total);
        assert_eq!((of("10%", 3), of("10%", 1000), of("100%", 7)), (1, 100, 7));
        assert_eq!((of("0%", 1000), of("5", 3), of("0", 3)), (0, 5, 0));
    }

    #[test]
    fn what_is_neither_a_count_nor_a_share_is_refused() {
        for json in ["5", "\"5\"", "\"100%\"", "\"0%\""] {
            assert!(serde_json::from_str::<CountOrPercentage>(json).is_ok(), "{json}");
        }
        for json in ["-1", "1.5", "\"101%\"", "\"%\"", "\"\"", "\"ten\"", "1000000"] {
            assert!(serde_json::from_str::<CountOrPercentage>(json).is_err(), "{json}");
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
