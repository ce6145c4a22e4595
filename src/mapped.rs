//! Files mapped into memory.
#![allow(unsafe_code)]

use crate::ModelError;
use memmap2::Mmap;
use std::path::Path;
use std::sync::Arc;

/// Maps a file, read-only.
///
/// # Errors
/// [`ModelError::File`] when it can't be opened or mapped, [`ModelError::Format`] when it is empty.
pub fn map(path: &Path) -> Result<Arc<Mmap>, ModelError> {
    let failed = |source| ModelError::File { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(ModelError::Format { path: path.to_path_buf(), what: "this is a folder, not a file".into() });
    }
    if metadata.len() == 0 {
        return Err(ModelError::Format { path: path.to_path_buf(), what: "the file is empty".into() });
    }
    // SAFETY: the mapping is private and read-only. As with every mapped file, whoever truncates or rewrites it while it is
    // in use takes the consequences; Kiln itself never writes to a file that it has mapped.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    Ok(Arc::new(map))
}
