use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use crate::engine::tests::{load_from, write_tiny_model};

/// What a stand-in for the hub was asked: method and path, and the `Authorization` header.
type Requests = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Serves files under `/{repository}/resolve/{revision}/`, as the hub does, until the process ends.
fn serve(files: HashMap<String, Vec<u8>>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (files, seen) = (Arc::clone(&files), Arc::clone(&seen));
            std::thread::spawn(move || answer(stream.unwrap(), &files, &seen));
        }
    });
    (address, requests)
}

fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>, seen: &Requests) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let authorization = headers
        .iter()
        .find_map(|header| {
            header
                .split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        })
        .map(|(_, value)| value.to_owned());
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let name = path.rsplit('/').next().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let refused = authorization.as_deref() != Some("Bearer secret");
    seen.lock().unwrap().push((format!("{method} {path}"), authorization));
    let (status, body) = match files.get(name) {
        _ if refused => ("401 Unauthorized", Vec::new()),
        Some(body) => ("200 OK", body.clone()),
        None => ("404 Not Found\r\nX-Error-Code: EntryNotFound", Vec::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"{name}\"\r\nX-Repo-Commit: {commit}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    if method == "GET" {
        stream.write_all(&body).unwrap();
    }
}

fn tiny_files() -> HashMap<String, Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    write_tiny_model(directory.path());
    std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

fn hub_model(endpoint: String, cache: &Path) -> HubModel {
    HubModel {
        repository: "owner/tiny".to_owned(),
        revision: "v1.2".to_owned(),
        file: None,
        token: Some("secret".to_owned()),
        cache_directory: Some(cache.to_owned()),
        endpoint: Some(endpoint),
    }
}

#[test]
fn a_model_is_fetched_from_the_hub_with_its_revision_and_token_and_runs() {
    let (endpoint, requests) = serve(tiny_files());
    let cache = tempfile::tempdir().unwrap();
    let engine = load_from(ModelSource::HuggingFace(hub_model(endpoint, cache.path()))).unwrap();
    assert_eq!(engine.description().parameters, 3376);
    assert!(engine.tokenizer().is_some());
    let requests = requests.lock().unwrap();
    assert!(
        requests
            .iter()
            .any(|(line, _)| line == "GET /owner/tiny/resolve/v1.2/model.safetensors"),
        "{requests:?}"
    );
    for (line, authorization) in requests.iter() {
        assert!(line.contains("/owner/tiny/resolve/v1.2/"), "{line}");
        assert_eq!(authorization.as_deref(), Some("Bearer secret"), "{line}");
    }
}

#[test]
fn weight_files_are_those_of_the_index() {
    let mut files = tiny_files();
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("part-1.safetensors".to_owned(), weights);
    let index = br#"{"weight_map": {"a": "part-1.safetensors", "b": "part-1.safetensors"}}"#;
    files.insert("model.safetensors.index.json".to_owned(), index.to_vec());
    let (endpoint, _) = serve(files);
    let cache = tempfile::tempdir().unwrap();
    let resolved = ModelSource::HuggingFace(hub_model(endpoint, cache.path()))
        .resolve()
        .unwrap();
    let ResolvedModel::Safetensors(files) = resolved else {
        panic!("{resolved:?}")
    };
    assert_eq!(files.weights.len(), 1);
    assert!(files.weights[0].ends_with("part-1.safetensors") && files.weights[0].is_file());
}

#[test]
fn a_missing_file_of_a_repository_is_named_with_repository_and_revision() {
    let mut files = tiny_files();
    files.remove("config.json");
    let (endpoint, _) = serve(files);
    let cache = tempfile::tempdir().unwrap();
    let error = ModelSource::HuggingFace(hub_model(endpoint, cache.path()))
        .resolve()
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("fetching config.json of owner/tiny at revision v1.2 failed (check model.name"),
        "{text}"
    );
    assert_eq!(error.category(), "source_not_found");
}

#[test]
fn a_token_that_the_hub_refuses_is_said_with_the_place_to_correct_it() {
    let (endpoint, _) = serve(tiny_files());
    let cache = tempfile::tempdir().unwrap();
    let model = HubModel {
        token: Some("old".to_owned()),
        ..hub_model(endpoint, cache.path())
    };
    let error = ModelSource::HuggingFace(model).resolve().unwrap_err();
    assert!(error.to_string().contains("tokenSecretRef"), "{error}");
    assert_eq!(error.category(), "source_access_denied");
}

#[test]
fn a_token_is_not_shown_in_debug_output() {
    let shown = format!("{:?}", hub_model(String::new(), Path::new("/cache")));
    assert!(!shown.contains("secret") && shown.contains("owner/tiny"));
}

#[test]
fn a_repository_name_without_an_owner_is_refused() {
    for repository in ["tiny", "/tiny", "owner/", "a/b/c"] {
        let model = HubModel {
            repository: repository.to_owned(),
            ..hub_model("http://x".to_owned(), Path::new("/"))
        };
        let error = ModelSource::HuggingFace(model).resolve().unwrap_err();
        assert_eq!(error.category(), "source_repository_name");
    }
}

#[test]
fn an_index_cannot_name_files_outside_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let index = directory.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map": {"a": "../other.safetensors"}}"#).unwrap();
    let error = ModelSource::Directory {
        path: directory.path().to_owned(),
    }
    .resolve()
    .unwrap_err();
    assert!(matches!(error, SourceError::IndexName { .. }), "{error}");
}

#[test]
fn an_unknown_preset_is_refused_with_the_known_ones() {
    let shape = SyntheticShape::Preset("gpt-5".to_owned());
    let error = ModelSource::Synthetic { shape, seed: 0 }.resolve().unwrap_err();
    assert!(error.to_string().contains("tiny-test, smollm2-135m"), "{error}");
}
