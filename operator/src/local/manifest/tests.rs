//! Files with mistakes, by what is said of them.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

const EXPERIMENT: &str = "
apiVersion: lem.dev/v1alpha1
kind: EfficiencyExperiment
metadata: {name: quick}
spec: {model: {name: m, source: {synthetic: {preset: tiny-test}}}}
";
const CONFIG_MAP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: questions}
data: {a.jsonl: '{}'}
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, documents: &[&str]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, documents.join("---\n")).unwrap();
        path
    }
}

/// What is said of a file, without its folder and with causes, as the commands print it.
fn complaints(file: &Path, read: Result<Vec<ManifestError>, Vec<ManifestError>>) -> Vec<String> {
    let folder = format!("{}/", file.parent().unwrap().display());
    let errors = read.unwrap_or_else(|errors| errors).into_iter();
    errors
        .map(|error| format!("{:#}", anyhow::Error::new(error)).replace(&folder, ""))
        .collect()
}

fn of_run(documents: &[&str], arguments: &[&str]) -> Vec<String> {
    let folder = Folder::new();
    let file = folder.file("file.yaml", documents);
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    complaints(&file, read(&file, &settings(&arguments).unwrap()).map(|_| Vec::new()))
}

fn of_validate(documents: &[&str]) -> Vec<String> {
    let folder = Folder::new();
    let file = folder.file("file.yaml", documents);
    complaints(&file, read_all(&file, &[]).map(|_| Vec::new()))
}

#[test]
fn each_document_of_another_kind_is_named_with_its_place_in_one_line() {
    let schedule = "apiVersion: lem.dev/v1alpha1\nkind: EfficiencySchedule\nmetadata: {name: weekly}\n";
    assert_eq!(
        of_run(&[CONFIG_MAP, EXPERIMENT, "", schedule], &[]),
        [
            "file.yaml, document 1: ConfigMap questions is no experiment: put it into a file of its own",
            "file.yaml, document 4: EfficiencySchedule weekly runs on a cluster: give it to `kubectl apply`",
        ]
    );
    assert_eq!(
        of_validate(&[EXPERIMENT, CONFIG_MAP]),
        [
            "file.yaml, document 2: ConfigMap questions is neither experiment nor schedule: put it into a file of its own"
        ]
    );
}

#[test]
fn every_wrong_document_of_several_is_told_by_its_number_and_the_only_one_without() {
    let wrong = EXPERIMENT.replace("name: m,", "name: 7,");
    assert_eq!(
        of_run(&[&wrong, EXPERIMENT, &wrong], &[]),
        [1, 3].map(|number| {
            format!("file.yaml, document {number}: spec.model.name: must be a string (quote it), found a number")
        })
    );
    assert_eq!(
        of_run(&[&wrong], &[]),
        ["file.yaml: spec.model.name: must be a string (quote it), found a number"]
    );
    let list = format!("kind: List\nitems:\n- {}\n", wrong.trim().replace('\n', "\n  "));
    assert_eq!(
        of_run(&[&list], &[]),
        ["file.yaml, item 1: spec.model.name: must be a string (quote it), found a number"]
    );
    let said = of_run(&[EXPERIMENT, "spec: ["], &[]);
    assert!(
        said.len() == 1 && said[0].starts_with("file.yaml, document 2 is not valid YAML: "),
        "{said:?}"
    );
}

#[test]
fn a_field_that_is_given_twice_is_refused_with_file_document_and_line() {
    let twice = format!("{}  workload: {{requests: 4}}\n  workload: {{requests: 5}}\n", spread());
    assert_eq!(
        of_validate(&[EXPERIMENT, &twice]),
        ["file.yaml, document 2 is not valid YAML: spec: the field workload is given twice at line 14 column 3"]
    );
}

/// An experiment whose spec can be appended to.
fn spread() -> String {
    EXPERIMENT.replace(
        "spec: {model: {name: m, source: {synthetic: {preset: tiny-test}}}}",
        "spec:\n  model: {name: m}",
    )
}

#[test]
fn two_experiments_of_one_name_are_refused_with_both_places() {
    let elsewhere = EXPERIMENT.replace("name: quick", "name: quick, namespace: lab");
    assert_eq!(of_validate(&[EXPERIMENT, &elsewhere]), [""; 0]);
    assert_eq!(
        of_validate(&[EXPERIMENT, &elsewhere, EXPERIMENT]),
        ["file.yaml, document 3: quick is in file.yaml, document 1 already: give each a name of its own"]
    );
    let folder = Folder::new();
    let files = ["a.yaml", "b.yaml"].map(|name| folder.file(name, &[EXPERIMENT]));
    let both = files.each_ref().map(|file| read(file, &[]).unwrap().remove(0));
    let named = both.iter().map(|(place, experiment)| (place, experiment.name_any()));
    let said = complaints(&files[1], Err(vec![unique(named).unwrap_err()]));
    assert!(said[0].starts_with("b.yaml: quick is in a.yaml already"), "{said:?}");
}

