//! From a network as it was imported to a program: what runs as which op, in which layout, with what fused.
//!
//! In order:
//! 1. [`constant`]: what hangs only on weights and constants is evaluated; views of weights stay views of the mapped file.
//! 2. [`wide`], [`dynamic`], [`unroll`], [`spatial`], [`einsum`]: what no kernel computes (narrow types, weights that are computed, windows
//!    over three axes, sums of products that are no matrix product) is put in terms of what they do.
//! 3. [`rewrite`]: functions that exporters spell out (GELU, hard-swish, means, batch norms) become one node again.
//!    Axes of one element go out of the way of products and joins ([`units`]). Quantisation that is left becomes arithmetic
//!    ([`quantised`]); what it said of inputs and outputs has been kept.
//! 4. [`group`]: nodes that run as one op are found: epilogues of products, chains of element-wise nodes, attention.
//! 5. Each group becomes an op, in [`gemm`], [`conv`], [`pool`], [`map`], [`reduce`], [`data`], [`index`], [`recurrent`],
//!    [`attention`]; [`builder`] keeps the books. No pass deals with channels-first against channels-last: values carry
//!    their [`layout`], axis operations only change it, and an op that needs another one asks for a copy.
//! 6. A node that has no native form is left to the host ([`external`]), with the reason.

mod attention;
mod builder;
mod constant;
mod conv;
mod data;
mod dynamic;
mod einsum;
mod expr;
mod external;
mod gemm;
mod group;
mod index;
mod layout;
mod map;
mod net;
mod pack;
mod pool;
mod quantised;
mod recurrent;
mod reduce;
mod rewrite;
mod sample;
mod scalar;
mod select;
mod spatial;
mod stream;
mod subpixel;
#[cfg(test)]
mod tests;
mod units;
mod unroll;
mod wide;

use crate::ModelError;
use crate::graph::{Graph, Node, Op};
use crate::plan::draft::Model;
use builder::Builder;
use group::{Group, Kind, Product};
use net::Net;

/// How to lower.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The time axis becomes a stream: one step per run, state kept between runs.
    pub stream: bool,
}

/// One op of the program, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpReport {
    /// The ONNX nodes that it computes.
    pub nodes: Vec<String>,
    /// The kind of op it runs as.
    pub how: String,
    /// Why.
    pub why: String,
}

/// A node that the host evaluates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternNode {
    /// The ONNX node's name.
    pub name: String,
    /// Its op type.
    pub op: String,
    /// Why it has no native form.
    pub reason: String,
}

/// A lowered network.
pub struct Lowered {
    /// Its program and weights.
    pub model: Model,
    /// Per op of the program, in its order.
    pub report: Vec<OpReport>,
    /// Nodes that the host evaluates.
    pub externs: Vec<ExternNode>,
}

/// Lowers a network.
///
/// # Errors
/// [`ModelError::Node`], naming the node, when it neither has a native form nor can be left to the host, or when a model
/// that is to be streamed is not causal.
pub fn lower(graph: Graph, options: &Options) -> Result<Lowered, ModelError> {
    let mut net = Net::new(graph);
    constant::fold(&mut net);
    rewrite::pads(&mut net);
    let quantised = quantised::ports(&net);
    if options.stream {
        if let Some(length) = net.graph.lengths.first() {
            return Err(ModelError::Call(format!(
                "output \"{}\" has an axis whose length each run decides, so the model can't be a stream: compile it without --stream",
                net.graph.outputs.get(length.output).map_or("?", |&v| net.name(v))
            )));
        }
        stream::run(&mut net)?;
        constant::fold(&mut net);
    }
    let metadata = net.graph.metadata.clone();
    wide::run(&mut net);
    constant::fold(&mut net);
    dynamic::run(&mut net);
    unroll::run(&mut net);
    spatial::run(&mut net);
    einsum::run(&mut net);
    reduce::split_group_norms(&mut net);
    rewrite::run(&mut net);
    units::run(&mut net);
    quantised::run(&mut net);
    constant::fold(&mut net);
    let groups = group::form(&net);
    let mut b = Builder::new(&net)?;
    for group in &groups {
        b.nodes.clone_from(&group.nodes);
        let mark = b.mark();
        if let Err(reason) = emit(&mut b, group) {
            b.back_to(&mark);
            apart(&mut b, group, &reason)?;
        }
    }
    b.finish().map_err(ModelError::Call)?;
    let ports = b.draft.inputs.iter().chain(&b.draft.outputs);
    b.draft.quantised = ports.zip(quantised).filter_map(|(&v, q)| Some((v, q?))).collect();
    let Builder { draft, weights, report, externs, .. } = b;
    Ok(Lowered { model: Model { programs: vec![draft], weights, metadata }, report, externs })
}

