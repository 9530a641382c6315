//! What the API server said, in the words of `lem validate`.

use kube::api::PostParams;
use lem_crds::EfficiencyExperiment;
use serde_json::Value;

use crate::world::World;

/// Its answer.
#[derive(Debug)]
pub(crate) enum Said {
    Admitted,
    Refused(Vec<Cause>),
}

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    field: String,
    words: Words,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Words {
    /// Ours, to the letter.
    Exactly(String),
    /// The API server's, translated: ours must contain them.
    Within(String),
    /// Words that the table lacks, which is an error of the table.
    Unknown(String),
}

/// Creates the object without creating it, with the validation that kubectl asks for.
pub(crate) async fn dry_run(world: &World, json: &Value) -> Said {
    let url = <EfficiencyExperiment as kube::Resource>::url_path(&(), Some(&world.namespace));
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let body = serde_json::to_vec(json).unwrap();
    let mut request = kube::core::Request::new(url).create(&parameters, body).unwrap();
    let strict = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = strict.parse().unwrap();
    match world.client.request::<Value>(request).await {
        Ok(_) => Said::Admitted,
        Err(kube::Error::Api(status)) => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let causes: Vec<Cause> = causes
                .filter_map(|cause| translated(&cause.field, &cause.message))
                .collect();
            if causes.is_empty() {
                return Said::Refused(undecodable(&status.message));
            }
            Said::Refused(once(&causes))
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether the complaints are the same.
pub(crate) fn agree(causes: &[Cause], must_say: &[String]) -> Result<(), String> {
    let matches = |cause: &Cause, said: &str| {
        let (field, message) = match said.strip_prefix(&format!("{}: ", cause.field)) {
            Some(message) => (cause.field.as_str(), message),
            None => ("", said),
        };
        field == cause.field
            && match &cause.words {
                Words::Exactly(words) => words == message,
                Words::Within(words) => message.contains(words.as_str()),
                Words::Unknown(_) => false,
            }
    };
    let mut left: Vec<&String> = must_say.iter().collect();
    for cause in causes {
        match left.iter().position(|said| matches(cause, said)) {
            Some(index) => drop(left.remove(index)),
            None => return Err(format!("the API server says {cause:?}, and the file {must_say:?}")),
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("the API server does not say {left:?}, only {causes:?}"))
    }
}

/// The table. `None` for what is about another complaint of the same answer.
fn translated(field: &str, message: &str) -> Option<Cause> {
    let field = field.trim_start_matches("<nil>");
    if message.contains("some validation rules were not checked") || message.contains("Checked value must be of type") {
        return None;
    }
    if let Some((path, _)) = message
        .strip_prefix("Invalid value: \"\": \"")
        .and_then(|rest| rest.split_once("\" must validate one and only one schema (oneOf)"))
    {
        return Some(Cause {
            field: path.to_owned(),
            words: Words::Within("give ".to_owned()),
        });
    }
    // "Invalid value: 0: spec.cycles in body should be …" → "should be …"
    let body = message.rsplit_once(" in body ").map_or(message, |(_, body)| body);
    let after = |text: &'static str| body.split_once(text).map(|(_, rest)| rest.trim_matches('"').to_owned());
    let number = |text: String| text.parse::<f64>().map_or(text, |number| format!("{number}"));
    let words = if body.starts_with("Required value") {
        Words::Within("missing".to_owned())
    } else if let Some(bound) = after("should be greater than or equal to ") {
        Words::Within(format!("must be at least {}, found ", number(bound)))
    } else if let Some(bound) = after("should be less than or equal to ") {
        Words::Within(format!("must be at most {}, found ", number(bound)))
    } else if let Some(bound) = after("may not be more than ") {
        Words::Within(format!(
            "must be at most {} characters long",
            bound.trim_end_matches(" bytes")
        ))
    } else if body.ends_with("should be at least 1 chars long") || body.ends_with("should have at least 1 items") {
        Words::Within("must not be empty".to_owned())
    } else if let Some(bound) = after("must have at most ") {
        Words::Within(format!("must have at most {bound}, found "))
    } else if let Some(values) = after("supported values: ") {
        Words::Within(format!("is not one of {}", values.replace('"', "")))
    } else if let Some(types) = after("must be of type ") {
        let expected = types.split_once(':').map_or(types.as_str(), |(expected, _)| expected);
        Words::Within(format!("must be {}, found ", kind(expected)))
    } else if body.contains("a lowercase RFC 1123 subdomain must consist of") {
        Words::Within("must be lower-case letters, digits, '-' and '.'".to_owned())
    } else if body.contains("a valid label must be an empty string or consist of") {
        Words::Within("must be letters, digits, '-', '_' and '.'".to_owned())
    } else {
        // A rule of ours: "Invalid value: <message>", with the value before it if that is a plain one.
        let rule = body.strip_prefix("Invalid value: ").unwrap_or(body);
        let rule = match rule.strip_prefix('"').and_then(|rest| rest.split_once("\": ")) {
            Some((_, rule)) => rule,
            None => rule,
        };
        Words::Exactly(rule.to_owned())
    };
    Some(Cause {
        field: field.to_owned(),
        words,
    })
}

fn kind(expected: &str) -> &str {
    match expected {
        "integer" => "an integer",
        "string" => "a string (quote it)",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        "integer,string" => "an integer or a string",
        other => other,
    }
}

/// An answer without causes: the object did not even decode.
fn undecodable(message: &str) -> Vec<Cause> {
    let cause = |field: &str, words: Words| Cause {
        field: field.to_owned(),
        words,
    };
    if let Some((_, fields)) = message.split_once("strict decoding error: ") {
        let fields = fields.split(", ").map(|one| {
            let field = one
                .strip_prefix("unknown field \"")
                .and_then(|rest| rest.strip_suffix('"'));
            field.map_or_else(
                || cause("", Words::Unknown(one.to_owned())),
                |field| cause(field, Words::Within("unknown field".to_owned())),
            )
        });
        return fields.collect();
    }
    if message.contains("cannot unmarshal number into Go struct field ObjectMeta.labels of type string") {
        return vec![cause(
            "metadata.labels",
            Words::Within("must be a string (quote it)".to_owned()),
        )];
    }
    vec![cause("", Words::Unknown(message.to_owned()))]
}

/// One complaint for one mistake: a value of another type also breaks its bounds, and an empty choice also lacks its first
/// alternative.
fn once(causes: &[Cause]) -> Vec<Cause> {
    let about = |cause: &Cause, words: &str| matches!(&cause.words, Words::Within(said) if said.starts_with(words));
    let has_type_error = |field: &str| {
        causes
            .iter()
            .any(|cause| cause.field == field && about(cause, "must be ") && !about(cause, "must be at "))
    };
    let is_choice = |field: &str| causes.iter().any(|cause| cause.field == field && about(cause, "give "));
    let follows = |cause: &Cause| {
        let parent = cause.field.rsplit_once('.').map_or("", |(parent, _)| parent);
        let bounds = about(cause, "must be at ") || about(cause, "is not one of");
        (bounds && has_type_error(&cause.field)) || (about(cause, "missing") && is_choice(parent))
    };
    causes.iter().filter(|cause| !follows(cause)).cloned().collect()
}
