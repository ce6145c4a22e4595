//! What a program is: op records with their attributes, operands, shape rule and cost.
//!
//! This is the one vocabulary that [`lower`](crate) writes, `plan` places, `image` stores and `ops` runs; it knows none
//! of them. A **program** is a list of tensors and a list of ops in the order in which they run. An **op** is a
//! [kind](OpKind), operands (numbers of tensors, [`NONE`] where an optional one is absent; inputs first, then outputs)
//! and attributes: a plain record of 32-bit words ([`Gemm`], [`Conv`] …), for some kinds with a tail.
//!
//! Records carry their whole geometry in numbers (sizes and strides in elements), so that an evaluator never looks at a
//! tensor's shape, and so that views, batch axes and layouts cost nothing at run time. Each record can say whether its
//! operands are large enough for all that it will touch ([`Record::check`]), how much scratch it needs
//! ([`Record::scratch`]) and how much work it is ([`Record::macs`]). What `check` has passed, an evaluator trusts.
//!
//! Rules that hold for all records:
//! * Element types: unless a record says otherwise, data operands are `f32`.
//! * Nothing in a record depends on a kernel's row count or on an instruction set.
//! * A vector load may read up to [`SLACK`] bytes past the end of a tensor; a store never does.

pub mod attention;
pub mod conv;
pub mod cut;
pub mod data;
pub mod gemm;
pub mod index;
pub mod map;
pub mod recurrent;
pub mod reduce;
pub mod resample;
pub mod sample;
pub mod select;
pub mod stream;

pub use attention::Attention;
pub use conv::{Conv, Pool, PoolKind};
pub use cut::{Cut, Tile};
pub use data::{Copy, Extern, Gather};
pub use gemm::{Epilogue, Gemm, PANEL, SLAB, SLAB_UNIT, packed_len, slabs_len};
pub use index::{Index, Join};
pub use map::{Binary, Domain, Instruction, Map, Unary};
pub use recurrent::{Gru, Lstm, Steps, hidden_padded};
pub use reduce::{ArgReduce, Norm, Reduce, ReduceKind, Softmax, TopK};
pub use resample::{Cumulate, Resample};
pub use sample::{GridSample, RoiAlign};
pub use select::{NonMaxSuppression, NonZero};
pub use stream::Window;

use crate::error::{Error, Kind, Result};
use crate::tensor::DType;

/// The operand number of an optional operand that is absent.
pub const NONE: u32 = u32::MAX;

/// Bytes that a vector load may read past a tensor's end: one AVX-512 register. Arenas and images end with as much.
pub const SLACK: usize = 64;

/// The kind of an op. The numbers are those stored in an image and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum OpKind {
    /// [`Gemm`]: matrix product with epilogue.
    Gemm = 1,
    /// [`Conv`]: convolution, NHWC, any group, with epilogue.
    Conv = 2,
    /// [`Conv`] with one input channel per group and as many groups as output channels.
    Depthwise = 3,
    /// [`Pool`]: maximum or average over windows.
    Pool = 4,
    /// [`Map`]: a small element-wise program.
    Map = 5,
    /// [`Copy`](data::Copy): strided copy (transpose, slice, concat, pad, expand).
    Copy = 6,
    /// [`Gather`]: rows of a table by index.
    Gather = 7,
    /// [`Reduce`].
    Reduce = 8,
    /// [`Softmax`], also of logarithms.
    Softmax = 9,
    /// [`Norm`]: layer and root-mean-square normalisation.
    Norm = 10,
    /// [`Attention`].
    Attention = 11,
    /// [`Lstm`]: the recurrent part.
    Lstm = 12,
    /// [`Gru`]: the recurrent part.
    Gru = 13,
    /// [`ArgReduce`]: arg-max and arg-min.
    ArgReduce = 14,
    /// [`TopK`].
    TopK = 15,
    /// [`Window`]: the last rows of a stream.
    Window = 16,
    /// [`Extern`]: an op that the host resolves.
    Extern = 17,
    /// [`Index`]: rows that tuples of indices name.
    GatherNd = 18,
    /// [`Index`]: rows written, or joined, where tuples of indices say.
    Scatter = 19,
    /// [`Resample`]: weighted sums along an axis.
    Resample = 20,
    /// [`Cumulate`]: running sums and products.
    Cumulate = 21,
    /// [`GridSample`]: elements of pictures at places of a grid.
    GridSample = 22,
    /// [`RoiAlign`]: regions of pictures as maps of one size.
    RoiAlign = 23,
    /// [`NonZero`]: where a mask is true.
    NonZero = 24,
    /// [`NonMaxSuppression`]: boxes that stand for those which overlap them.
    NonMaxSuppression = 25,
}

