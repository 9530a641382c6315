//! Completion of `kubectl lem …`: kubectl calls `kubectl_complete-lem` with the words so far and takes one candidate a
//! line. Pure, but for the names that it is handed.

use clap::{Arg, Command};

/// kubectl's sign that candidates are all there is: no names of files.
const NO_FILES: &str = ":4";
/// The same, but names of files may follow.
const FILES: &str = ":0";

/// The candidates for the last word. `names` gives names of experiments.
pub(super) fn kubectl(root: &Command, words: &[String], names: impl Fn(&[String]) -> Vec<String>) -> String {
    let mut root = root.clone();
    root.build();
    let (typed, before) = words
        .split_last()
        .map_or(("", words), |(last, before)| (last.as_str(), before));
    let mut command = &root;
    let mut expected: Option<&Arg> = None;
    for word in before {
        if expected.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            expected = option(command, word).filter(|argument| argument.get_action().takes_values());
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        }
    }
    let (candidates, directive) = if let Some(argument) = expected {
        values(argument)
    } else if typed.starts_with('-') {
        (options(command), NO_FILES)
    } else if command.has_subcommands() {
        (subcommands(command), NO_FILES)
    } else if command
        .get_positionals()
        .any(|positional| positional.get_id() == "files")
    {
        (Vec::new(), FILES)
    } else if command.get_positionals().next().is_some() {
        (names(before), NO_FILES)
    } else {
        (Vec::new(), NO_FILES)
    };
    let mut text: String = candidates
        .into_iter()
        .filter(|candidate| candidate.starts_with(typed))
        .map(|candidate| candidate + "\n")
        .collect();
    text.push_str(directive);
    text + "\n"
}

/// The option that a word names; one with its value in the word expects none after it.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| {
        let long = argument
            .get_long()
            .is_some_and(|long| word.strip_prefix("--") == Some(long));
        let short = argument.get_short().is_some_and(|short| word == format!("-{short}"));
        long || short
    })
}

fn values(argument: &Arg) -> (Vec<String>, &'static str) {
    let possible = argument.get_possible_values();
    let files = argument
        .get_value_names()
        .is_some_and(|names| names.iter().any(|name| name == "FILE"));
    let values = possible.iter().map(|value| value.get_name().to_owned()).collect();
    (values, if files { FILES } else { NO_FILES })
}

fn options(command: &Command) -> Vec<String> {
    let visible = command.get_arguments().filter(|argument| !argument.is_hide_set());
    visible
        .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
        .collect()
}

/// Sub-commands with what they do, after a tab.
fn subcommands(command: &Command) -> Vec<String> {
    let with_help = |sub: &Command| {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        format!("{}\t{about}", sub.get_name())
    };
    command.get_subcommands().map(with_help).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::command::PluginArguments;

    fn complete(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let names = |before: &[String]| vec![format!("seen-{}", before.len()), "other".to_owned()];
        let text = kubectl(&PluginArguments::command(), &words, names);
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn sub_commands_options_and_values_complete() {
        let subs = complete(&["d"]);
        assert_eq!(subs.len(), 2);
        assert!(subs[0].starts_with("doctor\tCheck"), "{subs:?}");
        assert_eq!(complete(&["report", "x", "-o", "m"]), ["markdown", NO_FILES]);
        assert_eq!(complete(&["logs", "--fol"]), ["--follow", NO_FILES]);
        assert_eq!(complete(&["status", "--kubec"]), ["--kubeconfig", NO_FILES]);
    }

    #[test]
    fn names_of_experiments_complete_where_one_is_expected() {
        assert_eq!(complete(&["-n", "lab", "status", "s"]), ["seen-3", NO_FILES]);
        assert_eq!(complete(&["doctor", ""]), [NO_FILES]);
    }

    #[test]
    fn files_are_left_to_the_shell() {
        assert_eq!(complete(&["run", ""]), [FILES]);
        assert_eq!(complete(&["status", "--kubeconfig", ""]), [FILES]);
    }
}
