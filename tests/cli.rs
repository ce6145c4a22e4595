//! The command line as a user meets it: help, errors, exit codes.

use std::path::Path;
use std::process::{Command, Output};

fn kiln(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).args(arguments).env_remove("KILN_LOG").env_remove("RUST_LOG").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A bad call: exit code 2, nothing on standard output, and an error that holds these words.
fn refused(arguments: &[&str], words: &[&str]) {
    let output = kiln(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.starts_with("error: "), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    for word in words {
        assert!(error.contains(word), "{arguments:?}: \"{word}\" is not in: {error}");
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn help_has_examples() {
    for command in ["run", "inspect", "compile", "compare", "bench", "profile"] {
        let output = kiln(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        assert!(help.contains("Examples:") && help.contains(&format!("kiln {command} ")), "{help}");
    }
    assert_eq!(kiln(&["--version"]).status.code(), Some(0));
}

#[test]
fn bad_calls_are_errors() {
    refused(&["frobnicate"], &["frobnicate"]);
    refused(&["run", "m.onnx", "--isa", "mmx"], &["scalar portable16"]);
    refused(&["run", "m.onnx", "--set", "seq"], &["NAME=VALUE"]);
    refused(&["run", "m.onnx", "--set", "seq=many"], &["many"]);
    refused(&["run", "m.onnx", "--each", "a.txt"], &["--json"]);
    refused(&["compare", "m.onnx", "--inputs", "a.npz"], &["--expected"]);
    refused(&["compare", "m.onnx", "--inputs", "a.npz", "--expected", "b.npz", "--rtol", "-1"], &["--rtol"]);
    refused(&["bench", "m.onnx", "--threads", "0"], &["--threads"]);
    refused(&["bench", "m.onnx", "--seconds", "nan"], &["--seconds"]);
}

#[test]
fn bad_files_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let rubbish = write(dir.path(), "rubbish.kiln", b"neither an image nor a model");
    let empty = write(dir.path(), "empty.onnx", b"");
    let image = write(dir.path(), "image.kiln", b"\x89KILN\r\n\n\x01\x00\x00\x00");
    let npz = write(dir.path(), "bad.npz", b"PK\x03\x04rubbish");
    for model in [&rubbish, &empty, &image] {
        for command in ["run", "inspect", "bench"] {
            refused(&[command, model], &[model]);
        }
    }
    refused(&["run", "nowhere.onnx"], &["nowhere.onnx"]);
    refused(&["compare", &rubbish, "--inputs", &npz, "--expected", &npz], &[&npz]);
    refused(&["bench", &rubbish, "--inputs", "nowhere.npz"], &["nowhere.npz"]);
}

#[test]
fn an_open_size_is_given_or_named() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/text-lstm/model.onnx");
    let bench = |more: &[&str]| kiln(&[&["bench", model, "--seconds", "0.01", "--json"], more].concat());
    let arena = |output: &Output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["arena_bytes"].as_u64().unwrap()
    };
    let (open, given) = (bench(&[]), bench(&["--set", "seq=16"]));
    assert!(arena(&given) > arena(&open));
    assert!(text(&open.stderr).contains("\"ids\" is int64 1x?"), "{}", text(&open.stderr));
    assert!(given.stderr.is_empty(), "{}", text(&given.stderr));
    refused(&["run", model, "three words only", "--set", "seq=16"], &["1x16", "3 elements"]);
}

#[test]
fn what_a_model_reads_is_said() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits-cnn/model.onnx");
    refused(&["run", model, "a text"], &["a text", "picture (PNG, JPEG, BMP, PNM)"]);
    refused(&["run", model], &["--inputs", "\"image\""]);
}

