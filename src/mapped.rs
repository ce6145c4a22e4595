//! Files mapped into memory.
#![allow(unsafe_code)]

use crate::ModelError;
use crate::graph::{Bytes, Graph};
use memmap2::Mmap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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

/// Bytes of a mapping from which on it is worth a thread to have its pages at hand.
const LARGE: usize = 16 << 20;

/// Lets a mapping that nothing has been read from have large pages: what is not in the system's cache yet then comes there in large
/// pieces. That takes fewer requests, and whoever maps the file from then on meets few page faults (resnet50's image, of 102 MB:
/// read from disk with 1.2 ms of work instead of 6, mapped again in 0.4 ms instead of 3.2). Once reading has begun in small pieces, the
/// system goes on with them.
pub fn large_pages(map: &Mmap) {
    #[cfg(target_os = "linux")]
    if map.len() >= HUGE
        && let Err(error) = map.advise(memmap2::Advice::HugePage)
    {
        log::debug!("a mapped file has small pages: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = map;
}

/// Bytes of a large page.
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Brings the pages of a large mapping into memory, from its start on, on a core that is free: whoever reads it meanwhile waits for
/// fewer of them (from the system's cache, to the first answer of resnet50: 53 -> 46 ms, of resnet18: 24.5 -> 21 ms).
pub fn fetch(map: &Arc<Mmap>) {
    #[cfg(target_os = "linux")]
    if map.len() >= LARGE && std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
        let map = map.clone();
        let fetch = move || {
            if let Err(error) = map.advise(memmap2::Advice::PopulateRead) {
                log::debug!("pages of a mapped file come one by one: {error}");
            }
        };
        // Without it, pages come as they are read.
        if let Err(error) = std::thread::Builder::new().name("kiln-open".into()).spawn(fetch) {
            log::debug!("{error}");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (map, LARGE);
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

/// Whether the process is Kiln's own program.
static OWN_PROCESS: AtomicBool = AtomicBool::new(false);

/// Says that this process is Kiln's own: its memory is no one else's, and is given back as suits Kiln.
pub fn own_process() {
    OWN_PROCESS.store(true, Relaxed);
}

/// Gives memory that was freed back to the system: what an import freed would be there beside the weights while they are packed. In
/// another's process, whose memory this may be as well, that is done to be lean alone.
pub fn trim(lean: bool) {
    if !lean && !OWN_PROCESS.load(Relaxed) {
        return;
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> core::ffi::c_int;
        }
        // SAFETY: glibc's function as it declares it; it may be called at any time, by any thread.
        unsafe { malloc_trim(0) };
    }
}

/// Gives the memory of the program's own code back to the system: what runs again comes from its file again, which the system mostly
/// still has. Of the front end's code, which is several MB, nothing runs again once a model is imported.
pub fn release_code() {
    #[cfg(target_os = "linux")]
    {
        // A mapping that something was written into (a debugger's
        // breakpoints, addresses that the loader filled in) would lose that.
        let Ok(text) = std::fs::read_to_string("/proc/self/smaps") else { return };
        let mappings = mappings(&text);
        let here = release_code as *const () as usize;
        let Some(own) = mappings.iter().find(|m| m.range.contains(&here)) else { return };
        unsafe extern "C" {
            fn madvise(start: *mut core::ffi::c_void, len: usize, advice: core::ffi::c_int) -> core::ffi::c_int;
        }
        const DONT_NEED: core::ffi::c_int = 4;
        for mapping in mappings.iter().filter(|m| m.file == own.file && m.clean) {
            let start = std::ptr::with_exposed_provenance_mut(mapping.range.start);
            // SAFETY: a mapping of a file that is not written, neither through this mapping nor, as it is the program that runs, at
            // all: dropped pages are read from it again, with the same contents.
            unsafe { madvise(start, mapping.range.len(), DONT_NEED) };
        }
    }
}

/// A mapping of this process.
#[cfg(target_os = "linux")]
struct Mapping<'a> {
    range: Range<usize>,
    file: &'a str,
    /// It is private, of a file, can't be written, and was not.
    clean: bool,
}

/// The mappings of files in `/proc/self/smaps`.
#[cfg(target_os = "linux")]
fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    let mut other = true;
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some(start) = first.strip_suffix(':') {
            let dirty = start == "Anonymous" && rest.trim() != "0 kB";
            if let Some(mapping) = mappings.last_mut().filter(|_| dirty && !other) {
                mapping.clean = false;
            }
            continue;
        }
        let range = first.split_once('-').map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)));
        let mut fields = rest.splitn(5, ' ');
        let (flags, file) = (fields.next().unwrap_or_default(), fields.nth(3).unwrap_or_default().trim());
        other = !file.starts_with('/');
        if let (Some((Ok(start), Ok(end))), false) = (range, other) {
            let clean = matches!(flags, "r--p" | "r-xp");
            mappings.push(Mapping { range: start..end, file, clean });
        } else {
            other = true;
        }
    }
    mappings
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_as_the_system_writes_them() {
        let smaps = "00200000-00637000 r--p 00000000 fe:01 1234   /usr/bin/a b\nRss:  832 kB\nAnonymous:             0 kB\n\
                     00637000-01798000 r-xp 00436000 fe:01 1234   /usr/bin/a b\nAnonymous:             4 kB\n\
                     01798000-0186c000 rw-p 01596000 fe:01 1234   /usr/bin/a b\nAnonymous:             0 kB\n\
                     2a1da000-2a1fc000 rw-p 00000000 00:00 0      [heap]\nAnonymous:             8 kB\n";
        let read: Vec<_> = mappings(smaps).into_iter().map(|m| (m.range.start, m.range.end, m.file, m.clean)).collect();
        let file = "/usr/bin/a b";
        let want = [(0x200000, 0x637000, file, true), (0x637000, 0x1798000, file, false), (0x1798000, 0x186c000, file, false)];
        assert_eq!(read, want);
    }

    #[test]
    fn code_that_was_given_back_runs() {
        let before = std::fs::read_to_string("/proc/self/smaps").expect("there is one");
        assert!(mappings(&before).iter().any(|m| m.range.contains(&(release_code as *const () as usize))));
        release_code();
        release_code();
    }
}
