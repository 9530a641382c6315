//! OCI images from built programs, without a registry and without a container tool.
//!
//! An image holds one program with the shared libraries that the loader would find for it on this machine, and nothing
//! else: no shell, no package manager, user 65532, nothing that needs a writable root file system.

mod libraries;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{command, error::Error, pins::hex};

/// User and group of the images' programs; the one that distroless images call nonroot.
pub const USER: u32 = 65532;

/// Roots of trust of this machine, for downloads of models.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An image to be written.
#[derive(Debug)]
pub struct Image {
    name: String,
    entry_point: Option<String>,
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
    labels: BTreeMap<String, String>,
}

/// How large a written image is.
#[derive(Debug, Clone, Copy)]
pub struct ImageSize {
    /// All files together, bytes.
    pub content: u64,
    /// The archive, bytes.
    pub archive: u64,
}

impl Image {
    /// An image named `name` that starts this program. Debug information is left out.
    pub fn new(name: &str, program: &Path) -> Result<Self, Error> {
        let file_name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut image = Self {
            entry_point: Some(format!("/{file_name}")),
            ..Self::without_program(name)
        };
        image.add(&file_name, 0o755, stripped(program)?);
        for library in libraries::of(program)? {
            let content = fs::read(&library).map_err(Error::file("read", &library))?;
            image.add(&library.to_string_lossy(), 0o755, content);
        }
        let users = format!("root:x:0:0::/:/\nnonroot:x:{USER}:{USER}::/:/\n");
        image.add("/etc/passwd", 0o644, users.into_bytes());
        image.add(
            "/etc/group",
            0o644,
            format!("root:x:0:\nnonroot:x:{USER}:\n").into_bytes(),
        );
        Ok(image)
    }

    /// An image named `name` that starts nothing, for what pods mount as a volume.
    pub fn without_program(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entry_point: None,
            files: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// The same with this machine's roots of trust, for a program that speaks TLS to the world.
    pub fn with_certificates(mut self) -> Result<Self, Error> {
        if Path::new(CERTIFICATES).exists() {
            let content = fs::read(CERTIFICATES).map_err(Error::file("read", CERTIFICATES))?;
            self.add(CERTIFICATES, 0o644, content);
        }
        Ok(self)
    }

    /// The same with another file.
    #[must_use]
    pub fn with_file(mut self, path: &str, mode: u32, content: Vec<u8>) -> Self {
        self.add(path, mode, content);
        self
    }

    /// The same with a label.
    #[must_use]
    pub fn with_label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let path = PathBuf::from(path.trim_start_matches('/'));
        self.files.insert(path, (mode, content));
    }

    /// Writes the image as an archive in the OCI layout. The same files give the same bytes.
    pub fn write(&self, output: &Path) -> Result<ImageSize, Error> {
        let layer = self.layer().map_err(Error::file("archive the files of", output))?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": format!("{USER}:{USER}"),
                "Entrypoint": self.entry_point.as_slice(),
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, content: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest(content),
                "size": content.len(),
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": [descriptor("layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor("manifest.v1+json", &manifest);
        entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next(),
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });

        // Under another name first: someone may be importing the old one.
        let unfinished = output.with_extension("unfinished");
        let file = File::create(&unfinished).map_err(Error::file("create", &unfinished))?;
        let mut archive = tar::Builder::new(file);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        let mut written = append(&mut archive, Path::new("oci-layout"), 0o644, layout).and_then(|()| {
            append(
                &mut archive,
                Path::new("index.json"),
                0o644,
                index.to_string().as_bytes(),
            )
        });
        for blob in [&config, &manifest, &layer] {
            let path = Path::new("blobs/sha256").join(digest(blob).trim_start_matches("sha256:"));
            written = written.and_then(|()| append(&mut archive, &path, 0o644, blob));
        }
        written
            .and_then(|()| archive.into_inner())
            .and_then(|mut file| file.flush())
            .map_err(Error::file("write", &unfinished))?;
        fs::rename(&unfinished, output).map_err(Error::file("write", output))?;
        Ok(ImageSize {
            content: self.files.values().map(|(_, content)| content.len() as u64).sum(),
            archive: fs::metadata(output).map_err(Error::file("read", output))?.len(),
        })
    }

    fn layer(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        // Mount points of the container's runtime, so that a read-only root file system does.
        let mut folders: BTreeSet<PathBuf> = ["dev", "proc", "sys", "tmp", "etc"]
            .into_iter()
            .map(PathBuf::from)
            .collect();
        for path in self.files.keys() {
            folders.extend(path.ancestors().skip(1).map(Path::to_owned));
        }
        for folder in folders.iter().filter(|folder| !folder.as_os_str().is_empty()) {
            let mut header = header(if folder == Path::new("tmp") { 0o1777 } else { 0o755 }, 0);
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, folder, std::io::empty())?;
        }
        for (path, (mode, content)) in &self.files {
            append(&mut archive, path, *mode, content)?;
        }
        archive.into_inner()
    }
}

fn header(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(archive: &mut tar::Builder<impl Write>, path: &Path, mode: u32, content: &[u8]) -> std::io::Result<()> {
    archive.append_data(&mut header(mode, content.len()), path, content)
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

/// As Go and so OCI names this machine's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The program without debug information.
fn stripped(program: &Path) -> Result<Vec<u8>, Error> {
    let folder = std::env::temp_dir().join(format!(
        "lem-image-{}-{}",
        std::process::id(),
        digest(program.as_os_str().as_encoded_bytes())
            .split_at(15)
            .0
            .replace(':', "-")
    ));
    command::run(
        Command::new("strip")
            .arg("--strip-all")
            .arg("-o")
            .arg(&folder)
            .arg(program),
    )?;
    let content = fs::read(&folder).map_err(Error::file("read", &folder));
    let _ = fs::remove_file(&folder);
    content
}
