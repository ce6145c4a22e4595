//! Reads the compiled images and writes what the firmware must know of them at compile time: the bytes, aligned and in a
//! section of their own, the size of the arena, and the ops that the image uses, so that no others are linked.

use kiln::image::Image;
use kiln::ops::names;
use kiln::program::OpKind;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// MLPerf Tiny's networks, each a binary of its own.
const NETWORKS: [&str; 4] = ["ad", "ic", "kws", "vww"];
/// Models with a front end.
const MODELS: [&str; 3] = ["text-lstm", "digits-cnn", "digits-mlp"];

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let images = here.join("images");
    let code = MODELS.map(|name| {
        let prefix = name.to_uppercase().replace('-', "_") + "_";
        constants(&prefix, &images.join(name).with_extension("kiln"))
    });
    fs::write(out.join("models.rs"), code.concat()).unwrap();
    for name in NETWORKS {
        let input = images.join(name).with_extension("in");
        let code = constants("", &images.join(name).with_extension("kiln")) + &bytes("INPUT", &input, read(&input).len());
        fs::write(out.join(name).with_extension("rs"), code).unwrap();
    }

    fs::write(out.join("stacks.rs"), stacks(&images.join("stacks"))).unwrap();
    fs::write(out.join("size.rs"), sized(&env::var("KILN_OPS").unwrap_or_default())).unwrap();
    println!("cargo::rerun-if-env-changed=KILN_OPS");

    println!("cargo::rustc-check-cfg=cfg(thumb2)");
    if !env::var("TARGET").unwrap().starts_with("thumbv6m") {
        println!("cargo::rustc-cfg=thumb2");
    }

    // What links it: the board's memory, and where images go in it.
    println!("cargo::rerun-if-env-changed=KILN_BOARD");
    let board = env::var("KILN_BOARD").expect("KILN_BOARD names a board: build by targets/cortex-m/cargo");
    let memory = [format!("boards/{board}.x"), "images.x".into()].map(|name| {
        println!("cargo::rerun-if-changed={name}");
        fs::read_to_string(here.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    });
    fs::write(out.join("memory.x"), memory.concat()).unwrap();
    println!("cargo::rerun-if-changed={}", images.join("digits.u8").display());
    println!("cargo::rustc-link-search={}", out.display());
    // target/TRIPLE/release/build/NAME/out: the map goes beside the firmware
    let beside = out.ancestors().nth(3).unwrap();
    for name in NETWORKS.into_iter().chain(["firmware", "digits"]) {
        println!("cargo::rustc-link-arg-bin={name}=-Map={}", beside.join(name).with_extension("map").display());
    }
}

fn read(path: &Path) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}: run targets/cortex-m/compile-images first", path.display()))
}

/// A file's bytes, as a static in the images' section.
fn bytes(name: &str, path: &Path, len: usize) -> String {
    format!(
        "#[unsafe(link_section = \".images\")]\n\
         pub static {name}: kiln::Aligned<[u8; {len}]> = kiln::Aligned(*include_bytes!({path:?}));\n"
    )
}

/// An image of a file, which stays in memory: this program is short-lived.
fn checked(path: &Path) -> Image<'static> {
    let file = read(path);
    let aligned = vec![0u64; file.len().div_ceil(8) + 8].leak();
    let start = aligned.as_ptr().align_offset(64);
    let copy = &mut bytes_of(aligned)[8 * start..][..file.len()];
    copy.copy_from_slice(&file);
    Image::new(copy).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// An image: the constants `IMAGE`, `ARENA` and `OPS`, their names after a prefix.
fn constants(prefix: &str, path: &Path) -> String {
    let image = checked(path);
    let program = image.main();
    let mut kinds: Vec<OpKind> = program.ops().map(|op| op.kind).collect();
    let backend = if names::has_clamps_only(&image) { CLAMPS } else { ALL };
    kinds.sort();
    kinds.dedup();
    let mut code = bytes(&format!("{prefix}IMAGE"), path, image.bytes());
    writeln!(code, "pub const {prefix}ARENA: usize = {};", program.arena_bytes()).unwrap();
    writeln!(code, "pub static {prefix}OPS: [kiln::ops::Entry; {}] = [", kinds.len()).unwrap();
    for kind in kinds {
        writeln!(code, "    {},", names::of(&image, kind).replace("B>", backend)).unwrap();
    }
    code + "];\n"
}

/// For `stacks`: all images of a folder, which need not be there.
fn stacks(folder: &Path) -> String {
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "kiln")).collect();
    paths.sort();
    let (mut code, mut list, mut arena) = (String::new(), String::new(), 0);
    for (i, path) in paths.iter().enumerate() {
        let (name, file) = (format!("IMAGE_{i}"), checked(path));
        code += &bytes(&name, path, file.bytes());
        arena = arena.max(file.main().arena_bytes());
        writeln!(list, "    ({:?}, &{name}.0),", path.file_stem().unwrap().to_str().unwrap()).unwrap();
    }
    code + &format!("pub const ARENA: usize = {arena};\npub static IMAGES: [(&str, &[u8]); {}] = [\n{list}];\n", paths.len())
}

/// For `size`: `KILN_OPS` is a list of kinds, `clamps` before them for epilogues of clamps only; `none` links nothing at all.
fn sized(list: &str) -> String {
    let (mut backend, mut entries) = (ALL, Vec::new());
    for name in list.split_whitespace().filter(|&name| name != "none") {
        let kind = OpKind::ALL.into_iter().find(|kind| kind.name() == name).map(names::general);
        let small = names::SMALL.iter().find(|small| small.0 == name).map(|small| small.2);
        match kind.or(small) {
            Some(call) => entries.push(call.replace("B>", backend)),
            None if name == "clamps" => backend = CLAMPS,
            None => panic!("KILN_OPS: there is no op \"{name}\""),
        }
    }
    format!(
        "pub const LINKED: bool = {};\npub static OPS: [kiln::ops::Entry; {}] = [{}];\n",
        list != "none",
        entries.len(),
        entries.join(", ")
    )
}

/// The backend, and the same without activations that are no clamps.
const ALL: &str = "kiln::kernels::Base>";
const CLAMPS: &str = "kiln::kernels::Clamps<kiln::kernels::Base>>";

fn bytes_of(words: &mut [u64]) -> &mut [u8] {
    let bytes = 8 * words.len();
    // SAFETY: any byte of a u64 may be read and written as a u8.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), bytes) }
}