impl OpKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [OpKind; 25] = [
        OpKind::Gemm,
        OpKind::Conv,
        OpKind::Depthwise,
        OpKind::Pool,
        OpKind::Map,
        OpKind::Copy,
        OpKind::Gather,
        OpKind::Reduce,
        OpKind::Softmax,
        OpKind::Norm,
        OpKind::Attention,
        OpKind::Lstm,
        OpKind::Gru,
        OpKind::ArgReduce,
        OpKind::TopK,
        OpKind::Window,
        OpKind::Extern,
        OpKind::GatherNd,
        OpKind::Scatter,
        OpKind::Resample,
        OpKind::Cumulate,
        OpKind::GridSample,
        OpKind::RoiAlign,
        OpKind::NonZero,
        OpKind::NonMaxSuppression,
    ];

    /// The kind with this number, if there is one.
    pub const fn from_number(number: u16) -> Option<OpKind> {
        // Not by the list: a compiler sees that this is the number itself.
        Some(match number {
            1 => OpKind::Gemm,
            2 => OpKind::Conv,
            3 => OpKind::Depthwise,
            4 => OpKind::Pool,
            5 => OpKind::Map,
            6 => OpKind::Copy,
            7 => OpKind::Gather,
            8 => OpKind::Reduce,
            9 => OpKind::Softmax,
            10 => OpKind::Norm,
            11 => OpKind::Attention,
            12 => OpKind::Lstm,
            13 => OpKind::Gru,
            14 => OpKind::ArgReduce,
            15 => OpKind::TopK,
            16 => OpKind::Window,
            17 => OpKind::Extern,
            18 => OpKind::GatherNd,
            19 => OpKind::Scatter,
            20 => OpKind::Resample,
            21 => OpKind::Cumulate,
            22 => OpKind::GridSample,
            23 => OpKind::RoiAlign,
            24 => OpKind::NonZero,
            25 => OpKind::NonMaxSuppression,
            _ => return None,
        })
    }

    /// The name used in listings (`gemm`, `conv` …).
    pub const fn name(self) -> &'static str {
        match self {
            OpKind::Gemm => "gemm",
            OpKind::Conv => "conv",
            OpKind::Depthwise => "depthwise",
            OpKind::Pool => "pool",
            OpKind::Map => "map",
            OpKind::Copy => "copy",
            OpKind::Gather => "gather",
            OpKind::Reduce => "reduce",
            OpKind::Softmax => "softmax",
            OpKind::Norm => "norm",
            OpKind::Attention => "attention",
            OpKind::Lstm => "lstm",
            OpKind::Gru => "gru",
            OpKind::ArgReduce => "arg_reduce",
            OpKind::TopK => "top_k",
            OpKind::Window => "window",
            OpKind::Extern => "extern",
            OpKind::GatherNd => "gather_nd",
            OpKind::Scatter => "scatter",
            OpKind::Resample => "resample",
            OpKind::Cumulate => "cumulate",
            OpKind::GridSample => "grid_sample",
            OpKind::RoiAlign => "roi_align",
            OpKind::NonZero => "non_zero",
            OpKind::NonMaxSuppression => "non_max_suppression",
        }
    }
}

/// What a record may ask about one operand.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Bytes that the tensor owns.
    pub bytes: u64,
}

