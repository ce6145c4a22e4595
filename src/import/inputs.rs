//! The inputs of a model get their sizes, or their values.

use super::{Options, skeleton};
use crate::ModelError;
use std::collections::BTreeMap;
use tract_onnx::dim_expr::parse_onnx_dim;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{GraphProto, TensorProto, ValueInfoProto, type_proto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

fn declared(input: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    match input.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
    }
}

/// Writes sizes into the declared inputs of a graph: as `options` gives them, else as the file does. An input with a value
/// becomes an initializer.
///
/// # Errors
/// [`ModelError::Call`] when an option does not fit the model, or a size is left open.
pub(super) fn settle(graph: &mut GraphProto, options: &Options) -> Result<(), ModelError> {
    let bad = |what: String| Err(ModelError::Call(what));
    let initializers: Vec<String> = graph.initializer.iter().map(|i| i.name.clone()).collect();
    graph.input.retain(|i| !initializers.contains(&i.name));
    for name in options.shapes.keys().chain(options.values.keys()) {
        if !graph.input.iter().any(|i| i.name == *name) {
            let names: Vec<&str> = graph.input.iter().map(|i| &*i.name).collect();
            return bad(format!("the model has no input \"{name}\"; its inputs are {names:?}"));
        }
    }
    let symbols = symbols(graph, options)?;
    let mut inputs = Vec::new();
    for input in graph.input.drain(..) {
        let Some(tensor) = declared(&input) else {
            return bad(format!("the input \"{}\" is not a tensor, which is not supported", input.name));
        };
        let Some(dtype) = skeleton::dtype(tensor.elem_type as i64) else {
            return bad(format!(
                "the input \"{}\" has an element type that is not supported (number {} in ONNX)",
                input.name, tensor.elem_type
            ));
        };
        let dims = sizes(&input, tensor, options, &symbols)?;
        if let Some((given, dims, bytes)) = options.values.get(&input.name) {
            if *given != dtype {
                return bad(format!("the input \"{}\" is of type {dtype}, but the value given is {given}", input.name));
            }
            if dims.iter().product::<usize>() * dtype.size() != bytes.len() {
                return bad(format!("the value given for the input \"{}\" has {} bytes", input.name, bytes.len()));
            }
            graph.initializer.push(TensorProto {
                name: input.name.clone(),
                dims: dims.iter().map(|&d| d as i64).collect(),
                data_type: tensor.elem_type,
                raw_data: bytes.clone(),
                ..Default::default()
            });
            continue;
        }
        inputs.push(super::externs::declare(&input.name, tensor.elem_type, Some(&dims)));
    }
    graph.input = inputs;
    Ok(())
}

/// What the symbols stand for: as given, or as follows from shapes that are given.
fn symbols(graph: &GraphProto, options: &Options) -> Result<BTreeMap<String, i64>, ModelError> {
    let mut symbols = options.symbols.clone();
    let mut used = Vec::new();
    for input in &graph.input {
        let given = options.shapes.get(&input.name).or(options.values.get(&input.name).map(|v| &v.1));
        let Some(shape) = declared(input).and_then(|t| t.shape.as_ref()) else { continue };
        for (i, dim) in shape.dim.iter().enumerate() {
            let Some(DimValue::DimParam(name)) = &dim.value else { continue };
            used.push(name.clone());
            let Some(&size) = given.and_then(|g| g.get(i)) else { continue };
            if name.is_empty() || name == "?" || !is_name(name) {
                continue;
            }
            let known = *symbols.entry(name.clone()).or_insert(size as i64);
            if known != size as i64 {
                let what =
                    format!("axis {i} of the input \"{}\" is {size}, but its name, {name}, stands for {known}", input.name);
                return Err(ModelError::Call(what));
            }
        }
    }
    for name in options.symbols.keys() {
        if !used.iter().any(|u| u.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|part| part == name) || u == name) {
            used.sort();
            used.dedup();
            return Err(ModelError::Call(format!("the model has no symbol {name}; its symbols are {used:?}")));
        }
    }
    Ok(symbols)
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || "_-./: ".contains(c)) && !text.starts_with(|c: char| c.is_numeric())
}

/// The sizes of an input.
fn sizes(
    input: &ValueInfoProto,
    tensor: &type_proto::Tensor,
    options: &Options,
    symbols: &BTreeMap<String, i64>,
) -> Result<Vec<usize>, ModelError> {
    let bad = |what: String| Err(ModelError::Call(what));
    let name = &input.name;
    let given = options.shapes.get(name).or(options.values.get(name).map(|v| &v.1));
    let Some(shape) = &tensor.shape else {
        let unknown = || ModelError::Call(format!("the file does not say what shape the input \"{name}\" has: give it"));
        return given.cloned().ok_or_else(unknown);
    };
    if let Some(given) = given {
        if given.len() != shape.dim.len() {
            return bad(format!("the input \"{name}\" has {} axes, but the shape given is {given:?}", shape.dim.len()));
        }
        for (i, (dim, &size)) in shape.dim.iter().zip(given).enumerate() {
            if let Some(DimValue::DimValue(fixed)) = dim.value
                && fixed >= 0
                && fixed as usize != size
            {
                return bad(format!("axis {i} of the input \"{name}\" has size {fixed}, but the shape given is {given:?}"));
            }
        }
        return Ok(given.clone());
    }
    let mut sizes = Vec::new();
    for (i, dim) in shape.dim.iter().enumerate() {
        match &dim.value {
            Some(DimValue::DimValue(n)) if *n >= 0 => sizes.push(*n as usize),
            Some(DimValue::DimParam(text)) if !text.is_empty() && text != "?" => match evaluate(text, symbols) {
                Some(size) => sizes.push(size),
                None => {
                    return bad(format!(
                        "the size of axis {i} of the input \"{name}\" is open: say what {text} is (--set {text}=…), give inputs, \
                         or, where it is the time of a causal model, make it a stream (kiln compile --stream)"
                    ));
                }
            },
            _ => return bad(format!("the size of axis {i} of the input \"{name}\" is open: give the input's shape")),
        }
    }
    Ok(sizes)
}

/// The value of a symbol or an expression of symbols, if it is known.
fn evaluate(text: &str, symbols: &BTreeMap<String, i64>) -> Option<usize> {
    if let Some(&n) = symbols.get(text) {
        return usize::try_from(n).ok();
    }
    let scope = SymbolScope::default();
    let mut expression = parse_onnx_dim(&scope, text).ok()?;
    for symbol in expression.symbols() {
        let value = *symbols.get(&symbol.to_string())?;
        expression = expression.substitute(&symbol, &value.to_dim()).ok()?;
    }
    expression.to_usize().ok()
}