#[test]
fn a_preset_that_does_not_exist_is_refused_before_anything_starts_in_a_schedule_too() {
    let unknown = EXPERIMENT.replace("tiny-test", "tiny-tset");
    let said = of_run(&[&unknown], &[]);
    assert!(
        said[0].starts_with("file.yaml: spec.model.source.synthetic.preset: there is no preset \"tiny-tset\"")
            && said[0].ends_with("did you mean tiny-test?"),
        "{said:?}"
    );
    let schedule = "
apiVersion: lem.dev/v1alpha1
kind: EfficiencySchedule
metadata: {name: weekly}
spec:
  schedule: 0 3 * * 1
  experimentTemplate: {spec: {model: {name: m, source: {synthetic: {preset: gpt-17}}}}}
";
    let said = of_validate(&[schedule]);
    assert!(
        said.len() == 1 && said[0].contains("spec.experimentTemplate.spec.model.source.synthetic.preset: there is no"),
        "{said:?}"
    );
}

#[test]
fn a_field_that_a_setting_broke_is_told_with_the_setting() {
    for (argument, said) in [
        (
            "workload.requests=many",
            "spec.workload.requests: must be an integer, found a string (from --set workload.requests=many)",
        ),
        (
            "wrkload.requests=4",
            "spec.wrkload: unknown field; did you mean workload? (--set wrkload.requests=4 is a part of it)",
        ),
    ] {
        assert_eq!(of_run(&[EXPERIMENT], &[argument]), [format!("file.yaml: {said}")]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_called_so_and_why() {
    let folder = Folder::new();
    let latin = folder.0.path().join("latin.yaml");
    fs::write(&latin, b"name: \xe9\n").unwrap();
    for (path, words) in [
        (folder.0.path().join("absent.yaml"), "No such file"),
        (folder.0.path().to_owned(), "Is a directory"),
        (latin, "UTF-8"),
    ] {
        let said = complaints(&path, read(&path, &[]).map(|_| Vec::new()));
        assert!(
            said.len() == 1 && said[0].starts_with("failed to read ") && said[0].contains(words),
            "{said:?}"
        );
    }
}

#[test]
fn a_model_that_is_not_there_is_refused_by_its_field_also_in_a_sweep() {
    let folder = Folder::new();
    fs::write(folder.0.path().join("there.gguf"), b"GGUF").unwrap();
    let said = |source: &str, sweep: &str| {
        let text = EXPERIMENT.replace("{synthetic: {preset: tiny-test}}}", source);
        let file = folder.file("file.yaml", &[&text.replace("spec: {", &format!("spec: {{{sweep}"))]);
        let (place, experiment) = read(&file, &[]).unwrap().remove(0);
        let checked = check_models(&localise(experiment, &place).unwrap(), &place);
        complaints(&file, Ok(checked.err().into_iter().collect()))
    };
    assert_eq!(said("{directory: {path: there.gguf}}}", ""), [""; 0]);
    let alone = said("{directory: {path: absent.gguf}}}", "");
    assert!(
        alone[0].starts_with("file.yaml: spec.model.source.directory.path: there is nothing at ")
            && alone[0].contains("absent.gguf: give a .gguf file, a folder with one of them"),
        "{alone:?}"
    );
    let swept = said(
        "{directory: {path: each}}}",
        "sweep: [{field: model.source.directory.path, values: [there.gguf, absent.gguf]}], ",
    );
    assert!(
        swept.len() == 1 && swept[0].starts_with("file.yaml: spec.sweep[0].values[1]: there is nothing at "),
        "{swept:?}"
    );
    let closed = folder.0.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything.
    if closed.read_dir().is_err() {
        let said = said("{directory: {path: closed}}}", "");
        assert!(
            said[0].contains("cannot read ") && said[0].contains("denied"),
            "{said:?}"
        );
    }
}

#[test]
fn a_mark_before_the_text_of_a_file_is_none_of_its_columns() {
    let folder = Folder::new();
    let path = folder.0.path().join("windows.yaml");
    fs::write(&path, "\u{feff}a: 1\r\nb: 2\r\n").unwrap();
    let read = documents(&path).unwrap();
    assert_eq!(read[0].1, serde_json::json!({"a": 1, "b": 2}));
}