impl Operand {
    /// Whether the operand holds `elements` elements of type `dtype`.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it does not.
    #[cfg_attr(target_os = "none", inline(never))] // as `reach`
    pub fn holds(&self, dtype: DType, elements: u64) -> Result<()> {
        if self.dtype != dtype {
            return Err(Error::new(Kind::BadImage, "an operand's element type is not the one its op works on"));
        }
        match elements.checked_mul(dtype.size() as u64) {
            Some(bytes) if bytes <= self.bytes => Ok(()),
            _ => Err(Error::new(Kind::BadImage, "an op reaches past the end of an operand")),
        }
    }
}

/// The operands of one op, as a record's check sees them.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// Numbers of the inputs; [`NONE`] where an optional one is absent.
    pub inputs: &'a [u32],
    /// Numbers of the outputs, likewise.
    pub outputs: &'a [u32],
    /// What there is to know of the operand of a number. Asked one by one: a table of them would be on a device's small stack.
    pub of: &'a dyn Fn(u32) -> Option<Operand>,
}

impl Operands<'_> {
    /// The input of this number, which must be there.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it is absent.
    pub fn input(&self, i: usize) -> Result<Operand> {
        self.optional_input(i).ok_or(Error::new(Kind::BadImage, "an op lacks an input"))
    }

    /// The input of this number, if it is there.
    pub fn optional_input(&self, i: usize) -> Option<Operand> {
        self.operand(self.inputs, i)
    }

    /// The output of this number, which must be there.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it is absent.
    pub fn output(&self, i: usize) -> Result<Operand> {
        self.optional_output(i).ok_or(Error::new(Kind::BadImage, "an op lacks an output"))
    }

    /// The output of this number, if it is there.
    pub fn optional_output(&self, i: usize) -> Option<Operand> {
        self.operand(self.outputs, i)
    }

    fn operand(&self, numbers: &[u32], i: usize) -> Option<Operand> {
        numbers.get(i).filter(|&&number| number != NONE).and_then(|&number| (self.of)(number))
    }

    /// Checks that the input of this number is there and holds so many `f32`.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it does not.
    #[cfg_attr(target_os = "none", inline(never))] // many calls: small rather than fast on a device
    pub fn reads(&self, i: usize, elements: u64) -> Result<()> {
        self.input(i)?.holds(DType::F32, elements)
    }

    /// Checks that the output of this number is there and holds so many `f32`.
    ///
    /// # Errors
    /// [`Kind::BadImage`] when it does not.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn writes(&self, i: usize, elements: u64) -> Result<()> {
        self.output(i)?.holds(DType::F32, elements)
    }

    /// Calls `run` with these as operands, numbered one after another.
    #[cfg(test)]
    pub(crate) fn with<T>(inputs: &[Option<Operand>], outputs: &[Option<Operand>], run: impl FnOnce(&Operands<'_>) -> T) -> T {
        let all = [inputs, outputs].concat();
        let number = |(i, operand): (usize, &Option<Operand>)| if operand.is_some() { i as u32 } else { NONE };
        let numbers: Vec<u32> = all.iter().enumerate().map(number).collect();
        let (inputs, outputs) = numbers.split_at(inputs.len());
        run(&Operands { inputs, outputs, of: &|number| all[number as usize] })
    }
}

/// A record of attributes: plain 32-bit words.
pub trait Record: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::KnownLayout + zerocopy::Immutable {
    /// Checks that every number makes sense and that the operands hold all that the op will touch. `tail` is what
    /// follows the record in the op's attributes.
    ///
    /// # Errors
    /// [`Kind::BadImage`], saying what is wrong.
    fn check(&self, tail: &[u8], operands: &Operands<'_>) -> Result<()>;

    /// Whether it may need scratch memory. Where it says no, [`scratch`](Record::scratch) is never asked.
    const SCRATCH: bool = true;

    /// Bytes of scratch memory, aligned to 64 bytes, that any of the kernels needs while the op runs.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        0
    }

