//! Gives the shared library the name that programs ask the loader for: it changes with every version that changes the ABI
//! (before 1.0, with the minor version).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkiln.so.{major}.{minor}");
    }
}
