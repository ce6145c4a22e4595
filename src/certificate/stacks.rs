//! What each kind of op took of the stack, as `targets/cortex-m/stacks.py` measured it by painting, and wrote it here.
//!
//! The most that any op of a kind took, in the variants that go different ways through its kernels, with its general entry and all
//! activations, and the session's loop over ops; rounded up. Its caller's stack and interrupts are not in it.

use crate::program::OpKind;

/// The core, the profile of the build and its compiler.
pub const MEASURED_ON: &str = "Cortex-M4F, profile small, rustc 1.95.0";

/// Bytes, of the kinds that a device can have.
const BYTES: [(OpKind, u64); 24] = [
    (OpKind::Gemm, 1152),
    (OpKind::Conv, 1152),
    (OpKind::Depthwise, 736),
    (OpKind::Pool, 448),
    (OpKind::Map, 3008),
    (OpKind::Copy, 1344),
    (OpKind::Gather, 352),
    (OpKind::Reduce, 480),
    (OpKind::Softmax, 480),
    (OpKind::Norm, 352),
    (OpKind::Attention, 1312),
    (OpKind::Lstm, 1216),
    (OpKind::Gru, 1216),
    (OpKind::ArgReduce, 288),
    (OpKind::TopK, 320),
    (OpKind::Window, 288),
    (OpKind::GatherNd, 384),
    (OpKind::Scatter, 544),
    (OpKind::Resample, 352),
    (OpKind::Cumulate, 352),
    (OpKind::GridSample, 832),
    (OpKind::RoiAlign, 544),
    (OpKind::NonZero, 320),
    (OpKind::NonMaxSuppression, 592),
];

/// Bytes that a run takes whose largest op is of this kind; none of an extern op, which is the host's.
pub fn of(kind: OpKind) -> Option<u64> {
    BYTES.iter().find(|(of, _)| *of == kind).map(|&(_, bytes)| bytes)
}
