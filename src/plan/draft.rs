//! An owned program before it is placed: what lowering writes and planning reads.

use crate::program::{OpKind, Record};
use crate::tensor::{DType, Quantisation};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Number of a value in its [`Draft`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Number of a weight in its [`Model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// What a value's memory is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Storage {
    /// Planned in the arena, from its first write to its last use. An input of the program lives from the start to its last
    /// use, an output to the end.
    Arena,
    /// Kept in the arena from run to run; zero bytes after a reset.
    State,
    /// A weight of the model, read-only.
    Weight(WeightId),
    /// A part of another value's memory: a reshape, a slice of outer axes, a place in a concat that ops write into directly.
    /// A view of a view is allowed.
    View {
        /// The value it is a part of.
        of: ValueId,
        /// Where it starts, in bytes from that value's start.
        offset: u64,
    },
}

/// A tensor of a program.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name, for messages; names of inputs and outputs are those of the ONNX file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub dims: Vec<u32>,
    /// Its memory. Bytes are those of `dims`, unless `bytes` says more.
    pub storage: Storage,
    /// Bytes it owns: at least what `dims` need; more where ops with a pitch reach further (views into a concat).
    pub bytes: u64,
}

/// An op of a program.
#[derive(Clone, Debug)]
pub struct OpDraft {
    /// The ONNX nodes that it computes, joined by `+`, for messages and listings.
    pub name: String,
    /// Its kind.
    pub kind: OpKind,
    /// Its record and tail, as they will stand in the image.
    pub attributes: Vec<u8>,
    /// Inputs; `None` where an optional one is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs, likewise.
    pub outputs: Vec<Option<ValueId>>,
    /// Inputs (by position) that output 0 may share its memory with, if that input is not used afterwards.
    pub in_place: Vec<usize>,
}

impl OpDraft {
    /// An op of a record and its tail.
    pub fn new<R: Record>(name: impl Into<String>, kind: OpKind, record: &R, tail: &[u8]) -> OpDraft {
        let mut attributes = record.as_bytes().to_vec();
        attributes.extend_from_slice(tail);
        OpDraft { name: name.into(), kind, attributes, inputs: Vec::new(), outputs: Vec::new(), in_place: Vec::new() }
    }
}

/// An axis of an output whose length a run decides, up to its size. The output's elements, in row-major order by their actual
/// sizes, stand at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Number of the output in [`Draft::outputs`].
    pub output: usize,
    /// The axis.
    pub axis: u32,
    /// The length, when the run is over: one `i64`. It lives to the end, as outputs do.
    pub count: ValueId,
}

/// A program: one entry point of a model.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Its name; the only program of a model is `main`.
    pub name: String,
    /// Its tensors.
    pub values: Vec<Value>,
    /// Its ops, in the order in which they run.
    pub ops: Vec<OpDraft>,
    /// Inputs, in the model's order.
    pub inputs: Vec<ValueId>,
    /// Outputs, in the model's order.
    pub outputs: Vec<ValueId>,
    /// Inputs and outputs whose integers stand for real numbers.
    pub quantised: Vec<(ValueId, Quantisation)>,
    /// Axes of outputs whose lengths a run decides.
    pub lengths: Vec<Length>,
}

/// Writes bytes of a weight, in the layout that its op wants, into the image. Called once, by any
/// thread; fails with a message.
pub type Pack = Box<dyn FnOnce(&mut [u8]) -> Result<(), String> + Send>;

/// A weight, not yet packed: it goes from the mapped file straight into the image.
pub struct Weight {
    /// Its name, for messages.
    pub name: String,
    /// Bytes in the image. The packers get them zeroed.
    pub bytes: u64,
    /// They write them, one piece after the other.
    pub pieces: Vec<Piece>,
}

/// A piece of a weight: threads pack those of a large one side by side.
pub struct Piece {
    /// Its bytes.
    pub bytes: u64,
    /// Writes them.
    pub pack: Pack,
}

impl Weight {
    /// A weight in one piece.
    pub fn whole(name: String, bytes: u64, pack: impl FnOnce(&mut [u8]) -> Result<(), String> + Send + 'static) -> Weight {
        Weight { name, bytes, pieces: alloc::vec![Piece { bytes, pack: Box::new(pack) }] }
    }

    /// Its pieces, each with the memory that it writes, and the weight's name.
    pub fn jobs(self, mut to: &mut [u8]) -> Result<Vec<Job<'_>>, String> {
        let (name, all): (Arc<str>, u64) = (self.name.into(), self.pieces.iter().map(|p| p.bytes).sum());
        if all != to.len() as u64 {
            return Err(format!("weight \"{name}\": its pieces have {all} bytes, not {}", to.len()));
        }
        let mut jobs = Vec::with_capacity(self.pieces.len());
        for Piece { bytes, pack } in self.pieces {
            let (mine, rest) = to.split_at_mut(bytes as usize);
            to = rest;
            jobs.push(Job { name: name.clone(), pack, to: mine });
        }
        Ok(jobs)
    }
}

/// A piece and its place.
pub struct Job<'a> {
    name: Arc<str>,
    pack: Pack,
    to: &'a mut [u8],
}

impl Job<'_> {
    /// Packs it.
    pub fn run(self) -> Result<(), String> {
        (self.pack)(self.to).map_err(|what| format!("weight \"{}\": {what}", self.name))
    }
}

/// All that goes into an image.
#[derive(Default)]
pub struct Model {
    /// Programs, which share weights.
    pub programs: Vec<Draft>,
    /// Weights.
    pub weights: Vec<Weight>,
    /// Key and value of each metadata entry (the front end among them, see [`frontend`](crate::frontend)).
    pub metadata: Vec<(String, String)>,
}