#[test]
fn a_profile_accounts_for_every_op_in_json_trace_and_page() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits-cnn/model.onnx");
    let dir = tempfile::tempdir().unwrap();
    let (trace, page) = (write(dir.path(), "trace.json", b""), write(dir.path(), "page.html", b""));
    let output = kiln(&["profile", model, "--seconds", "0.05", "--json", "--trace", &trace, "--html", &page]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |key: &str| report[key].as_array().unwrap().clone();
    let (ops, tensors) = (list("ops"), list("tensors"));
    let inspected: serde_json::Value = serde_json::from_slice(&kiln(&["inspect", model, "--json"]).stdout).unwrap();
    assert_eq!(ops.len(), inspected["ops"].as_array().unwrap().len());
    let shares: f64 = ops.iter().map(|op| op["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9 && report["peak_gflops"].as_f64().unwrap() > 0.0, "{report}");

    // Tensors that are held at one time share no byte, but where one is a part of the other or takes its place.
    let span = |t: &serde_json::Value, keys: [&str; 2]| keys.map(|key| t[key].as_u64().unwrap());
    for (i, a) in tensors.iter().enumerate() {
        let ([at, bytes], [first, last]) = (span(a, ["offset", "bytes"]), span(a, ["first_op", "last_op"]));
        assert!(at + bytes <= report["arena_bytes"].as_u64().unwrap() && last < ops.len() as u64, "{a}");
        for b in &tensors[..i] {
            let ([at_b, bytes_b], [first_b, last_b]) = (span(b, ["offset", "bytes"]), span(b, ["first_op", "last_op"]));
            let together = first < last_b && first_b < last;
            let apart = at + bytes <= at_b || at_b + bytes_b <= at;
            let inside = at == at_b || (at > at_b && at + bytes <= at_b + bytes_b) || (at < at_b && at_b + bytes_b <= at + bytes);
            assert!(!together || apart || inside, "{a} and {b}");
        }
    }

    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let spans: Vec<_> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").collect();
    assert!(spans.len() > ops.len() && spans.len().is_multiple_of(ops.len() + 1), "{} spans", spans.len());
    let page = std::fs::read_to_string(page).unwrap();
    let data = page.lines().find_map(|line| line.strip_prefix("const profile = ")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(data.trim_end_matches(';')).unwrap(), report);
    refused(&["profile", model, "--seconds", "0.05", "--html", "no/such/folder/page.html"], &["no/such/folder/page.html"]);
}

#[test]
fn a_range_of_sizes_is_one_image() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/text-lstm/model.onnx");
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), "texts.kiln", b"");
    let output = kiln(&["compile", model, "--set", "seq=1..5", "-o", &image, "--certify", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = report["programs"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["seq=5", "seq=4", "seq=3", "seq=2", "seq=1"]);
    assert_eq!(report["program_count"], 5);
    for (words, given) in [(3, "a gripping story"), (1, "gripping"), (5, "a gripping and moving story")] {
        let run = |of: &str| {
            let output = kiln(&["run", of, given, "--json"]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["scores"].clone()
        };
        assert_eq!(run(&image), run(model), "{words} words");
    }
    refused(&["run", &image, "one two three four five six"], &["no program", "[1, 6]", "\"seq=5\" to \"seq=1\""]);
    refused(&["run", model, "--set", "seq=1..2", "a gripping story"], &["axis 1 of the input \"ids\" is 3", "stands for 1..2"]);
    let lines = write(dir.path(), "lines.txt", b"a gripping story\ngripping\na story\n");
    let each = |of: &str| text(&kiln(&["run", of, "--each", &lines, "--json"]).stdout);
    assert_eq!(each(&image), each(model));
    assert_eq!(each(&image).lines().count(), 3);
}

#[test]
fn a_certificate_says_what_the_image_is_and_does() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits-cnn/model.onnx");
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), "digits.kiln", b"");
    let output = kiln(&["compile", model, "-o", &image, "--certify", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let certificate: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(certificate["image_bytes"].as_u64(), Some(std::fs::metadata(&image).unwrap().len()));
    let inspected: serde_json::Value = serde_json::from_slice(&kiln(&["inspect", &image, "--json"]).stdout).unwrap();
    let program = &certificate["programs"][0];
    for key in ["arena_bytes", "state_bytes", "scratch_bytes", "live_bytes", "macs"] {
        assert!(program[key] == inspected[key] && certificate[key] == inspected[key], "{key}: {certificate}");
    }
    let ops = program["ops"].as_array().unwrap();
    let sum: u64 = ops.iter().map(|op| op["macs"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), program["macs"].as_u64());
    assert!(
        ops.iter().any(|op| op["kind"] == "conv" && op["name"] == "conv_1+relu_1.low" && op["float"] == true),
        "{certificate}"
    );
    let most = ops.iter().map(|op| op["unit_work"].as_u64().unwrap()).max();
    assert!(most == program["unit_work"].as_u64() && most.unwrap() < sum / 50, "{certificate}");
    let shown = text(&kiln(&["compile", model, "-o", &image, "--certify"]).stdout);
    for word in ["flash ", "arena ", "work ", "slices ", "conv_1+relu_1.low", &program["arena_bytes"].to_string()] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

#[test]
fn what_is_over_budget_is_refused_and_not_written() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits-cnn/model.onnx");
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("digits.kiln");
    let to = image.to_str().unwrap();
    fn with<'a>(call: [&'a str; 4], more: &[&'a str]) -> Vec<&'a str> {
        [&call[..], more].concat()
    }
    let call = ["compile", model, "-o", to];
    let inspected: serde_json::Value = serde_json::from_slice(&kiln(&["inspect", model, "--json"]).stdout).unwrap();
    let [arena, bytes, macs] = ["arena_bytes", "image_bytes", "macs"].map(|key| inspected[key].as_u64().unwrap());
    refused(
        &with(call, &["--max-arena", "40K"]),
        &["--max-arena 40K", &format!("{arena} bytes"), "40960", "op 1 (conv", "stream"],
    );
    let less = (bytes - 1).to_string();
    refused(&with(call, &["--max-flash", &less]), &["--max-flash", &less, &format!("{bytes} bytes"), "weights"]);
    refused(&with(call, &["--max-macs", "4M", "--max-arena", "1"]), &["--max-macs 4M", &macs.to_string(), "--max-arena 1"]);
    for wrong in ["40KB", "1.5K", "-1", "lots", "99999999999999999999"] {
        refused(&with(call, &[&format!("--max-arena={wrong}")]), &["--max-arena", wrong]);
    }
    assert!(!image.exists());
    refused(&with(call, &["--max-slice", "1"]), &["--max-slice 1", "slice", "op "]);
    refused(&with(call, &["--max-stack", "64"]), &["--max-stack 64", "bytes of stack", "Cortex-M4F", "(conv", "op "]);
    let [arena, bytes, macs] = [arena, bytes, macs].map(|n| n.to_string());
    let output = kiln(&with(call, &["--max-arena", &arena, "--max-flash", &bytes, "--max-macs", &macs, "--emit", "c"]));
    assert!(output.status.success() && image.exists(), "{}", text(&output.stderr));
    // An image that is there is left as it is, and its source too.
    let before = std::fs::read(&image).unwrap();
    refused(&with(call, &["--max-flash", "1K", "--emit", "rust"]), &["--max-flash 1K"]);
    assert_eq!(std::fs::read(&image).unwrap(), before);
    assert!(!dir.path().join("digits.rs").exists());
}

/// A kind's small entry is named where it runs all ops that the image has, else the general one.
#[test]
fn emitted_rust_names_the_smallest_entries() {
    let dir = tempfile::tempdir().unwrap();
    let emitted = |model: &str| {
        let (path, image) = (format!("{}/models/{model}/model.onnx", env!("CARGO_MANIFEST_DIR")), dir.path().join("m.kiln"));
        let output = kiln(&["compile", &path, "-o", image.to_str().unwrap(), "--emit", "rust"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        std::fs::read_to_string(image.with_extension("rs")).unwrap()
    };
    let pictures = emitted("digits-cnn");
    for part in ["gemm::row_entry::<B>()", "conv::ungrouped::<B>()", "pool::entry::<B>()", "kernels::Clamps<"] {
        assert!(pictures.contains(part), "{part}: {pictures}");
    }
    assert!(!pictures.contains("gemm::entry") && !pictures.contains("conv::entry"), "{pictures}");
    let words = emitted("text-transformer");
    for part in ["gemm::entry::<B>()", "attention::entry::<B>()"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!words.contains("gemm::row_entry"), "{words}");
}

#[test]
fn a_core_without_an_fpu_is_warned_of_float() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits-cnn/model.onnx");
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), "digits.kiln", b"");
    for (cpu, warned) in
        [("cortex-m0plus", true), ("cortex-m3", true), ("cortex-m4", true), ("cortex-m4f", false), ("cortex-m55", false)]
    {
        let output = kiln(&["compile", model, "-o", &image, "--json", "--target-cpu", cpu]);
        assert!(output.status.success(), "{cpu}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr).starts_with(&format!("warning: {cpu} ")), warned, "{cpu}: {}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["warnings"].as_array().unwrap().len(), warned as usize);
    }
    refused(&["compile", model, "-o", &image, "--target-cpu", "z80"], &["z80", "cortex-m4f"]);
}

