//! From a file to its documents, each with the place where it stands.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{ManifestError, strict};

/// Where a document stands, in the words of an error: the file, and which document of it if there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    /// Counted from 1, with those that are empty; none where the file has one only.
    document: Option<u32>,
    /// Which member of a list, counted from 1.
    item: Option<u32>,
}

impl Place {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        if let Some(number) = self.document {
            write!(formatter, ", document {number}")?;
        }
        if let Some(number) = self.item {
            write!(formatter, ", item {number}")?;
        }
        Ok(())
    }
}

/// Reads every document of a file that is not empty, whatever it holds; a list, as `kubectl get -o yaml` prints it, as
/// its members.
///
/// # Errors
/// The file cannot be read, or is not YAML, or gives a field twice.
pub fn documents(path: &Path) -> Result<Vec<(Place, Value)>, ManifestError> {
    let text = fs::read_to_string(path).map_err(|source| ManifestError::Read {
        path: path.to_owned(),
        source,
    })?;
    let place = |document, item| Place {
        path: path.to_owned(),
        document,
        item,
    };
    // Editors of Windows put a mark before the text, which the parser counts as a column.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut read = Vec::new();
    for (number, document) in (1..).zip(serde_yaml::Deserializer::from_str(text)) {
        let value = strict::value(document).map_err(|source| ManifestError::Yaml {
            // Whether others follow the first one is not known where it cannot be read.
            place: place((number > 1).then_some(number), None),
            source,
        })?;
        if !value.is_null() {
            read.push((number, value));
        }
    }
    let several = read.len() > 1;
    let mut found = Vec::new();
    for (number, mut value) in read {
        let number = several.then_some(number);
        match members(&mut value) {
            Some(items) => found.extend((1..).zip(items).map(|(item, value)| (place(number, Some(item)), value))),
            None => found.push((place(number, None), value)),
        }
    }
    Ok(found)
}

/// Takes the members out of a list.
fn members(document: &mut Value) -> Option<Vec<Value>> {
    if !document["kind"].as_str()?.ends_with("List") {
        return None;
    }
    match document.get_mut("items")? {
        Value::Array(items) => Some(std::mem::take(items)),
        _ => None,
    }
}
