//! Nodes that the host evaluates: one at a time, by tract.
//!
//! Every imported node leaves a recipe behind: an operator that was kept whole, its ONNX node; any other, tract's own op.
//! Lowering may leave any node to its recipe. A recipe becomes a plan of tract when it is first run; constant inputs go into
//! it then, out of the map.

use super::attributes::Attributes;
use super::guard::{self, Trouble};
use super::quantise::{Linear, View};
use super::types;
use super::whole::STOCK;
use crate::ModelError;
use crate::error::{Error, Kind, Result};
use crate::graph::Bytes;
use crate::ops::{self, Context};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto};
use tract_onnx::pb::{TensorProto, TensorShapeProto, tensor_shape_proto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::nn::{Reduce, RmsNorm};

/// What evaluates a node.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// An ONNX node: itself, version of its operator set, which input of tract's each of its inputs is.
    Onnx(Arc<NodeProto>, i64, Vec<Option<usize>>),
    /// An op of tract's.
    Tract(Box<dyn TypedOp>),
    /// Quantisation, which is done here.
    Linear(Linear),
}

/// An operand of a recipe.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub dt: DatumType,
    pub dims: Vec<usize>,
    pub constant: Option<Bytes>,
}

/// How to evaluate one node.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub node: String,
    pub op_type: String,
    pub work: Work,
    /// Inputs that are there, in order.
    pub inputs: Vec<Operand>,
    /// Outputs that are there, in order.
    pub outputs: Vec<Operand>,
}

type Plan = Arc<TypedSimplePlan>;

/// The recipes of all nodes of a graph: see [`Node::recipe`](crate::graph::Node::recipe).
#[derive(Debug, Default)]
pub struct Externs {
    pub(super) recipes: Vec<Recipe>,
    plans: Mutex<HashMap<u32, Plan>>,
}

impl Externs {
    pub(super) fn new(recipes: Vec<Recipe>) -> Externs {
        Externs { recipes, plans: Mutex::default() }
    }

    fn recipe(&self, recipe: u32) -> std::result::Result<&Recipe, ModelError> {
        let unknown = || ModelError::Call(format!("there is no extern op {recipe}"));
        self.recipes.get(recipe as usize).ok_or_else(unknown)
    }

    /// Makes ready to evaluate a node, so that what fails does so before the run.
    ///
    /// # Errors
    /// [`ModelError::Node`] when tract can't evaluate it.
    pub fn prepare(&self, recipe: u32) -> std::result::Result<(), ModelError> {
        match self.recipe(recipe)?.work {
            Work::Linear(_) => Ok(()),
            _ => self.plan(recipe).map(drop),
        }
    }

    fn plan(&self, number: u32) -> std::result::Result<Plan, ModelError> {
        if let Some(plan) = self.plans.lock().unwrap_or_else(|e| e.into_inner()).get(&number) {
            return Ok(plan.clone());
        }
        let recipe = self.recipe(number)?;
        let plan = guard::run(|| recipe.plan()).map_err(|t| recipe.error(t))?;
        self.plans.lock().unwrap_or_else(|e| e.into_inner()).insert(number, plan.clone());
        Ok(plan)
    }

    /// Evaluates a node: its inputs that are there and are not constants, in their order, as bytes (little-endian,
    /// row-major); yields the outputs that are there.
    ///
    /// # Errors
    /// [`ModelError::Node`] when tract can't evaluate it, or an input or output is of another length than was imported.
    pub fn evaluate(&self, recipe: u32, inputs: &[&[u8]]) -> std::result::Result<Vec<Vec<u8>>, ModelError> {
        let number = recipe;
        let recipe = self.recipe(number)?;
        if let Work::Linear(linear) = recipe.work {
            return guard::run(|| recipe.linear(linear, inputs)).map_err(|t| recipe.error(t));
        }
        let plan = self.plan(number)?;
        guard::run(|| recipe.evaluate(&plan, inputs)).map_err(|t| recipe.error(t))
    }
}

