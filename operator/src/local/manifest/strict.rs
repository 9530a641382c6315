//! YAML whose mappings have each key once. serde's own `Value` takes the last of two, so that one of two lines of a file
//! means nothing and nobody is told.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads one value.
///
/// # Errors
/// It is not YAML, or a mapping of it has a key twice: with the field and the line.
pub(super) fn value(document: serde_yaml::Deserializer<'_>) -> Result<Value, serde_yaml::Error> {
    Strict.deserialize(document)
}

/// By this key YAML 1.1 takes in the fields of another mapping; nothing here does.
const MERGE: &str = "<<";

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a mapping, a list, a text, a number, true, false or null")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("the number {value} is not finite")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    /// A document without anything in it.
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _tagged: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("tags such as !name are not read: take it away"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = mapping.next_key_seed(NewKey(&fields))? {
            let value = mapping.next_value_seed(Self)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// A key that a mapping does not have yet. Refused where it is read, so that the error has the line of the second one.
struct NewKey<'a>(&'a Map<String, Value>);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if key == MERGE {
            return Err(E::custom("merge keys (<<) are not read: write the fields out"));
        }
        if self.0.contains_key(key) {
            return Err(E::custom(format!("the field {key} is given twice")));
        }
        Ok(key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        value(serde_yaml::Deserializer::from_str(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_field_that_is_given_twice_is_refused_with_its_place_and_line() {
        let text = "spec:\n  workload:\n    requests: 4\n    maxInputTokens: 8\n    requests: 400\n";
        assert_eq!(
            read(text).unwrap_err(),
            "spec.workload: the field requests is given twice at line 5 column 5"
        );
        let in_braces = "spec: {list: [{a: 1, \"a\": 1}]}";
        let said = read(in_braces).unwrap_err();
        assert!(
            said.contains("spec.list[0]: the field a is given twice at line 1"),
            "{said}"
        );
        let by_alias = "one: &name requests\n*name : 1\nrequests: 2\n";
        assert!(read(by_alias).unwrap_err().contains("twice"));
    }

    #[test]
    fn what_would_be_read_otherwise_elsewhere_is_refused_in_words_that_help() {
        for (text, words) in [
            (
                "a: &base {b: 1}\nc:\n  <<: *base\n",
                "c: merge keys (<<) are not read: write the fields out at line 3",
            ),
            ("a: !secret b", "a: tags such as !name are not read: take it away"),
            (
                "a: 18446744073709551616",
                "a: the number 18446744073709551616 is too large",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn everything_else_is_read_as_serde_reads_it() {
        let text = "a: {b: [1, -2, 2.5, 1e3, yes, 'x', null, ~, true], c: &all {d: \"\"}, e: *all, 7: 8}\nf:\n";
        assert_eq!(read(text).unwrap(), serde_yaml::from_str::<Value>(text).unwrap());
        for nothing in ["null", "", "# a remark\n", "---\n"] {
            assert_eq!(read(nothing).unwrap(), Value::Null, "{nothing:?}");
        }
    }

    #[test]
    fn a_number_without_end_is_no_absent_field() {
        let said = read("temperature: .inf").unwrap_err();
        assert!(
            said.contains("temperature: the number inf is not finite at line 1"),
            "{said}"
        );
    }
}
