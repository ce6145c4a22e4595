//! How the program `kiln` is linked.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    // The ONNX front end is full of tables of functions: 69,000 addresses, which the loader writes before `main` where a program may
    // lie anywhere. At a fixed place the linker has written them. Stack, heap and libraries stay where chance puts them.
    // What runs once at the start, or hardly ever, is put together, so that its pages are not in between those of the rest.
    let is_static = target("FEATURE").split(',').any(|feature| feature == "crt-static");
    if target("ARCH") == "x86_64" && target("OS") == "linux" && target("ENV") == "gnu" && !is_static {
        to_linker("-no-pie");
        to_linker("-Wl,-z,keep-text-section-prefix");
        // mold takes no linker scripts.
        if env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("mold")) {
            return;
        }
        // The other way round, what every start runs is put together too. The list is part of the repository, not of the package.
        let order = format!("{}/targets/x86_64-linux/start.ld", env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
        // A comma would cut the path in two.
        if Path::new(&order).exists() && !order.contains(',') {
            println!("cargo:rerun-if-changed={order}");
            to_linker(&format!("-Wl,-T,{order}"));
        }
        if env::var("HOST") == env::var("TARGET") {
            with_static_libraries();
        }
    }
}

fn to_linker(argument: &str) {
    println!("cargo:rustc-link-arg-bin=kiln={argument}");
}

/// Links the C library into the program, where its archives are installed: to find, map and bind shared ones takes a sixth of the time
/// to a small network's first answer.
///
/// rustc does so for a target feature, which must be set for all crates, on the command line. Here its `-lc` and the like, which ask
/// for shared libraries, find scripts that name the archives.
fn with_static_libraries() {
    let Ok(folder) = env::var("OUT_DIR") else { return };
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".into());
    let archive = |name: &str| {
        let name = format!("-print-file-name=lib{name}.a");
        let found = process::Command::new(&linker).arg(name).output().ok()?;
        let path = PathBuf::from(String::from_utf8(found.stdout).ok()?.trim());
        (path.is_absolute() && path.exists()).then_some(path)
    };
    if ["c", "m", "gcc", "gcc_eh"].into_iter().any(|name| archive(name).is_none()) || folder.contains(',') {
        return;
    }
    // The last four are part of libc where it is a new one.
    let libraries =
        [("gcc_s", "gcc_eh"), ("c", "c"), ("m", "m"), ("dl", "dl"), ("pthread", "pthread"), ("rt", "rt"), ("util", "util")];
    for (asked, given) in libraries {
        let script = archive(given).map_or_else(String::new, |path| format!("INPUT(\"{}\")\n", path.display()));
        if fs::write(format!("{folder}/lib{asked}.so"), script).is_err() {
            return;
        }
    }
    to_linker("-static");
    to_linker(&format!("-L{folder}"));
    // The start code of static programs announces all tables for unwinding, and the first panic would sort them. They are sorted
    // already, in a table that unwinding finds by itself unless others were announced.
    for name in ["__register_frame_info", "__deregister_frame_info"] {
        to_linker(&format!("-Wl,--wrap={name},--defsym=__wrap_{name}=0"));
    }
}
