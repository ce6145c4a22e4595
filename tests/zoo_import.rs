//! Imports every model of a folder (`KILN_ZOO`, several separated by `:`), evaluates it node by node by its recipes, and
//! compares the answers with `NAME.out.npz`. Without the variable: "skipped". `KILN_ZOO_ONLY` picks models by part of a name.

use kiln::graph::{Bytes, Graph, Op};
use kiln::import::{Declared, Externs, Options, import};
use kiln::tensor::DType;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

struct Array {
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

/// The arrays of an `.npz` file.
fn npz(path: &Path) -> BTreeMap<String, Array> {
    use std::io::Read;
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut arrays = BTreeMap::new();
    for i in 0..zip.len() {
        let mut file = zip.by_index(i).unwrap();
        let name = file.name().trim_end_matches(".npy").replace("%2F", "/").replace("%3A", ":").replace("%2f", "/");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        // numpy's header: {'descr': …, 'fortran_order': …, 'shape': (…), }
        let start = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        let header = std::str::from_utf8(&bytes[10..start]).unwrap();
        let shape = header.split_once('(').unwrap().1.split_once(')').unwrap().0;
        let dims: Vec<usize> = shape.split(',').filter_map(|d| d.trim().parse().ok()).collect();
        let fortran = header.contains("'fortran_order': True");
        let mut bytes = bytes[start..].to_vec();
        if fortran {
            bytes = row_major(&bytes, &dims);
        }
        arrays.insert(name, Array { dims, bytes });
    }
    arrays
}

/// The bytes of a column-major array, row-major.
fn row_major(bytes: &[u8], dims: &[usize]) -> Vec<u8> {
    let elements: usize = dims.iter().product();
    let size = bytes.len() / elements.max(1);
    let element = |mut i: usize| {
        let (mut from, mut index) = (0, vec![0; dims.len()]);
        for axis in (0..dims.len()).rev() {
            index[axis] = i % dims[axis];
            i /= dims[axis];
        }
        for axis in (0..dims.len()).rev() {
            from = from * dims[axis] + index[axis];
        }
        &bytes[from * size..(from + 1) * size]
    };
    (0..elements).flat_map(element).copied().collect()
}

/// Evaluates a graph by the recipes of its nodes.
fn evaluate(graph: &Graph, externs: &Externs, inputs: &BTreeMap<String, Array>) -> Result<Vec<Vec<u8>>, String> {
    let mut values: HashMap<usize, Vec<u8>> = HashMap::new();
    for &input in &graph.inputs {
        let value = &graph.values[input.0];
        values.insert(input.0, inputs.get(&value.name).ok_or(format!("no input {}", value.name))?.bytes.clone());
    }
    for node in &graph.nodes {
        let ids: Vec<usize> = node.inputs.iter().flatten().map(|v| v.0).collect();
        let outputs = if let Some(recipe) = node.recipe {
            let live: Vec<&[u8]> = ids.iter().filter(|&&i| graph.values[i].constant.is_none()).map(|i| &*values[i]).collect();
            externs.evaluate(recipe, &live).map_err(|e| e.to_string())?
        } else if matches!(node.op, Op::Reshape) {
            let constant = graph.values[ids[0]].constant.as_ref().map(Bytes::as_slice);
            vec![constant.unwrap_or_else(|| &values[&ids[0]]).to_vec()]
        } else if matches!(node.op, Op::Softmax { axis: 1, log: false }) {
            let columns = graph.values[ids[0]].dims[1];
            let x: Vec<f32> = values[&ids[0]].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let row = |row: &[f32]| {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = row.iter().map(|v| (v - largest).exp()).sum();
                row.iter().map(|v| (v - largest).exp() / sum).flat_map(f32::to_le_bytes).collect::<Vec<u8>>()
            };
            vec![x.chunks(columns).flat_map(row).collect()]
        } else {
            return Err(format!("node {} has no recipe", node.name));
        };
        for (id, bytes) in node.outputs.iter().flatten().zip(outputs) {
            let value = &graph.values[id.0];
            assert_eq!(bytes.len(), value.dims.iter().product::<usize>() * value.dtype.size(), "{}", node.name);
            values.insert(id.0, bytes);
        }
    }
    Ok(graph.outputs.iter().map(|o| values[&o.0].clone()).collect())
}

/// Inputs that decide shapes, and other small integer ones, are given as constants.
fn give_small_integers(inputs: &BTreeMap<String, Array>, declared: &[Declared], options: &mut Options) -> bool {
    for input in declared.iter().filter(|i| i.decides || matches!(i.dtype, Some(DType::I64 | DType::I32))) {
        if let Some(array) = inputs.get(&input.name).filter(|a| a.bytes.len() <= 512) {
            let value = (input.dtype.unwrap(), array.dims.clone(), array.bytes.clone());
            options.values.insert(input.name.clone(), value);
        }
    }
    !options.values.is_empty()
}

fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        DType::I64 => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        DType::F64 => bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        DType::I32 => bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        DType::I8 => bytes.iter().map(|&b| b as i8 as f64).collect(),
        _ => bytes.iter().map(|&b| b as f64).collect(),
    }
}

