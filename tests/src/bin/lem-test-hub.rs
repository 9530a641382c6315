//! A stand-in for the Hugging Face Hub, for a pod of the test cluster: one gated repository of one revision.
//!
//! It gives the files of a folder, as the hub does, to whoever has the token.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context;

/// What the hub has and to whom it gives it.
struct Hub {
    /// Owner and name.
    repository: String,
    /// The only revision.
    revision: String,
    /// What a client must show.
    token: String,
    /// The repository's files.
    folder: String,
    /// What each client gets at most, as over a slow line.
    bytes_per_second: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let variable = |name: &str| env::var(name).with_context(|| format!("{name} must be set"));
    let hub: &'static Hub = Box::leak(Box::new(Hub {
        repository: variable("HUB_REPOSITORY")?,
        revision: variable("HUB_REVISION")?,
        token: variable("HUB_TOKEN")?,
        folder: variable("HUB_FOLDER")?,
        bytes_per_second: match env::var("HUB_BYTES_PER_SECOND") {
            Ok(text) => Some(text.parse().context("HUB_BYTES_PER_SECOND")?),
            Err(_) => None,
        },
    }));
    let listener = TcpListener::bind(variable("HUB_ADDRESS")?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = answer(stream, hub) {
                eprintln!("a client went away: {error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, hub: &Hub) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut token = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            token = value.strip_prefix("Bearer ").map(ToOwned::to_owned);
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    eprintln!("{method} {path}");
    if token.as_deref() != Some(hub.token.as_str()) {
        return refuse(&mut stream, "401 Unauthorized", "GatedRepo");
    }
    let Some(rest) = path.strip_prefix(&format!("/{}/resolve/", hub.repository)) else {
        return refuse(&mut stream, "404 Not Found", "RepoNotFound");
    };
    let Some(name) = rest.strip_prefix(&format!("{}/", hub.revision)) else {
        return refuse(&mut stream, "404 Not Found", "RevisionNotFound");
    };
    let is_plain = Path::new(name).file_name().is_some_and(|file| file == name);
    let Ok(mut file) = File::open(Path::new(&hub.folder).join(name)).and_then(|file| {
        if is_plain {
            Ok(file)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }) else {
        return refuse(&mut stream, "404 Not Found", "EntryNotFound");
    };
    let length = file.metadata()?.len();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"{name}\"\r\nX-Repo-Commit: {commit}\r\nConnection: close\r\n\r\n"
    )?;
    if method == "GET" {
        match hub.bytes_per_second {
            None => io::copy(&mut file, &mut stream).map(drop)?,
            Some(rate) => trickle(&mut file, &mut stream, rate)?,
        }
    }
    stream.flush()
}

/// Ten times a second a tenth of the rate.
fn trickle(file: &mut File, stream: &mut TcpStream, bytes_per_second: usize) -> io::Result<()> {
    let mut piece = vec![0; (bytes_per_second / 10).max(1)];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&piece[..count])?;
        thread::sleep(Duration::from_millis(100));
    }
}

fn refuse(stream: &mut TcpStream, status: &str, code: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}
