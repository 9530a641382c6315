//! A weight file in memory, as far as it is being read.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

/// A file that is mapped for reading.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a file. Nothing else may write it meanwhile.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        #[expect(
            unsafe_code,
            reason = "the file is mapped; nothing else writes it while it is loaded"
        )]
        // SAFETY: the map is only read. A file that another process shortened meanwhile would end this process with a bus
        // error, not corrupt its memory.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self(map))
    }

    /// Gives back the pages of a part that has been copied, which would count as this process's memory beside the copy;
    /// what lies on the part's edges stays.
    pub fn give_back(&self, range: Range<usize>) {
        let page = rustix::param::page_size();
        let begin = range.start.next_multiple_of(page);
        let end = range.end / page * page;
        if begin < end {
            #[expect(unsafe_code, reason = "the advice drops pages")]
            // SAFETY: the pages are of a file and only read: whoever reads them again finds the same bytes.
            let advised = unsafe {
                self.0
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, begin, end - begin)
            };
            if let Err(error) = advised {
                tracing::debug!(%error, "the pages of a weight file stay");
            }
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
