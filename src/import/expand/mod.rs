//! Operators of ONNX that are written out in ops of a graph, one function each: see [`Sketch`].
//!
//! They stay whole in tract, which takes many of them apart less well, reads some wrongly, and does not know others.

use super::rules::{Rule, Shapes};
use super::sketch::{Expansion, Sketch};
use super::whole::CHOICE;
use crate::graph::Op;
use crate::program::{Join, ReduceKind};
use crate::tensor::DType;
use tract_onnx::pb::NodeProto;

mod attention;
mod data;
mod element;
mod find;
mod index;
mod integer;
#[cfg(test)]
mod integer_tests;
mod loss;
mod pool;
mod reduce;
mod resize;
mod signal;
#[cfg(test)]
mod tests;

pub(super) use data::{diagonal, slice, squeeze};
pub(super) use find::top_k;
pub(super) use reduce::reduce;

/// Operator, its expansion, and whether tract may fold it where all inputs are integers that are known.
const TABLE: &[(&str, Expansion, bool)] = &[
    ("AffineGrid", resize::affine_grid, false),
    ("Attention", attention::attention, false),
    ("BatchNormalization", reduce::batch_normalization, false),
    ("BitCast", element::bit_cast, false),
    ("BitShift", element::bit_shift, true),
    ("CausalConvWithState", attention::causal_conv, false),
    ("Celu", element::celu, false),
    ("CenterCropPad", data::center_crop_pad, false),
    ("Col2Im", pool::col2im, false),
    ("Compress", find::compress, true),
    ("ConvInteger", integer::conv_integer, false),
    ("CumProd", reduce::cumulate, false),
    ("CumSum", reduce::cumulate, true),
    ("DFT", signal::dft, false),
    ("DeformConv", resize::deform_conv, false),
    ("Det", reduce::det, false),
    ("DynamicQuantizeLinear", integer::dynamic_quantize, false),
    ("GatherElements", index::gather_elements, true),
    ("GatherND", index::gather_nd, true),
    ("GlobalLpPool", pool::global_lp_pool, false),
    ("GridSample", resize::grid_sample, false),
    ("Hardmax", reduce::hardmax, false),
    (CHOICE, element::choice, false),
    ("LRN", pool::lrn, false),
    ("LayerNormalization", reduce::layer_norm, false),
    ("LinearAttention", attention::linear_attention, false),
    ("LpNormalization", reduce::lp_normalization, false),
    ("LpPool", pool::lp_pool, false),
    ("MatMulInteger", integer::mat_mul_integer, false),
    ("MaxPool", pool::max_pool, false),
    ("MaxUnpool", pool::max_unpool, false),
    ("Mean", element::mean, false),
    ("MeanVarianceNormalization", reduce::mean_variance_normalization, false),
    ("Mod", element::modulo, true),
    ("NegativeLogLikelihoodLoss", loss::negative_log_likelihood, false),
    ("NonMaxSuppression", find::non_max_suppression, false),
    ("NonZero", find::non_zero, true),
    ("OneHot", index::one_hot, true),
    ("PRelu", element::prelu, false),
    ("Pad", data::pad, true),
    ("QLinearConv", integer::q_linear_conv, false),
    ("QLinearMatMul", integer::q_linear_mat_mul, false),
    ("Resize", resize::resize, false),
    ("ReverseSequence", index::reverse_sequence, false),
    ("RoiAlign", resize::roi_align, false),
    ("RotaryEmbedding", attention::rotary_embedding, false),
    ("STFT", signal::stft, false),
    ("Scatter", index::scatter_elements, true),
    ("ScatterElements", index::scatter_elements, true),
    ("ScatterND", index::scatter_nd, true),
    ("SoftmaxCrossEntropyLoss", loss::softmax_cross_entropy, false),
    ("SpaceToDepth", data::space_to_depth, false),
    ("SwiGLU", element::swiglu, false),
    ("Swish", element::swish, false),
    ("TensorScatter", index::tensor_scatter, false),
    ("Tile", data::tile, true),
    ("Trilu", data::trilu, true),
    ("Unique", find::unique, false),
    ("Upsample", resize::resize, false),
];

/// The operators that have an expansion.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.0)
}

/// Whether the operator may find out a size: how many elements are true, or kept.
pub(super) fn counts(op_type: &str) -> bool {
    matches!(op_type, "Compress" | "NonMaxSuppression" | "NonZero" | "Unique")
}

/// Whether an expansion draws right for inputs whose sizes depend on data: it takes none of these sizes for a number.
pub(super) fn follows(op_type: &str) -> bool {
    const ELEMENTS: [&str; 8] = ["BitCast", "BitShift", "Celu", "Mean", "Mod", "PRelu", "SwiGLU", "Swish"];
    const ROWS: [&str; 4] = ["GatherElements", "GatherND", "OneHot", "RoiAlign"];
    const OTHERS: [&str; 7] = ["CumSum", "LayerNormalization", "Pad", "Scatter", "ScatterElements", "ScatterND", "Tile"];
    let others = op_type.starts_with("Reduce") || matches!(op_type, "Slice" | "TopK");
    counts(op_type) || op_type == CHOICE || others || [&ELEMENTS[..], &ROWS, &OTHERS].iter().any(|names| names.contains(&op_type))
}

/// The rule of a node whose operator has an expansion.
pub(super) fn rule(node: &NodeProto) -> Option<Rule> {
    let &(_, expansion, folds) = TABLE.iter().find(|row| row.0 == node.op_type)?;
    Some(Rule { shapes: Shapes::Expansion(expansion), element_wise: false, folds })
}

/// Why the ops of a sketch can't compute in the types that they are given, if that is so.
pub(super) fn unsupported(sketch: &Sketch<'_>) -> Option<String> {
    let moves = |op: &Op| match op {
        Op::Unary(..) | Op::Binary(_) | Op::Select | Op::Cast | Op::Transpose(_) | Op::Reshape | Op::Slice { .. } => true,
        Op::Concat { .. } | Op::Pad { .. } | Op::Broadcast | Op::Gather { .. } => true,
        Op::GatherElements { .. } | Op::GatherNd { .. } => true,
        Op::ScatterElements { join, .. } | Op::ScatterNd { join } => *join == Join::Replace,
        _ => false,
    };
    use ReduceKind::{Max, Mean, Min, Product, Sum};
    let double = |op: &Op| matches!(op, Op::Cumulate { .. } | Op::Reduce { kind: Sum | Mean | Max | Min | Product, .. });
    sketch.ops.iter().filter(|d| !moves(&d.op)).find_map(|d| {
        let dtype = sketch.dtype(d.inputs.first().copied().flatten()?);
        (dtype == DType::U64 || dtype == DType::F64 && !double(&d.op))
            .then(|| format!("{} of {dtype} has no native form", sketch.op_type()))
    })
}