impl ops::Externs for Externs {
    fn run(&self, index: u32, context: &Context<'_>, op: &ops::Op<'_>) -> Result<()> {
        let copy = |&t: &u32| {
            let bytes = context.src_bytes(t);
            (0..bytes.len()).map(|i| bytes.at(i)).collect::<Vec<u8>>()
        };
        let inputs: Vec<Vec<u8>> = op.inputs.iter().map(copy).collect();
        let outputs = self.evaluate(index, &inputs.iter().map(|b| &**b).collect::<Vec<_>>()).map_err(|e| {
            log::error!("{e}");
            Error::new(Kind::Extern, "an op that is left to the host failed; the log says why")
        })?;
        if outputs.len() != op.outputs.len() {
            return Err(Error::new(Kind::Extern, "an op that is left to the host has another number of outputs"));
        }
        for (&tensor, bytes) in op.outputs.iter().zip(&outputs) {
            let to = context.dst_bytes(tensor);
            if to.len() != bytes.len() {
                return Err(Error::new(Kind::Extern, "an op that is left to the host yielded another size than planned"));
            }
            for (i, &b) in bytes.iter().enumerate() {
                to.set(i, b);
            }
        }
        Ok(())
    }
}

impl Recipe {
    fn error(&self, trouble: Trouble) -> ModelError {
        let what = format!("it has no native form, and tract can't evaluate it: {}", trouble.what);
        ModelError::node(&self.node, &self.op_type, what)
    }

    /// The type that an operand has while tract works on it. tract sums `f16` in `f16`, which overflows in norms and
    /// reductions: those run in `f32`.
    fn working(&self, dt: DatumType) -> DatumType {
        let wide = match &self.work {
            Work::Onnx(..) => true,
            Work::Tract(op) => op.is::<Reduce>() || op.is::<RmsNorm>(),
            Work::Linear(_) => false,
        };
        if wide && dt == DatumType::F16 { DatumType::F32 } else { dt }
    }

    fn tensor(&self, operand: &Operand, bytes: &[u8]) -> TractResult<Tensor> {
        let tensor = types::tensor(operand.dt, &operand.dims, bytes)?;
        Ok(tensor.cast_to_dt(self.working(operand.dt))?.into_owned())
    }

    fn plan(&self) -> TractResult<Plan> {
        let facts: Vec<_> = self.inputs.iter().map(|i| (self.working(i.dt), i.dims.clone())).collect();
        let constant = |i: &Operand| i.constant.as_ref().map(|b| self.tensor(i, b.as_slice()).map(Arc::new)).transpose();
        let constants = self.inputs.iter().map(constant).collect::<TractResult<Vec<_>>>()?;
        match &self.work {
            Work::Onnx(node, ..) if matches!(&*node.op_type, "LSTM" | "GRU" | "RNN") && !plain_cell(node) => {
                bail!("it does not heed direction, activations, clip or input_forget of a recurrent cell")
            }
            Work::Onnx(node, opset, slots) => alone(node, *opset, slots, &facts, &constants),
            Work::Linear(_) => bail!("it needs no plan"),
            Work::Tract(op) => {
                let mut model = TypedModel::default();
                let mut wires = tvec![];
                for (i, ((dt, dims), constant)) in facts.iter().zip(&constants).enumerate() {
                    let name = format!("in{i}");
                    wires.push(match constant {
                        Some(tensor) => model.add_const(name, tensor.clone())?,
                        None => model.add_source(name, dt.fact(&**dims))?,
                    });
                }
                let outputs = model.wire_node(&self.node, op.clone(), &wires)?;
                model.select_output_outlets(&outputs)?;
                SimplePlan::new(model)
            }
        }
    }

    fn linear(&self, linear: Linear, inputs: &[&[u8]]) -> TractResult<Vec<Vec<u8>>> {
        let mut live = inputs.iter();
        let mut views = Vec::new();
        for operand in &self.inputs {
            let bytes = match &operand.constant {
                Some(bytes) => bytes.as_slice(),
                None => live.next().context("an input is missing")?,
            };
            views.push(View { dtype: types::dtype(operand.dt)?, dims: &operand.dims, bytes });
        }
        let output = self.outputs.first().context("it has no output")?;
        Ok(vec![linear.evaluate(&views, types::dtype(output.dt)?)?])
    }