/// An image whose outputs are shorter than their bounds (`tests/common` says how they come about), from every side.
#[test]
fn lengths_that_a_run_decides_are_shown_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/lengths.kiln");
    let inspected = text(&kiln(&["inspect", image]).stdout);
    for line in ["output  a  float32 <=5x2\n", "output  b  float32 <=3x<=4\n", "output  sum  float32 1\n"] {
        assert!(inspected.contains(line), "{inspected}");
    }
    let inspected: serde_json::Value = serde_json::from_slice(&kiln(&["inspect", image, "--json"]).stdout).unwrap();
    assert_eq!(inspected["outputs"][1]["bounded_axes"], serde_json::json!([0, 1]));
    assert_eq!(inspected["outputs"][3]["bounded_axes"], serde_json::Value::Null);

    let array = |dtype: &str, shape: &str, bytes: &[u8]| {
        let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
        header.extend(std::iter::repeat_n(' ', 117 - header.len()));
        [&b"\x93NUMPY\x01\x00\x76\x00"[..], header.as_bytes(), b"\n", bytes].concat()
    };
    let floats = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let x = write(dir.path(), "x.npy", &array("<f4", "8,", &floats(&[0., 1., 9., 3., 4., 5., 6., 7.])));
    let n = write(dir.path(), "n.npy", &array("<i8", "1,", &1i64.to_le_bytes()));
    let (x, n) = (format!("x={x}"), format!("n={n}"));
    let npz = dir.path().join("out.npz").to_str().unwrap().to_string();
    let ran = kiln(&["run", image, "--input", &x, "--input", &n, "--output", &npz]);
    let said = text(&ran.stdout);
    for line in ["a (float32 2x2): 0 1 1 9\n", "b (float32 1x2): 0 1\n", "d (float32 3): 0 9 4\n"] {
        assert!(said.contains(line), "{said}{}", text(&ran.stderr));
    }
    let ran = kiln(&["run", image, "--input", &x, "--input", &n, "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(said["outputs"][0]["shape"], serde_json::json!([2, 2]));
    assert_eq!(said["outputs"][0]["data"], serde_json::json!([0.0, 1.0, 1.0, 9.0]));

    // What was written agrees; what another run gave has another shape.
    let inputs = |name: &str, n: i64| {
        let path = dir.path().join(name);
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        let parts = [
            ("x.npy", array("<f4", "8,", &floats(&[0., 1., 9., 3., 4., 5., 6., 7.]))),
            ("n.npy", array("<i8", "1,", &n.to_le_bytes())),
        ];
        for (name, bytes) in parts {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            std::io::Write::write_all(&mut zip, &bytes).unwrap();
        }
        zip.finish().unwrap();
        path.to_str().unwrap().to_string()
    };
    let compared = kiln(&["compare", image, "--inputs", &inputs("one.npz", 1), "--expected", &npz]);
    assert_eq!(compared.status.code(), Some(0), "{}{}", text(&compared.stdout), text(&compared.stderr));
    let compared = kiln(&["compare", image, "--inputs", &inputs("two.npz", 2), "--expected", &npz]);
    assert_eq!(compared.status.code(), Some(1), "{}", text(&compared.stderr));
    let said = text(&compared.stdout);
    assert!(said.contains("DIFFERS  b: it is float32 2x2, expected is float32 1x2"), "{said}");

    // Golden values: of this run, and of a file that says otherwise.
    let golden = dir.path().join("golden.kiln");
    let golden = golden.to_str().unwrap();
    let compiled = kiln(&["compile", image, "--golden", &inputs("one.npz", 1), "-o", golden]);
    assert_eq!(compiled.status.code(), Some(0), "{}", text(&compiled.stderr));
}

/// Inputs that become constants: an image without them gives the same answer, and misuse is an error.
#[test]
fn inputs_become_constants() {
    let dir = tempfile::tempdir().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let model = format!("{root}/models/digits-cnn/model.onnx");
    let (inputs, others) = (format!("{root}/tests/data/digits-cnn.in.npz"), format!("{root}/tests/data/text-lstm.in.npz"));
    let image = write(dir.path(), "digits.kiln", b"");
    let output = kiln(&["compile", &model, "-o", &image, "--constants", &inputs]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let inspected: serde_json::Value = serde_json::from_slice(&kiln(&["inspect", &image, "--json"]).stdout).unwrap();
    assert_eq!(inspected["inputs"], serde_json::json!([]));
    let answer = |arguments: &[&str]| text(&kiln(arguments).stdout).lines().next().unwrap_or_default().to_string();
    let fed = answer(&["run", &model, "--inputs", &inputs]);
    assert!(fed.starts_with("logits (float32 1x10): "), "{fed}");
    assert_eq!(answer(&["run", &image]), fed);
    assert_eq!(answer(&["run", &model, "--constants", &inputs]), fed);
    refused(&["run", &model, "--constants", &inputs, "--inputs", &inputs], &["\"image\" is no input"]);
    refused(&["run", &model, "--constants", &others], &["no input \"ids\"", "[\"image\"]"]);
    refused(&["run", &image, "--constants", &inputs], &["\"image\" of an image", "compile"]);
}

/// The weights of an image are looked at where that is asked for.
#[test]
fn damaged_weights_are_found_by_verifying() {
    let dir = tempfile::tempdir().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let model = format!("{root}/models/digits-cnn/model.onnx");
    let inputs = format!("{root}/tests/data/digits-cnn.in.npz");
    let image = write(dir.path(), "digits.kiln", b"");
    assert!(kiln(&["compile", &model, "-o", &image]).status.success());
    assert!(kiln(&["run", &image, "--inputs", &inputs, "--verify"]).status.success());
    let mut bytes = std::fs::read(&image).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 0x40;
    std::fs::write(&image, bytes).unwrap();
    refused(&["run", &image, "--inputs", &inputs, "--verify"], &["digits.kiln", "weights are damaged"]);
    refused(&["inspect", &image], &["digits.kiln", "weights are damaged"]);
    assert!(kiln(&["run", &image, "--inputs", &inputs]).status.success());
}
