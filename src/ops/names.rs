//! How the source of a firmware calls the entries that an image needs: for `kiln compile --emit rust` and for build scripts.
//!
//! Some kinds have, beside the general entry, one for a part of their ops that is much smaller (`docs/size.md`). Where all ops of an
//! image are of that part, it is named; an op set's own check refuses images that have others.

use crate::image::{Image, OpView};
use crate::program::{self, Conv, Domain, Gemm, Map, OpKind, Record, Softmax};

/// A small entry: its name in `docs/size.md`, its kind, the call.
pub const SMALL: [(&str, OpKind, &str); 4] = [
    ("gemm_row", OpKind::Gemm, "kiln::ops::gemm::row_entry::<B>()"),
    ("conv_ungrouped", OpKind::Conv, "kiln::ops::conv::ungrouped::<B>()"),
    ("map_f32", OpKind::Map, "kiln::ops::map::f32_entry::<B>()"),
    ("softmax_rows", OpKind::Softmax, "kiln::ops::reduce::softmax_rows::<B>()"),
];

/// The call that gives the smallest entry which runs all ops of this kind that the image has, for a backend `B`.
pub fn of(image: &Image<'_>, kind: OpKind) -> &'static str {
    let small =
        SMALL.iter().find(|(_, of, _)| *of == kind).filter(|_| ops(image).filter(|op| op.kind == kind).all(|op| is_small(&op)));
    small.map_or(general(kind), |(.., call)| call)
}

/// The call that gives the entry of a kind which runs all its ops, for a backend `B`.
pub const fn general(kind: OpKind) -> &'static str {
    match kind {
        OpKind::Gemm => "kiln::ops::gemm::entry::<B>()",
        OpKind::Conv => "kiln::ops::conv::entry::<B>()",
        OpKind::Depthwise => "kiln::ops::conv::depthwise::<B>()",
        OpKind::Pool => "kiln::ops::pool::entry::<B>()",
        OpKind::Map => "kiln::ops::map::entry::<B>()",
        OpKind::Copy => "kiln::ops::data::copy()",
        OpKind::Gather => "kiln::ops::data::gather()",
        OpKind::Reduce => "kiln::ops::reduce::reduce::<B>()",
        OpKind::Softmax => "kiln::ops::reduce::softmax::<B>()",
        OpKind::Norm => "kiln::ops::reduce::norm::<B>()",
        OpKind::Attention => "kiln::ops::attention::entry::<B>()",
        OpKind::Lstm => "kiln::ops::recurrent::lstm::<B>()",
        OpKind::Gru => "kiln::ops::recurrent::gru::<B>()",
        OpKind::ArgReduce => "kiln::ops::reduce::arg_reduce()",
        OpKind::TopK => "kiln::ops::reduce::top_k()",
        OpKind::Window => "kiln::ops::stream::window()",
        OpKind::Extern => "kiln::ops::data::external()",
        OpKind::GatherNd => "kiln::ops::index::gather_nd()",
        OpKind::Scatter => "kiln::ops::index::scatter()",
        OpKind::Resample => "kiln::ops::resample::resample::<B>()",
        OpKind::Cumulate => "kiln::ops::resample::cumulate()",
        OpKind::GridSample => "kiln::ops::sample::grid_sample()",
        OpKind::RoiAlign => "kiln::ops::sample::roi_align()",
        OpKind::NonZero => "kiln::ops::select::non_zero()",
        OpKind::NonMaxSuppression => "kiln::ops::select::non_max_suppression()",
    }
}

/// Whether all activations that are fused behind the image's products and convolutions are clamps, so that
/// [`Clamps`](crate::kernels::Clamps) of a backend serves it.
pub fn has_clamps_only(image: &Image<'_>) -> bool {
    ops(image).all(|op| match op.kind {
        OpKind::Gemm => holds::<Gemm>(&op, |gemm| gemm.epilogue.is_clamp()),
        OpKind::Conv | OpKind::Depthwise => holds::<Conv>(&op, |conv| conv.epilogue.is_clamp()),
        _ => true,
    })
}

/// Whether an op is one that the small entry of its kind runs.
fn is_small(op: &OpView<'_>) -> bool {
    match op.kind {
        OpKind::Gemm => holds(op, Gemm::is_row),
        OpKind::Conv => holds::<Conv>(op, |conv| conv.groups == 1),
        OpKind::Map => holds::<Map>(op, |map| map.domain == Domain::F32 as u32),
        OpKind::Softmax => holds(op, Softmax::is_of_rows),
        _ => false,
    }
}

fn holds<R: Record>(op: &OpView<'_>, is: impl Fn(&R) -> bool) -> bool {
    program::split::<R>(op.attributes).is_ok_and(|(record, _)| is(record))
}

fn ops<'a>(image: &Image<'a>) -> impl Iterator<Item = OpView<'a>> + use<'a> {
    image.programs().flat_map(|program| program.ops())
}
