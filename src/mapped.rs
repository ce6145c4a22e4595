//! Files mapped into memory.
#![allow(unsafe_code)]

use crate::ModelError;
use crate::graph::{Bytes, Graph};
use memmap2::Mmap;
use std::ops::Range;
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

/// Gives the memory of a mapping back to the system; what is read later comes from the file again.
pub fn release(map: &Mmap) {
    release_range(map, 0..map.len());
}

/// As [`release`], of these bytes of it.
pub fn release_range(map: &Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: the mapping is of a file and read-only: dropped pages are read from it again, with the same contents.
        let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        if let Err(error) = advised {
            log::debug!("a mapped file could not be given back: {error}");
        }
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}

/// Lets a mapping have small pages alone: none of it is in memory before it is read.
pub fn sparing(map: &Mmap) {
    #[cfg(target_os = "linux")]
    if let Err(error) = map.advise(memmap2::Advice::NoHugePage) {
        log::debug!("large pages of a mapped file stay: {error}");
    }
    release(map);
}

/// Gives memory that was freed back to the system.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> core::ffi::c_int;
        }
        // SAFETY: glibc's function as it declares it; it may be called at any time, by any thread.
        unsafe { malloc_trim(0) };
    }
}

/// The files that a graph's constants lie in, each once.
pub fn maps_of(graph: &Graph) -> Vec<Arc<Mmap>> {
    let mut maps: Vec<Arc<Mmap>> = Vec::new();
    for value in &graph.values {
        if let Some(Bytes::Mapped { file, .. }) = &value.constant
            && !maps.iter().any(|m| Arc::ptr_eq(m, file))
        {
            maps.push(file.clone());
        }
    }
    maps
}
