//! The results folder: everything needed to aggregate again. Files are replaced whole, so an interrupted write loses
//! nothing that was there.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use lem_crds::EfficiencyExperiment;
use serde::{Serialize, de::DeserializeOwned};

use crate::experiment::{Failure, Record};

/// Why results could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// A file or folder could not be written.
    #[error("failed to write {}; results measured so far are kept in that folder", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder could not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Two processes would disturb each other's measurement and overwrite each other's results.
    #[error("another lem is measuring into {}; wait for it, or choose another folder with --out", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A folder of results.
#[derive(Debug)]
pub struct Results {
    folder: PathBuf,
    /// Held while the folder is written to; the kernel lets go of it however the process ends.
    _lock: Option<fs::File>,
}

impl Results {
    /// Opens a folder for measuring, making it if need be.
    ///
    /// # Errors
    /// It cannot be made, or another process measures into it.
    pub fn create(folder: &Path) -> Result<Self, ResultsError> {
        let records = folder.join("runners");
        fs::create_dir_all(&records).map_err(|source| ResultsError::Write { path: records, source })?;
        let path = folder.join(".lock");
        let lock = fs::File::create(&path).map_err(|source| ResultsError::Write {
            path: path.clone(),
            source,
        })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                folder: folder.to_owned(),
                _lock: Some(lock),
            }),
            Err(fs::TryLockError::WouldBlock) => Err(ResultsError::Busy {
                folder: folder.to_owned(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(ResultsError::Write { path, source }),
        }
    }

    /// Opens a folder that must hold an experiment.
    ///
    /// # Errors
    /// It holds none.
    pub fn open(folder: &Path) -> Result<(Self, EfficiencyExperiment), ResultsError> {
        let results = Self {
            folder: folder.to_owned(),
            _lock: None,
        };
        let experiment = results.read("experiment.json")?;
        Ok((results, experiment))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces a file of the folder whole.
    ///
    /// # Errors
    /// The disk is full, or the folder gone.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), ResultsError> {
        let path = self.folder.join(name);
        let parent = path.parent().unwrap_or(&self.folder).to_owned();
        // A temporary file is its owner's alone; results are anyone's whom the umask lets in.
        let written = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(parent)
            .and_then(|mut file| {
                file.write_all(contents)?;
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)
            });
        written
            .map(|_| ())
            .map_err(|source| ResultsError::Write { path, source })
    }

    /// Replaces a JSON file of the folder whole.
    ///
    /// # Errors
    /// The disk is full, or the folder gone.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), ResultsError> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|source| ResultsError::Damaged {
            path: self.folder.join(name),
            source,
        })?;
        self.write(name, &bytes)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, ResultsError> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).map_err(|source| ResultsError::Read {
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| ResultsError::Damaged { path, source })
    }

    /// Keeps the record of one child.
    ///
    /// # Errors
    /// The disk is full, or the folder gone.
    pub fn keep(&self, record: &Record, session: &str, generation: u32) -> Result<(), ResultsError> {
        self.write_json(
            &format!("runners/{session}-process-{}-{generation}.json", record.process),
            record,
        )
    }

    /// Trials of this folder that failed; none before the first.
    ///
    /// # Errors
    /// The file is unreadable or damaged.
    pub fn failures(&self) -> Result<Vec<Failure>, ResultsError> {
        match self.read("failures.json") {
            Err(ResultsError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Every record of the folder that holds a window.
    ///
    /// # Errors
    /// A record is unreadable or damaged.
    pub fn records(&self) -> Result<Vec<Record>, ResultsError> {
        let folder = self.folder.join("runners");
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|source| ResultsError::Read {
            path: folder.clone(),
            source,
        })?;
        let mut names: Vec<String> = entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "json"))
            .collect();
        names.sort();
        names.iter().map(|name| self.read(&format!("runners/{name}"))).collect()
    }
}
