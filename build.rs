//! How the program `kiln` is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    // The ONNX front end is full of tables of functions: 69,000 addresses, which the loader writes before `main` where a program may
    // lie anywhere. At a fixed place the linker has written them. Stack, heap and libraries stay where chance puts them.
    // What runs once at the start, or hardly ever, is put together, so that its pages are not in between those of the rest.
    let is_static = target("FEATURE").split(',').any(|feature| feature == "crt-static");
    if target("ARCH") == "x86_64" && target("OS") == "linux" && target("ENV") == "gnu" && !is_static {
        println!("cargo:rustc-link-arg-bin=kiln=-no-pie");
        println!("cargo:rustc-link-arg-bin=kiln=-Wl,-z,keep-text-section-prefix");
        // The other way round, what every start runs is put together too. The list is part of the repository, not of the package;
        // mold takes no linker scripts.
        let order = format!("{}/targets/x86_64-linux/start.ld", std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
        let mold = std::env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("mold"));
        // A comma would cut the path in two.
        if std::path::Path::new(&order).exists() && !mold && !order.contains(',') {
            println!("cargo:rerun-if-changed={order}");
            println!("cargo:rustc-link-arg-bin=kiln=-Wl,-T,{order}");
        }
    }
}
