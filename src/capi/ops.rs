//! Op sets: which evaluators a program may use, and so which the linker keeps.

use super::aligned;
use super::status::kiln_status::{self, *};
use crate::kernels::{Base, Isa};
use crate::ops::{self, Entry, attention, conv, data, gemm, map, pool, recurrent, reduce, stream};
use crate::program::OpKind;

/// A kind of op and its kernels. Opaque: only its address is of use.
#[derive(Debug)]
#[cfg_attr(all(), repr(transparent))] // cbindgen reads a plain `repr`, and would then tell C what an `Entry` is
pub struct kiln_op(Entry);

/// The most kinds of ops that a list can have.
pub const KILN_MAX_OPS: usize = 32;

const _: () = assert!(OpKind::ALL.len() <= KILN_MAX_OPS);

/// The ops that a session may use: as many as are needed, in any order, then null pointers.
///
/// A host takes all, by `kiln_ops_all`. A firmware writes the list of its image's ops as a constant, so that the linker
/// drops the kernels of all others:
///
///     static const kiln_ops ops = {{&kiln_op_gemm, &kiln_op_map}};
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct kiln_ops {
    /// The ops; a null pointer ends the list.
    pub list: [*const kiln_op; KILN_MAX_OPS],
}

// SAFETY: the pointers are only ever to constants.
unsafe impl Sync for kiln_ops {}

impl kiln_ops {
    /// The list as the executor takes it.
    ///
    /// # Safety
    /// Every pointer before the first null is of a `kiln_op` of this library.
    pub(super) unsafe fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        // SAFETY: the caller's promise: constants of this library.
        self.list.iter().take_while(|op| !op.is_null()).map(|&op| unsafe { &(*op).0 })
    }
}

/// All ops, on the fastest instruction set that this CPU has. Every kernel of the library is then linked.
///
/// Returns `KILN_NULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kiln_ops_all(ops: *mut kiln_ops) -> kiln_status {
    if ops.is_null() {
        return KILN_NULL;
    }
    if !aligned(ops) {
        return KILN_MISALIGNED;
    }
    let Ok(set) = ops::set(Isa::detect()) else { return KILN_NO_ISA };
    let mut all = kiln_ops { list: [core::ptr::null(); KILN_MAX_OPS] };
    for (to, entry) in all.list.iter_mut().zip(set) {
        *to = core::ptr::from_ref(entry).cast(); // `repr(transparent)`
    }
    // SAFETY: the caller's promise, and aligned.
    unsafe { ops.write(all) };
    KILN_OK
}

/// Matrix products.
#[unsafe(no_mangle)]
pub static kiln_op_gemm: kiln_op = kiln_op(gemm::entry::<Base>());

/// Convolutions.
#[unsafe(no_mangle)]
pub static kiln_op_conv: kiln_op = kiln_op(conv::entry::<Base>());

/// Depthwise convolutions.
#[unsafe(no_mangle)]
pub static kiln_op_depthwise: kiln_op = kiln_op(conv::depthwise::<Base>());

/// Maximum and average over windows.
#[unsafe(no_mangle)]
pub static kiln_op_pool: kiln_op = kiln_op(pool::entry::<Base>());

/// Element-wise arithmetic.
#[unsafe(no_mangle)]
pub static kiln_op_map: kiln_op = kiln_op(map::entry::<Base>());

/// Strided copies: transpose, slice, concat, pad, expand.
#[unsafe(no_mangle)]
pub static kiln_op_copy: kiln_op = kiln_op(data::copy());

/// Rows of a table by index.
#[unsafe(no_mangle)]
pub static kiln_op_gather: kiln_op = kiln_op(data::gather());

/// Sums, means, maxima.
#[unsafe(no_mangle)]
pub static kiln_op_reduce: kiln_op = kiln_op(reduce::reduce::<Base>());

/// Softmax.
#[unsafe(no_mangle)]
pub static kiln_op_softmax: kiln_op = kiln_op(reduce::softmax::<Base>());

/// Layer and root-mean-square normalisation.
#[unsafe(no_mangle)]
pub static kiln_op_norm: kiln_op = kiln_op(reduce::norm::<Base>());

/// Attention.
#[unsafe(no_mangle)]
pub static kiln_op_attention: kiln_op = kiln_op(attention::entry::<Base>());

/// LSTM.
#[unsafe(no_mangle)]
pub static kiln_op_lstm: kiln_op = kiln_op(recurrent::lstm::<Base>());

/// GRU.
#[unsafe(no_mangle)]
pub static kiln_op_gru: kiln_op = kiln_op(recurrent::gru::<Base>());

/// Positions of maxima and minima.
#[unsafe(no_mangle)]
pub static kiln_op_arg_reduce: kiln_op = kiln_op(reduce::arg_reduce());

/// The largest or smallest values.
#[unsafe(no_mangle)]
pub static kiln_op_top_k: kiln_op = kiln_op(reduce::top_k());

/// The last rows of a stream.
#[unsafe(no_mangle)]
pub static kiln_op_window: kiln_op = kiln_op(stream::window());