    /// Multiply-accumulates of one run.
    fn macs(&self) -> u64 {
        0
    }

    /// How often its loops go round, an axis of no elements counted as one. [`macs`](Record::macs) and the operands' bytes bound
    /// that for all axes that have elements; beside one that has none, nothing would bound the others.
    fn rounds(&self) -> u64;

    /// The work of its largest [unit](cut) with kernels of such tiles: multiply-accumulates, or, where [`macs`](Record::macs)
    /// is 0, elements that are written (0 where the record does not say: ops that are rare, small and one unit).
    fn unit_work(&self, _tile: Tile) -> u64 {
        self.macs()
    }
}

/// Calls `$run::<R>` with the record type of a kind: the one place that knows which kind has which record.
macro_rules! dispatch {
    ($kind:expr, $run:ident, ($($argument:expr),*)) => {
        match $kind {
            OpKind::Gemm => $run::<Gemm>($($argument),*),
            OpKind::Conv => $run::<Conv>($($argument),*),
            OpKind::Depthwise => $run::<conv::Depthwise>($($argument),*),
            OpKind::Pool => $run::<Pool>($($argument),*),
            OpKind::Map => $run::<Map>($($argument),*),
            OpKind::Copy => $run::<Copy>($($argument),*),
            OpKind::Gather => $run::<Gather>($($argument),*),
            OpKind::Reduce => $run::<Reduce>($($argument),*),
            OpKind::Softmax => $run::<Softmax>($($argument),*),
            OpKind::Norm => $run::<Norm>($($argument),*),
            OpKind::Attention => $run::<Attention>($($argument),*),
            OpKind::Lstm => $run::<Lstm>($($argument),*),
            OpKind::Gru => $run::<Gru>($($argument),*),
            OpKind::ArgReduce => $run::<ArgReduce>($($argument),*),
            OpKind::TopK => $run::<TopK>($($argument),*),
            OpKind::Window => $run::<Window>($($argument),*),
            OpKind::Extern => $run::<Extern>($($argument),*),
            OpKind::GatherNd => $run::<Index>($($argument),*),
            OpKind::Scatter => $run::<index::Scatter>($($argument),*),
            OpKind::Resample => $run::<Resample>($($argument),*),
            OpKind::Cumulate => $run::<Cumulate>($($argument),*),
            OpKind::GridSample => $run::<GridSample>($($argument),*),
            OpKind::RoiAlign => $run::<RoiAlign>($($argument),*),
            OpKind::NonZero => $run::<NonZero>($($argument),*),
            OpKind::NonMaxSuppression => $run::<NonMaxSuppression>($($argument),*),
        }
    };
}
/// What an image's check asks about the ops of one kind. Functions, so that a build with few kinds links the rules of no
/// others.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// [`Record::check`] of an op's attributes. Fails with [`Kind::BadImage`].
    pub check: fn(&[u8], &Operands<'_>) -> Result<()>,
    /// [`Record::scratch`], likewise.
    pub scratch: fn(&[u8]) -> Result<u64>,
}

impl Rules {
    /// The rules of a record.
    pub const fn of<R: Record>() -> Rules {
        fn check<R: Record>(attributes: &[u8], operands: &Operands<'_>) -> Result<()> {
            let (record, tail) = split::<R>(attributes)?;
            record.check(tail, operands)
        }
        fn scratch<R: Record>(attributes: &[u8]) -> Result<u64> {
            let (record, tail) = split::<R>(attributes)?;
            Ok(record.scratch(tail))
        }
        fn none(_: &[u8]) -> Result<u64> {
            Ok(0)
        }
        Rules { check: check::<R>, scratch: if R::SCRATCH { scratch::<R> } else { none } }
    }

    /// The rules of a kind.
    pub fn of_kind(kind: OpKind) -> Rules {
        fn of<R: Record>() -> Rules {
            Rules::of::<R>()
        }
        dispatch!(kind, of, ())
    }
}

