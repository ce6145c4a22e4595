//! What is known of a graph's values before anything runs: those that hang on constants and sizes alone. tract finds them
//! out, on the part of the graph that leads to them.

use super::control::Written;
use super::guard;
use super::hash::{HashMap, HashSet};
use super::whole::{self, STOCK};
use std::cell::RefCell;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, type_proto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// A tensor's element type, as ONNX numbers it, and its sizes.
pub(super) type Fact = (i32, Vec<usize>);

/// What was found out before.
#[derive(Default)]
pub(super) struct Known {
    values: RefCell<HashMap<String, Option<Tensor>>>,
    /// Tensors of which no more can be known: what leads to them need not be looked at.
    opaque: RefCell<HashMap<String, Fact>>,
}

impl Known {
    /// Remembers a tensor that depends on data.
    pub fn depends(&self, name: &str, fact: Fact) {
        self.opaque.borrow_mut().insert(name.into(), fact);
    }
}

/// A graph, and what has been written for a node of it so far.
pub(super) struct Scope<'a> {
    pub graph: &'a GraphProto,
    pub more: &'a Written,
    pub opset: i64,
    pub known: &'a Known,
}

impl Scope<'_> {
    /// Whether a tensor of one element is true.
    pub fn truth(&self, name: &str) -> Option<bool> {
        self.integer(name).map(|v| v != 0)
    }

    /// The value of a tensor of one integer or boolean, if it hangs on constants and sizes alone.
    pub fn integer(&self, name: &str) -> Option<i64> {
        let value = self.value(name)?;
        let value = value.cast_to::<i64>().ok()?;
        value.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.first().copied()
    }

    /// Type and sizes of a tensor, if those hang on constants and the sizes of inputs alone.
    pub fn fact(&self, name: &str) -> Option<Fact> {
        if let Some(declared) = self.declared(name) {
            return Some(declared);
        }
        let fact = || -> TractResult<Option<Fact>> {
            let Some((mut model, _)) = self.leading_to(name)? else { return Ok(None) };
            // Of an output that is an input tract would lose the type.
            let seen = format!("{name}.seen");
            let graph = model.graph.as_mut().context("it has no graph")?;
            graph.node.push(NodeProto { op_type: whole::COPY.into(), ..super::control::copy(name, &seen) });
            graph.output = vec![super::externs::declare(&seen, 1, None)];
            let parsed = whole::CAREFUL.clone().with_ignore_output_types(true).parse(&model, None)?;
            let typed = parsed.model.into_typed()?.into_decluttered()?;
            let fact = typed.output_fact(0)?;
            let number = super::skeleton::dtype_number(super::types::dtype(fact.datum_type)?);
            Ok(fact.shape.as_concrete().map(|dims| (number, dims.to_vec())))
        };
        guard::run(fact).ok().flatten()
    }

    /// The most that an integer can be, where it is the least of what is computed and of one that is known.
    pub fn most(&self, name: &str) -> Option<i64> {
        let maker = self.graph.node.iter().chain(&self.more.0).find(|n| n.output.iter().any(|o| o == name))?;
        let of = |name: &String| self.integer(name).or_else(|| self.most(name));
        match &*maker.op_type {
            "Min" => maker.input.iter().filter_map(of).min(),
            "Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" => of(maker.input.first()?),
            _ => None,
        }
    }

    fn value(&self, name: &str) -> Option<Tensor> {
        if let Some(value) = self.known.values.borrow().get(name) {
            return value.clone();
        }
        let value = guard::run(|| self.found(name)).ok().flatten();
        self.known.values.borrow_mut().insert(name.to_string(), value.clone());
        value
    }

    fn found(&self, name: &str) -> TractResult<Option<Tensor>> {
        let Some((model, open)) = self.leading_to(name)? else { return Ok(None) };
        if open {
            let parsed = whole::CAREFUL.clone().with_ignore_output_types(true).parse(&model, None)?;
            let typed = parsed.model.into_typed()?.into_decluttered()?;
            return Ok(typed.output_fact(0)?.konst.as_ref().map(|v| (**v).clone()));
        }
        let parsed = STOCK.clone().with_ignore_output_types(true).parse(&model, None)?;
        let plan = SimplePlan::new(parsed.model.into_typed()?.into_decluttered()?)?;
        Ok(plan.run(tvec![])?.first().map(|v| v.clone().into_tensor()))
    }

    /// The part of the graph that leads to a tensor, and whether it hangs on more than constants.
    fn leading_to(&self, name: &str) -> TractResult<Option<(ModelProto, bool)>> {
        let mut graph = GraphProto::default();
        let mut wanted = vec![name.to_string()];
        let mut seen: HashSet<String> = HashSet::default();
        let mut open = false;
        while let Some(name) = wanted.pop() {
            if name.is_empty() || !seen.insert(name.clone()) {
                continue;
            }
            let tensor = self.graph.initializer.iter().chain(&self.more.1).find(|t| t.name == name);
            if let Some(tensor) = tensor {
                graph.initializer.push(tensor.clone());
                continue;
            }
            if let Some((dtype, dims)) = self.known.opaque.borrow().get(&name) {
                graph.input.push(super::externs::declare(&name, *dtype, Some(dims)));
                open = true;
                continue;
            }
            if let Some(Some(value)) = self.known.values.borrow().get(&name)
                && let Ok(tensor) = constant(&name, value)
            {
                graph.initializer.push(tensor);
                continue;
            }
            if let Some(input) = self.graph.input.iter().find(|i| i.name == name) {
                graph.input.push(input.clone());
                open = true;
                continue;
            }
            let maker = self.graph.node.iter().chain(&self.more.0).find(|n| n.output.contains(&name));
            let Some(maker) = maker.filter(|n| n.attribute.iter().all(|a| a.g.is_none())) else { return Ok(None) };
            let sized = maker.op_type == "Shape" && maker.attribute.is_empty();
            if let Some((_, dims)) = maker.input.first().filter(|_| sized).and_then(|x| self.declared(x)) {
                let count = vec![dims.len() as i64];
                let int64_data = dims.iter().map(|&d| d as i64).collect();
                graph.initializer.push(TensorProto { name, dims: count, data_type: 7, int64_data, ..Default::default() });
                continue;
            }
            open |= maker.op_type == whole::HELD;
            wanted.extend(maker.input.iter().cloned());
            graph.node.push(maker.clone());
        }
        // In the order in which they stand.
        let order: HashMap<&[String], usize> =
            self.graph.node.iter().chain(&self.more.0).enumerate().map(|(i, n)| (&*n.output, i)).collect();
        graph.node.sort_by_key(|n| order.get(&*n.output).copied());
        graph.node.dedup_by(|a, b| a.output == b.output);
        graph.output.push(super::externs::declare(name, 1, None));
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: self.opset }];
        let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() };
        Ok(Some((model, open)))
    }

    /// The declared type and sizes of an input of the graph.
    fn declared(&self, name: &str) -> Option<Fact> {
        let declared = self.graph.input.iter().find(|i| i.name == name)?;
        let type_proto::Value::TensorType(tensor) = declared.r#type.as_ref()?.value.as_ref()?;
        let size = |d: &tract_onnx::pb::tensor_shape_proto::Dimension| match d.value {
            Some(DimValue::DimValue(n)) => usize::try_from(n).ok(),
            _ => None,
        };
        Some((tensor.elem_type, tensor.shape.as_ref()?.dim.iter().map(size).collect::<Option<_>>()?))
    }
}

/// A value as an initializer.
fn constant(name: &str, value: &Tensor) -> TractResult<TensorProto> {
    let plain = super::types::plain(value)?;
    Ok(TensorProto {
        name: name.into(),
        dims: value.shape().iter().map(|&d| d as i64).collect(),
        data_type: super::skeleton::dtype_number(super::types::dtype(plain.datum_type())?),
        raw_data: plain.try_as_plain_ram()?.as_bytes().to_vec(),
        ..Default::default()
    })
}