    fn evaluate(&self, plan: &Plan, inputs: &[&[u8]]) -> TractResult<Vec<Vec<u8>>> {
        let live: Vec<&Operand> = self.inputs.iter().filter(|i| i.constant.is_none()).collect();
        ensure!(live.len() == inputs.len(), "it takes {} inputs, not {}", live.len(), inputs.len());
        let tensor = |(o, b): (&&Operand, &&[u8])| self.tensor(o, b).map(|t| t.into_tvalue());
        let tensors = live.iter().zip(inputs).map(tensor).collect::<TractResult<TVec<_>>>()?;
        let results = plan.run(tensors)?;
        ensure!(results.len() >= self.outputs.len(), "it yields {} outputs, not {}", results.len(), self.outputs.len());
        let bytes = |(o, t): (&Operand, &TValue)| {
            ensure!(t.shape() == &*o.dims, "it yields the shape {:?} instead of {:?}", t.shape(), o.dims);
            let stored = types::datum_type(types::dtype(o.dt)?)?;
            Ok(t.cast_to_dt(stored)?.try_as_plain_ram()?.as_bytes().to_vec())
        };
        self.outputs.iter().zip(&results).map(bytes).collect()
    }
}

/// Whether tract computes this recurrent cell: it reads no attribute that changes what a step does, or the order of steps.
fn plain_cell(node: &NodeProto) -> bool {
    let a = Attributes(node);
    let changed = ["activations", "activation_alpha", "activation_beta", "clip"].iter().any(|name| a.has(name));
    !changed && a.int("input_forget", 0) == 0 && a.text("direction", "forward") != "reverse"
}

/// A plan of tract for one ONNX node alone, with tract's own importer; `facts` and `constants` by tract's numbers.
pub(super) fn alone(
    node: &NodeProto,
    opset: i64,
    slots: &[Option<usize>],
    facts: &[(DatumType, Vec<usize>)],
    constants: &[Option<Arc<Tensor>>],
) -> TractResult<Plan> {
    let mut node = node.clone();
    let mut graph = GraphProto::default();
    for (slot, name) in node.input.iter_mut().enumerate() {
        let Some(i) = slots.get(slot).copied().flatten() else { continue };
        let (dt, dims) = &facts[i];
        *name = format!("in{i}");
        let known = constants[i].is_some();
        let dtype = types::dtype(*dt)?;
        if known {
            let tensor = constants[i].as_ref().context("a constant is missing")?;
            graph.initializer.push(TensorProto {
                name: name.clone(),
                dims: dims.iter().map(|&d| d as i64).collect(),
                data_type: super::skeleton::dtype_number(dtype),
                raw_data: types::plain(tensor)?.try_as_plain_ram()?.as_bytes().to_vec(),
                ..Default::default()
            });
        } else if !graph.input.iter().any(|i| i.name == *name) {
            graph.input.push(declare(name, super::skeleton::dtype_number(dtype), Some(dims)));
        }
    }
    for (i, name) in node.output.iter_mut().enumerate().filter(|(_, n)| !n.is_empty()) {
        *name = format!("out{i}");
        graph.output.push(declare(name, 1, None));
    }
    graph.node.push(node);
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() };
    let parsed = STOCK.clone().with_ignore_output_types(true).parse(&model, None)?;
    SimplePlan::new(parsed.model.into_typed()?.into_decluttered()?)
}

/// A `ValueInfoProto`.
pub(super) fn declare(name: &str, data_type: i32, dims: Option<&[usize]>) -> ValueInfoProto {
    let dim = |&d: &usize| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(d as i64)),
        ..Default::default()
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: data_type, shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
    ValueInfoProto { name: name.into(), r#type, ..Default::default() }
}