/// Peak resident memory of this process, in MB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) / 1024
}

#[test]
fn every_model_imports() {
    let Ok(folders) = std::env::var("KILN_ZOO") else {
        println!("skipped: KILN_ZOO does not name a folder of models");
        return;
    };
    let only = std::env::var("KILN_ZOO_ONLY").unwrap_or_default();
    let mut wrong = Vec::new();
    for folder in folders.split(':') {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "onnx") && p.to_string_lossy().contains(&only));
        files.sort();
        for path in files {
            let stem = path.with_extension("");
            let side = |kind: &str| std::path::PathBuf::from(format!("{}.{kind}.npz", stem.display()));
            let name = stem.file_name().unwrap().to_string_lossy().into_owned();
            let inputs = if side("in").exists() { npz(&side("in")) } else { BTreeMap::new() };
            let mut options = Options::default();
            let declared = kiln::import::signature(&path).map(|s| s.inputs).unwrap_or_default();
            for (name, array) in &inputs {
                if declared.iter().any(|i| i.name == *name) {
                    options.shapes.insert(name.clone(), array.dims.clone());
                }
            }
            let start = std::time::Instant::now();
            let mut result = import(&path, &options);
            if result.is_err() && give_small_integers(&inputs, &declared, &mut options) {
                result = import(&path, &options);
            }
            let time = start.elapsed();
            let imported = match result {
                Ok(imported) => imported,
                Err(e) => {
                    println!("{name}: refused: {e}");
                    if side("out").exists() {
                        wrong.push(name);
                    }
                    continue;
                }
            };
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for node in &imported.graph.nodes {
                let text = format!("{:?}", node.op);
                let op = text.split(['{', '(', ' ']).next().unwrap_or_default();
                let key = if op == "Extern" { format!("Extern<{}>", node.op_type) } else { op.into() };
                *counts.entry(key).or_default() += 1;
            }
            let weights: usize =
                imported.graph.values.iter().filter_map(|v| v.constant.as_ref()).map(|b| b.as_slice().len()).sum();
            println!(
                "{name}: {} nodes, {:.1} MB of constants, {} ms, peak {} MB; {counts:?}",
                imported.graph.nodes.len(),
                weights as f64 / 1e6,
                time.as_millis(),
                peak()
            );
            if std::env::var("KILN_ZOO_DUMP").is_ok() {
                let ids = |ids: &[Option<kiln::graph::ValueId>]| {
                    let one = |v: &Option<kiln::graph::ValueId>| match v {
                        Some(v) => {
                            let v = &imported.graph.values[v.0];
                            format!("{}{}{:?}", if v.constant.is_some() { "#" } else { "" }, v.name, v.dims)
                        }
                        None => "-".into(),
                    };
                    ids.iter().map(one).collect::<Vec<_>>().join(", ")
                };
                for node in &imported.graph.nodes {
                    println!("  {} = {:?}({})", ids(&node.outputs), node.op, ids(&node.inputs));
                }
            }
            if !side("out").exists() || std::env::var("KILN_ZOO_RUN").is_err() {
                continue;
            }
            let expected = npz(&side("out"));
            match evaluate(&imported.graph, &imported.externs, &inputs) {
                // An operator that was written out has no recipe: such models are checked as a whole, by tests/zoo.
                Err(e) => println!("  not evaluated: {e}"),
                Ok(outputs) => {
                    for (id, bytes) in imported.graph.outputs.iter().zip(outputs) {
                        let value = &imported.graph.values[id.0];
                        let Some(want) = expected.get(&value.name) else {
                            println!("  no reference for {}", value.name);
                            continue;
                        };
                        let (got, want_numbers) = (numbers(value.dtype, &bytes), numbers(value.dtype, &want.bytes));
                        let largest = want_numbers.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
                        let off = got.iter().zip(&want_numbers).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
                        let off = off.fold(0f64, f64::max);
                        let right = off <= 1e-3 * largest + 1e-6 && value.dims == want.dims;
                        if !right {
                            println!("  WRONG {}: off by {off:e} of {largest:e}, {:?} {:?}", value.name, value.dims, want.dims);
                            wrong.push(format!("{name}/{}", value.name));
                        }
                    }
                }
            }
        }
    }
    println!("wrong or refused: {wrong:?}");
    assert!(wrong.iter().all(|w| w.starts_with("longformer") || folders.contains("bugs")), "{wrong:?}");
}