/// Writes the op of a group.
fn emit(b: &mut Builder<'_>, group: &Group) -> Result<(), String> {
    let node = |n: usize| b.net.graph.nodes[n].clone();
    let output = group.output.ok_or("it has no output");
    match &group.kind {
        Kind::Product(product) => match node(product.node).op {
            Op::EinSum { .. } => gemm::emit(b, product, output?),
            _ => conv::emit(b, product, output?),
        },
        Kind::Map(expr) => map::emit(b, expr, output?),
        Kind::Attention(attention) => attention::emit(b, attention),
        Kind::Single(n) => single(b, &node(*n)),
    }
}

fn single(b: &mut Builder<'_>, node: &Node) -> Result<(), String> {
    let out = node.outputs.first().copied().flatten().ok_or("its first output is not wanted");
    match &node.op {
        Op::MaxPool { .. } | Op::AveragePool { .. } | Op::GlobalPool { .. } => pool::emit(b, node, out?),
        Op::Reduce { .. }
        | Op::Softmax { .. }
        | Op::LayerNorm { .. }
        | Op::GroupNorm { .. }
        | Op::ArgReduce { .. }
        | Op::TopK { .. } => reduce::emit(b, node, out?),
        Op::Transpose(_)
        | Op::Reshape
        | Op::Slice { .. }
        | Op::Broadcast
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Window { .. }
        | Op::Gather { .. } => data::emit(b, node, out?),
        Op::GatherElements { .. } | Op::GatherNd { .. } | Op::ScatterElements { .. } | Op::ScatterNd { .. } => {
            index::emit(b, node, out?)
        }
        Op::Resample { .. } | Op::Cumulate { .. } => reduce::emit(b, node, out?),
        Op::GridSample { .. } | Op::RoiAlign { .. } => sample::emit(b, node, out?),
        Op::NonZero | Op::NonMaxSuppression { .. } => select::emit(b, node, out?),
        Op::Lstm(_) | Op::Gru(_) | Op::Rnn(_) => recurrent::emit(b, node),
        Op::Conv { .. } | Op::ConvTranspose { .. } => conv::supported(b.net, node),
        Op::Extern { reason } => Err(reason.clone()),
        Op::BatchNorm { .. } => Err("its parameters are computed at run time".into()),
        Op::EinSum { .. } => Err("it is no product of two matrices of float32".into()),
        Op::Unary(..) | Op::Binary(_) | Op::Select | Op::Cast => Err("it needs too many registers".into()),
        Op::Quantize { .. } | Op::Dequantize { .. } => Err("this form of quantisation has no native form yet".into()),
    }
}

/// The nodes of a group one by one, each natively if that works, else left to the host.
fn apart(b: &mut Builder<'_>, group: &Group, reason: &str) -> Result<(), ModelError> {
    for &n in &group.nodes {
        let node = b.net.graph.nodes[n].clone();
        b.nodes = vec![n];
        let mark = b.mark();
        if group.nodes.len() > 1 {
            let kind = match node.op {
                Op::EinSum { .. } if gemm::roles(b.net, &node).is_some() => Kind::Product(Product::of(n)),
                Op::Conv { .. } | Op::ConvTranspose { .. } => Kind::Product(Product::of(n)),
                _ => match expr::Expr::of(b.net, &node) {
                    Some(e) => Kind::Map(e),
                    None => Kind::Single(n),
                },
            };
            let alone = Group { kind, nodes: vec![n], output: node.outputs.first().copied().flatten() };
            if emit(b, &alone).is_ok() {
                continue;
            }
            b.back_to(&mark);
        }
        external::emit(b, &node, reason)?;
    }
    Ok(())
}
