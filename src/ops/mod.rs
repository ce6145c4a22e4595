//! From op record to kernels: one evaluator per op family, and the op set by which the executor finds them.
//!
//! An evaluator is a safe function from a [`Context`] (where the operands lie) and an [`Op`] (kind, operands, attributes)
//! to a result; it splits the record off the attributes, asks the context for spans, and launches kernels on its
//! [`Backend`](crate::kernels::Backend). It trusts what [`program::check`](crate::program::check) has passed.
//!
//! An op's work is cut into [`Units`], so that a run can pause inside an op and threads can share one. How it is cut is the
//! evaluator's business, and depends on the record and the backend alone.
//!
//! An **op set** is a table of [`Entry`]s. A host takes [`set`], all ops for an instruction set. A firmware names the ops
//! of its image, so that the linker drops the rest; no static table keeps them alive.

pub use crate::exec::context::Context;

use crate::error::{Error, Kind, Result};
use crate::image::{Image, OpView};
use crate::kernels::{Backend, Isa};
use crate::program::{NONE, OpKind, Record, Rules};
use core::ops::Deref;

pub mod attention;
pub mod conv;
pub mod data;
pub mod gemm;
pub mod index;
pub mod map;
pub mod names;
pub mod pool;
pub mod recurrent;
pub mod reduce;
pub mod resample;
pub mod sample;
pub mod select;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;

/// Number of kinds of ops.
const KINDS: usize = OpKind::ALL.len();

/// All ops for one backend, in the order of [`OpKind::ALL`].
const fn all<B: Backend>() -> [Entry; KINDS] {
    [
        gemm::entry::<B>(),
        conv::entry::<B>(),
        conv::depthwise::<B>(),
        pool::entry::<B>(),
        map::entry::<B>(),
        data::copy(),
        data::gather(),
        reduce::reduce::<B>(),
        reduce::softmax::<B>(),
        reduce::norm::<B>(),
        attention::entry::<B>(),
        recurrent::lstm::<B>(),
        recurrent::gru::<B>(),
        reduce::arg_reduce(),
        reduce::top_k(),
        stream::window(),
        data::external(),
        index::gather_nd(),
        index::scatter(),
        resample::resample::<B>(),
        resample::cumulate(),
        sample::grid_sample(),
        sample::roi_align(),
        select::non_zero(),
        select::non_max_suppression(),
    ]
}

/// All ops, for an instruction set.
///
/// # Errors
/// [`Kind::Isa`] when this CPU, or this build, does not have it.
#[cfg_attr(not(feature = "std"), inline)] // so that a firmware which names its ops does not even compile the others
pub fn set(isa: Isa) -> Result<&'static [Entry]> {
    if !isa.available() {
        return Err(Error::new(Kind::Isa, "this CPU does not have the instruction set that was asked for"));
    }
    crate::with_backend!(isa, B => Ok(const { &all::<B>() }), else {
        Err(Error::new(Kind::Isa, "this build has no kernels for the instruction set that was asked for"))
    })
}

/// One op of a program, as an evaluator sees it: its place in the image, kind, operands and attributes.
#[derive(Clone, Copy, Debug)]
pub struct Op<'a> {
    /// Its number in the program.
    pub index: u32,
    /// What stands in the image.
    pub view: &'a OpView<'a>,
}

impl<'a> Deref for Op<'a> {
    type Target = OpView<'a>;
    #[inline]
    fn deref(&self) -> &OpView<'a> {
        self.view
    }
}

impl<'a> Op<'a> {
    /// The record and the tail.
    ///
    /// # Errors
    /// [`Kind::BadImage`], never for a checked image.
    pub fn record<R: Record>(&self) -> Result<(&'a R, &'a [u8])> {
        crate::program::split(self.view.attributes)
    }

    /// The number of an input tensor, if it is there.
    pub fn input(&self, i: usize) -> Option<u32> {
        self.inputs.get(i).copied().filter(|&t| t != NONE)
    }

    /// The number of an input tensor that the op can't do without.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it is absent, never for a checked image.
    pub fn needed_input(&self, i: usize) -> Result<u32> {
        self.input(i).ok_or(Error::new(Kind::BadImage, "an op lacks an input"))
    }

    /// The number of an output tensor that the op can't do without.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it is absent, never for a checked image.
    pub fn needed_output(&self, i: usize) -> Result<u32> {
        self.output(i).ok_or(Error::new(Kind::BadImage, "an op lacks an output"))
    }

    /// The number of an output tensor, if it is there.
    pub fn output(&self, i: usize) -> Option<u32> {
        self.outputs.get(i).copied().filter(|&t| t != NONE)
    }
}

/// An op's work units: pieces that can be computed one at a time, with the same bits as all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// How many there are.
    pub count: usize,
    /// Whether they are to be computed in turn, in one scratch memory; else any order, and any number at the same time, will do.
    pub in_turn: bool,
}

impl Units {
    /// One unit: an op that is not cut.
    pub const ONE: Units = Units::in_turn(1);

    /// Units that are independent of each other.
    pub const fn any(count: usize) -> Units {
        Units { count, in_turn: false }
    }

    /// Units of which each needs those before it.
    pub const fn in_turn(count: usize) -> Units {
        Units { count, in_turn: true }
    }
}

/// An evaluator: evaluates the units that the context asks for (of an op that is cut; an op of one unit asks
/// [`Context::units`] whether there is anything to do), and says how many the op has. That number never depends on the range.
pub type Eval = fn(&Context<'_>, &Op<'_>) -> Result<Units>;

/// A kind of op, its rules, and the function that evaluates it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The kind.
    pub kind: OpKind,
    /// What the check of an image asks of it.
    pub rules: Rules,
    /// Its evaluator.
    pub eval: Eval,
}

/// The entry of a kind.
pub(crate) fn find(set: &[Entry], kind: OpKind) -> Option<&Entry> {
    set.iter().find(|entry| entry.kind == kind)
}

impl<'a> Image<'a> {
    /// As [`Image::new`], for a build that links these ops and the rules of no others: an image with another op is refused. The
    /// [multiply-accumulates](crate::image::Program::macs) that a program states are not compared with those of its ops.
    ///
    /// # Errors
    /// As [`Image::new`]; [`Kind::MissingOp`].
    pub fn for_ops(bytes: &'a [u8], set: &[Entry]) -> Result<Image<'a>> {
        Self::with_rules(bytes, &|kind| find(set, kind).map(|entry| entry.rules))
    }
}

/// Evaluates extern ops: the host's part.
pub trait Externs: Send + Sync {
    /// Evaluates the op of this [`Extern::index`](crate::program::Extern).
    ///
    /// # Errors
    /// [`Kind::Extern`] when it fails.
    fn run(&self, index: u32, context: &Context<'_>, op: &Op<'_>) -> Result<()>;
}
