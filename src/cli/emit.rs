//! `kiln compile --emit`: an image as source code, for a firmware: its bytes as an aligned array, the bytes of its arena, and
//! the list of its ops, so that the linker drops the kernels of all others.

use crate::image::Image;
use crate::ops::names;
use crate::program::OpKind;
use clap::ValueEnum;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A language to write an image in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// NAME.rs: statics for kiln's Rust API; the bytes are included from the image's file
    Rust,
    /// NAME.h and NAME.c: constants for kiln.h
    C,
}

/// The files for an image that lies at `path`, beside it: their paths and their text.
pub fn files(language: Language, path: &Path, image: &Image<'_>, bytes: &[u8]) -> Vec<(PathBuf, String)> {
    let stem = path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
    let name = identifier(&stem);
    match language {
        Language::Rust => {
            let file = path.file_name().map_or("model.kiln".into(), |name| name.to_string_lossy().into_owned());
            vec![(path.with_extension("rs"), rust(&name, &file, image, bytes.len()))]
        }
        Language::C => vec![
            (path.with_extension("h"), c_header(&name, image, bytes.len())),
            (path.with_extension("c"), c_source(&name, &stem, image, bytes)),
        ],
    }
}

/// A name that both languages take for a variable.
fn identifier(stem: &str) -> String {
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() { format!("model_{name}") } else { name }
}

/// The kinds of ops of all its programs, each once.
fn kinds(image: &Image<'_>) -> Vec<OpKind> {
    let mut kinds: Vec<OpKind> = image.programs().flat_map(|program| program.ops()).map(|op| op.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn rust(name: &str, file: &str, image: &Image<'_>, len: usize) -> String {
    let (constant, kinds) = (name.to_uppercase(), kinds(image));
    let clamps = if names::has_clamps_only(image) {
        "\n// or, since no other activation is fused than clamps, without the code of those, kiln::kernels::Clamps<kiln::kernels::Base>."
    } else {
        ""
    };
    let mut code = format!(
        "// {file} for kiln's Rust API, written by `kiln compile --emit rust`. The including module says which kernels serve:\n\
         //     type B = kiln::kernels::Base;{clamps}\n\
         pub static {constant}_IMAGE: kiln::Aligned<[u8; {len}]> = kiln::Aligned(*include_bytes!({file:?}));\n\
         pub const {constant}_ARENA: usize = {};\n\
         pub static {constant}_OPS: [kiln::ops::Entry; {}] = [\n",
        image.arena_bytes(),
        kinds.len()
    );
    for kind in kinds {
        writeln!(code, "    {},", names::of(image, kind)).expect("a String takes all");
    }
    code + "];\n"
}

fn c_header(name: &str, image: &Image<'_>, len: usize) -> String {
    let upper = name.to_uppercase();
    format!(
        "/* An image for kiln.h, written by `kiln compile --emit c`. */\n\
         #ifndef {upper}_H\n\
         #define {upper}_H\n\n\
         #include \"kiln.h\"\n\n\
         #define {upper}_BYTES {len}u\n\
         #define {upper}_ARENA_BYTES {}u /* at a multiple of {upper}_ALIGNMENT */\n\
         #define {upper}_ALIGNMENT {}u\n\n\
         #ifdef __cplusplus\n\
         extern \"C\" {{\n\
         #endif\n\
         extern const uint64_t {name}_image[]; /* {upper}_BYTES bytes */\n\
         extern const kiln_ops {name}_ops;\n\
         #ifdef __cplusplus\n\
         }}\n\
         #endif\n\n\
         #endif\n",
        image.arena_bytes(),
        image.alignment()
    )
}

/// The bytes as numbers of 64 bits: those are aligned to 8 everywhere (more needs the compiler's own words), and a third
/// shorter to write than bytes. Images and the machines they run on are little-endian.
fn c_source(name: &str, stem: &str, image: &Image<'_>, bytes: &[u8]) -> String {
    let alignment = image.alignment();
    let mut code = format!("#include \"{stem}.h\"\n\nconst kiln_ops {name}_ops = {{{{\n");
    for kind in kinds(image) {
        writeln!(code, "    &kiln_op_{},", kind.name()).expect("a String takes all");
    }
    code += "}};\n\n";
    if alignment > 8 {
        write!(code, "#if defined(__GNUC__)\n__attribute__((aligned({alignment})))\n#else\n_Alignas({alignment})\n#endif\n")
            .expect("a String takes all");
    }
    writeln!(code, "const uint64_t {name}_image[] = {{").expect("a String takes all");
    for line in bytes.chunks(8 * 5) {
        for word in line.chunks(8) {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            write!(code, "0x{:x}u,", u64::from_le_bytes(whole)).expect("a String takes all");
        }
        code.push('\n');
    }
    code + "};\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_such() {
        assert_eq!(identifier("text-lstm.v2"), "text_lstm_v2");
        assert_eq!(identifier("3x3"), "model_3x3");
        assert_eq!(identifier(""), "model_");
    }
}
