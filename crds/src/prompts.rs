//! The format of a file of prompts: one JSON object per line. Pure.

use serde_json::Value;

/// Why a file of prompts is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptsError {
    /// A line is not JSON.
    #[error("line {line} is not JSON: {message}")]
    NotJson {
        /// Number of the line, from 1.
        line: usize,
        /// Why.
        message: String,
    },
    /// An object has no text under the key.
    #[error("line {line} has no text under {field:?}")]
    NoText {
        /// Number of the line, from 1.
        line: usize,
        /// The key.
        field: String,
    },
    /// No line at all.
    #[error("there is no prompt in it")]
    Empty,
}

/// The texts of a file, in order; empty lines count as none.
///
/// # Errors
/// The first line that is no object with the text, or no line at all.
pub fn parse(text: &str, field: &str) -> Result<Vec<String>, PromptsError> {
    let mut texts = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line_number = index + 1;
        let object: Value = serde_json::from_str(line).map_err(|error| PromptsError::NotJson {
            line: line_number,
            message: error.to_string(),
        })?;
        let prompt = object[field].as_str().ok_or_else(|| PromptsError::NoText {
            line: line_number,
            field: field.to_owned(),
        })?;
        texts.push(prompt.to_owned());
    }
    if texts.is_empty() {
        Err(PromptsError::Empty)
    } else {
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gives_one_prompt_and_a_wrong_one_is_named_by_its_number() {
        assert_eq!(parse("{\"p\":\"a\"}\n\n{\"p\":\"b\"}\n", "p").unwrap(), ["a", "b"]);
        let wrong = parse("{\"p\":\"a\"}\n{\"q\":1}", "p").unwrap_err();
        assert_eq!(wrong.to_string(), "line 2 has no text under \"p\"");
        assert_eq!(parse("\n", "p"), Err(PromptsError::Empty));
    }
}
