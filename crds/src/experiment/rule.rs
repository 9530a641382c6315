//! Rules that several fields share. Each is CEL and no pattern, because a pattern has no message of its own: the API server
//! would answer with a regular expression.

use crate::quantity::{AMOUNT_PATTERN, COUNT_OR_PERCENTAGE_PATTERN, DECIMAL_PATTERN};

/// What a text must look like, for the machine and for a person.
pub(super) struct Syntax {
    pub(super) pattern: &'static str,
    pub(super) message: &'static str,
}

/// Names of Secrets, `ConfigMap`s, claims and classes.
pub(super) const NAME: Syntax = Syntax {
    pattern: "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    message: "must be the name of an object: lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
};
/// Keys in Secrets and `ConfigMap`s.
pub(super) const KEY: Syntax = Syntax {
    pattern: "^[-._A-Za-z0-9]+$",
    message: "must be a key: letters, digits, '-', '_' and '.'",
};
/// Values of labels and taints.
pub(super) const LABEL: Syntax = Syntax {
    pattern: "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    message: "a label's value must be letters, digits, '-', '_' and '.', with a letter or digit at both ends",
};
/// Keys of labels and taints.
pub(super) const LABEL_KEY: Syntax = Syntax {
    pattern: "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    message: "must be the key of a label, such as nvidia.com/gpu",
};
/// Names of variables of the environment.
pub(super) const VARIABLE: Syntax = Syntax {
    pattern: "^[!-<>-~]+$",
    message: "must be the name of a variable: anything printable but blanks and '='",
};
/// Numbers of things, or shares of them.
pub(super) const COUNT_OR_PERCENTAGE: Syntax = Syntax {
    pattern: COUNT_OR_PERCENTAGE_PATTERN,
    message: "must be a whole number such as 5, or a share such as 10%",
};
/// Amounts of resources.
pub(super) const AMOUNT: Syntax = Syntax {
    pattern: AMOUNT_PATTERN,
    message: "an amount must be a number and not negative, with an optional suffix, such as 2, 500m or 4Gi",
};

impl Syntax {
    /// The rule of a text.
    pub(super) fn rule(&self) -> String {
        format!("self.matches('{}')", self.pattern)
    }
}

/// The rule of an integer or a text.
pub(super) fn integer_or_text(syntax: &Syntax) -> String {
    format!("string(self).matches('{}')", syntax.pattern)
}

/// The rule of a list of texts.
pub(super) fn each_item(pattern: &str) -> String {
    format!("self.all(item, item.matches('{pattern}'))")
}

/// The rule of a mapping to texts.
pub(super) fn each_value(pattern: &str) -> String {
    format!("self.all(key, self[key].matches('{pattern}'))")
}

/// The rule of a mapping to integers or texts.
pub(super) fn each_amount() -> String {
    format!("self.all(key, string(self[key]).matches('{}'))", AMOUNT.pattern)
}

/// The rule of a decimal number: what is none has a complaint of its own already, and converting it would be a second.
pub(super) fn decimal(field: &str, condition: &str) -> String {
    format!("!{field}.matches('{DECIMAL_PATTERN}') || ({condition})")
}
