//! From an ONNX file to a [`Graph`]: the only module that knows protobuf and tract.
//!
//! 1. The file is mapped and its protobuf walked by hand; weights are left out and noted (`skeleton`;
//!    `deciding` says which inputs had better be constants).
//! 2. What remains is decoded, local functions are written out (`functions`), it is checked and mended (`mend`), its inputs
//!    get their sizes (`inputs`), what is computed twice is joined where sizes depend on data (`twice`), bfloat16 is widened
//!    (`bfloat`); then sequences, branches of a known course and loops of a bounded one are written out (`sequences`, `control`,
//!    `loops`; `known` says what is known).
//! 3. tract parses it, finds types and shapes (`typed`; plain constants are computed by `early`), folds constants and declutters (`rewrite`); operators that Kiln lowers on its own, and
//!    the weights, stay whole (`whole`, `rules`, `windows`); those that can be told by other ops are written out (`expand`, on
//!    a `sketch`); some that tract reads wrongly are mended (`builders`). Every call is guarded against panics (`guard`).
//!    A size that data decide is a symbol with a bound there (`lengths`, `either`).
//! 4. Each node of tract's model becomes a node of the graph (`convert`, `native`, `onnx`). What has no native form becomes
//!    an extern node, and every node leaves a recipe by which the host can evaluate it alone, by tract (`externs`;
//!    quantisation by itself: `quantise`). Where a size depends on data, it must not matter what is computed beyond it: `ragged`
//!    says for which ops and how, `open` writes what that takes.

use crate::ModelError;
use crate::graph::Graph;
use crate::tensor::DType;
use hash::HashSet;
use memmap2::Mmap;
use skeleton::Weight;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tract_onnx::pb::ModelProto;

mod attributes;
mod bfloat;
mod builders;
mod control;
mod convert;
mod deciding;
mod early;
#[cfg(test)]
mod early_tests;
mod either;
mod expand;
mod externs;
mod functions;
mod guard;
mod hash;
mod inputs;
mod known;
mod lengths;
mod loops;
#[cfg(test)]
mod loops_tests;
mod mend;
mod native;
mod onnx;
mod open;
mod quantise;
mod ragged;
#[cfg(test)]
mod ragged_tests;
mod rewrite;
mod rules;
mod sequences;
mod skeleton;
mod sketch;
#[cfg(test)]
mod tests;
mod twice;
mod typed;
mod types;
mod whole;
mod windows;
mod wire;

pub use externs::Externs;
pub use skeleton::{Declared, Dim, Signature};

/// What the caller decides about a model's inputs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What symbols stand for.
    pub symbols: BTreeMap<String, i64>,
    /// Shapes of inputs, by name; symbols in the declared shapes get their value from them.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Values of inputs, by name: type, shape, bytes (little-endian, row-major). Such an input is a constant of the graph
    /// and no input of it any more.
    pub values: BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>,
    /// If this fails, another import with more values follows: what takes long and hardly helps is left out.
    pub first_try: bool,
}

/// An imported model.
#[derive(Debug)]
pub struct Imported {
    /// The network.
    pub graph: Graph,
    /// Recipes of its nodes.
    pub externs: Externs,
}

/// What a file declares about itself: a walk over its protobuf, without its weights.
///
/// # Errors
/// [`ModelError::File`] or [`ModelError::Format`].
pub fn signature(path: &Path) -> Result<Signature, ModelError> {
    signature_of(path, &crate::mapped::map(path)?)
}

/// As [`signature`], of a file that is mapped.
///
/// # Errors
/// [`ModelError::Format`].
pub(crate) fn signature_of(path: &Path, file: &[u8]) -> Result<Signature, ModelError> {
    skeleton::signature(file).map_err(|what| not_onnx(path, what))
}

fn not_onnx(path: &Path, what: &str) -> ModelError {
    let what = format!("this is not an ONNX model, or it is damaged: {what}");
    ModelError::Format { path: path.to_path_buf(), what }
}

/// Imports a model.
///
/// # Errors
/// [`ModelError::File`] or [`ModelError::Format`] for the file, [`ModelError::Call`] when `options` don't fit the model or
/// leave a size open, [`ModelError::Node`] for what can't be imported.
pub fn import(path: &Path, options: &Options) -> Result<Imported, ModelError> {
    import_of(path, &crate::mapped::map(path)?, options)
}

/// As [`import`], of a file that is mapped.
///
/// # Errors
/// As [`import`].
pub(crate) fn import_of(path: &Path, file: &Arc<Mmap>, options: &Options) -> Result<Imported, ModelError> {
    let skeleton = skeleton::read(path, file)?;
    let mut imported = build(path, skeleton.model, &skeleton.weights, options)?;
    imported.graph.metadata = skeleton.metadata;
    Ok(imported)
}

/// Imports a decoded model, out of which the weights were taken.
fn build(path: &Path, mut model: ModelProto, weights: &[Weight], options: &Options) -> Result<Imported, ModelError> {
    let names: HashSet<&str> = weights.iter().map(|w| &*w.name).collect();
    mend::mend(path, &mut model, &names)?;
    let Some(graph) = model.graph.as_mut() else { return Err(not_onnx(path, "it has no graph")) };
    graph.input.retain(|i| !names.contains(&*i.name));
    inputs::settle(graph, options)?;
    let opset = model.opset_import.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx").map_or(1, |o| o.version);
    if graph.node.iter().any(|n| expand::counts(&n.op_type)) {
        twice::join(graph);
    }
    let borders = bfloat::widen(graph);
    sequences::write_out(graph);
    let held = weights.iter().enumerate();
    let held = held.map(|(i, w)| whole::held_node(i, &w.name, bfloat::seen(w.dtype), &w.dims)).collect::<Vec<_>>();
    graph.node.splice(0..0, held);
    control::write_out(graph, opset)?;
    mend::operators(graph)?;
    let op_types = mend::op_types(graph);
    let outputs = mend::outputs(graph);
    let inputs: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    let typed = rewrite::decluttered(&model, options.first_try).map_err(|trouble| {
        let node = trouble.node.unwrap_or_default();
        // tract's names for parts of a node start with the node's.
        let op = op_types.get(&node).or_else(|| op_types.get(node.rsplit_once('.')?.0));
        let op = op.cloned().unwrap_or_else(|| "?".into());
        if op == whole::CHOICE {
            let of = loops::of_choice(&node).map_or((&*node, "If"), |of| (of, "Loop"));
            return ModelError::node(of.0, of.1, trouble.what);
        }
        let node = if node.is_empty() { "?".into() } else { node };
        ModelError::node(node, op, format!("tract, which reads the model, can't: {}", trouble.what))
    })?;
    let source =
        convert::Source { model: &typed, weights, inputs: &inputs, outputs: &outputs, borders: &borders, op_types: &op_types };
    let (graph, externs) = convert::convert(&source)?;
    Ok(Imported { graph, externs })
}