/// The shape rule of an op of any kind: see [`Record::check`].
///
/// # Errors
/// [`Kind::BadImage`], saying what is wrong.
pub fn check(kind: OpKind, attributes: &[u8], operands: &Operands<'_>) -> Result<()> {
    (Rules::of_kind(kind).check)(attributes, operands)
}

/// Scratch bytes of an op of any kind: see [`Record::scratch`].
///
/// # Errors
/// [`Kind::BadImage`] when the attributes are too short.
pub fn scratch(kind: OpKind, attributes: &[u8]) -> Result<u64> {
    (Rules::of_kind(kind).scratch)(attributes)
}

/// Multiply-accumulates of an op of any kind: see [`Record::macs`].
///
/// # Errors
/// [`Kind::BadImage`] when the attributes are too short.
pub fn macs(kind: OpKind, attributes: &[u8]) -> Result<u64> {
    fn run<R: Record>(attributes: &[u8]) -> Result<u64> {
        Ok(split::<R>(attributes)?.0.macs())
    }
    dispatch!(kind, run, (attributes))
}

/// How often the loops of an op of any kind go round: see [`Record::rounds`].
///
/// # Errors
/// [`Kind::BadImage`] when the attributes are too short.
pub fn rounds(kind: OpKind, attributes: &[u8]) -> Result<u64> {
    fn run<R: Record>(attributes: &[u8]) -> Result<u64> {
        Ok(split::<R>(attributes)?.0.rounds())
    }
    dispatch!(kind, run, (attributes))
}

/// The work of the largest unit of an op of any kind: see [`Record::unit_work`].
///
/// # Errors
/// [`Kind::BadImage`] when the attributes are too short.
pub fn unit_work(kind: OpKind, attributes: &[u8], tile: Tile) -> Result<u64> {
    fn run<R: Record>(attributes: &[u8], tile: Tile) -> Result<u64> {
        Ok(split::<R>(attributes)?.0.unit_work(tile))
    }
    dispatch!(kind, run, (attributes, tile))
}

/// An op's record and the tail behind it.
///
/// # Errors
/// [`Kind::BadImage`] when the attributes are too short or not aligned to 4 bytes.
pub fn split<R: Record>(attributes: &[u8]) -> Result<(&R, &[u8])> {
    R::ref_from_prefix(attributes).map_err(|_| Error::new(Kind::BadImage, "an op's attributes are too short"))
}

/// The number of elements that strided accesses reach: one past the largest `sum((size - 1) * stride)`, 0 if any size is
/// 0; `None` on overflow or a negative stride (records that allow those check on their own).
pub(crate) fn extent(axes: &[(u32, u32)]) -> Option<u64> {
    let mut last = 0u64;
    for &(size, stride) in axes {
        if size == 0 {
            return Some(0);
        }
        last = last.checked_add((size as u64 - 1).checked_mul(stride as u64)?)?;
    }
    last.checked_add(1)
}

/// Shorthand for a failed check.
#[cold]
#[cfg_attr(target_os = "none", inline(never))] // many calls, rare ones: small rather than fast on a device
pub(crate) const fn bad<T>(what: &'static str) -> Result<T> {
    Err(Error::new(Kind::BadImage, what))
}

/// The product of these, at most the largest number that there is.
#[cfg_attr(target_os = "none", inline(never))] // as `reach`
pub(crate) fn work(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor))
}

/// [`Record::rounds`] over axes of these sizes.
pub(crate) fn rounds_of(sizes: &[u32]) -> u64 {
    sizes.iter().fold(1, |rounds: u64, &size| rounds.saturating_mul(size.max(1) as u64))
}

/// [`extent`], where an overflow is an error.
#[cfg_attr(target_os = "none", inline(never))] // many calls, rare ones: small rather than fast on a device
pub(crate) fn reach(axes: &[(u32, u32)]) -> Result<u64> {
    extent(axes).ok_or(Error::new(Kind::BadImage, "an op's strides overflow"))
}
