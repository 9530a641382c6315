//! Limits of the machine that several clusters reach together.

use std::fs;

use crate::{binaries::progress, error::Error};

/// A cluster of three nodes takes 38, and the kernel's default for a user is 128: then programs of the fourth cluster
/// end with "too many open files".
const INOTIFY_INSTANCES: u32 = 1024;
const INOTIFY_FILE: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Raises what is too low. This is the one setting of the machine that stays as it was made, until the next boot: other
/// clusters may rely on it.
pub(crate) fn raise() -> Result<(), Error> {
    let text = fs::read_to_string(INOTIFY_FILE).map_err(Error::file("read", INOTIFY_FILE))?;
    if text.trim().parse().is_ok_and(|limit: u32| limit >= INOTIFY_INSTANCES) {
        return Ok(());
    }
    match fs::write(INOTIFY_FILE, INOTIFY_INSTANCES.to_string()) {
        Ok(()) => progress(&format!(
            "raised fs.inotify.max_user_instances from {} to {INOTIFY_INSTANCES}",
            text.trim()
        )),
        // A container may not: then there is room for three clusters, and the machine's owner has to be asked for more.
        Err(error) => progress(&format!("fs.inotify.max_user_instances stays {}: {error}", text.trim())),
    }
    Ok(())
}
