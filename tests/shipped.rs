//! The shipped models answer as onnxruntime does, on every instruction set, from memory planned close to the least possible.
//! `tests/data` has the references: see models/references.py.

use kiln::kernels::Isa;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MODELS: [&str; 5] = ["text-lstm", "text-cnn", "text-transformer", "digits-cnn", "digits-mlp"];

fn kiln(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).args(arguments).output().unwrap()
}

fn at(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    path.to_str().unwrap().to_string()
}

/// Compares a file of a model with the reference, by the largest error allowed: a share of the largest magnitude.
fn compare(file: &str, name: &str, isa: Isa, share: &str) -> Output {
    let (inputs, expected) = (at(&format!("tests/data/{name}.in.npz")), at(&format!("tests/data/{name}.out.npz")));
    let tolerance = ["--rtol", "0", "--atol", "0", "--mtol", share, "--isa", isa.name()];
    kiln(&[&["compare", file, "--inputs", &inputs, "--expected", &expected], &tolerance[..]].concat())
}

#[test]
fn answers_are_those_of_onnxruntime_from_onnx_and_from_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("model.kiln");
    let image = image.to_str().unwrap();
    for name in MODELS {
        let model = at(&format!("models/{name}/model.onnx"));
        // The reference of text-lstm, whose length is open, has 16 words.
        let size: &[&str] = if name == "text-lstm" { &["--set", "seq=16"] } else { &[] };
        let compiled = kiln(&[&["compile", &model, "-o", image], size].concat());
        assert!(compiled.status.success(), "{name}: {}", String::from_utf8_lossy(&compiled.stderr));
        for isa in Isa::ALL {
            if !isa.available() {
                eprintln!("skipped: no {}", isa.name());
                continue;
            }
            for file in [&model, image] {
                let done = compare(file, name, isa, "1e-4");
                assert_eq!(
                    done.status.code(),
                    Some(0),
                    "{name} on {}: {}{}",
                    isa.name(),
                    String::from_utf8_lossy(&done.stdout),
                    String::from_utf8_lossy(&done.stderr)
                );
            }
        }
        // A tolerance that f32 can't keep: the comparison does compare.
        assert_eq!(compare(image, name, Isa::Portable16, "1e-12").status.code(), Some(1), "{name}");
    }
}

#[test]
fn arenas_are_near_the_least_and_runs_allocate_nothing() {
    for name in MODELS {
        let model = at(&format!("models/{name}/model.onnx"));
        let inputs = at(&format!("tests/data/{name}.in.npz"));
        let number = |report: &serde_json::Value, key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{name}: no {key}"));
        let done = kiln(&["inspect", &model, "--inputs", &inputs, "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(report["extern_nodes"].as_array().map(Vec::len), Some(0), "{name}");
        let (arena, live) = (number(&report, "arena_bytes"), number(&report, "live_bytes"));
        assert!(live > 0.0 && arena <= 1.15 * live, "{name}: arena {arena}, live {live}");
        for (threads, lean) in [("1", None), ("3", None), ("1", Some("--lean"))] {
            let call = ["bench", &model, "--inputs", &inputs, "--seconds", "0.05", "--json", "--threads", threads];
            let done = kiln(&call.into_iter().chain(lean).collect::<Vec<_>>());
            let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
            assert!(number(&report, "runs") > 0.0);
            assert_eq!(report["threads"].to_string(), threads, "{name}");
            assert_eq!(number(&report, "allocations"), 0.0, "{name} on {threads} threads");
        }
    }
}
