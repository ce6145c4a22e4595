//! `kiln-header ROOT > include/kiln.h`: the C header, made of `src/capi` and `include/cbindgen.toml`.

use std::path::PathBuf;

fn main() {
    let root = PathBuf::from(std::env::args().nth(1).expect("usage: kiln-header ROOT"));
    let config = cbindgen::Config::from_file(root.join("include/cbindgen.toml")).expect("include/cbindgen.toml is sound");
    let mut header = cbindgen::Builder::new().with_config(config);
    for file in ["status", "image", "ops", "session"] {
        header = header.with_src(root.join("src/capi").join(file).with_extension("rs"));
    }
    header.generate().expect("src/capi is sound").write(std::io::stdout());
}
