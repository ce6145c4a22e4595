//! A network as it was imported: nodes over named tensors, in terms close to ONNX's, shapes settled.
//!
//! `import` makes a graph from an ONNX file, `lower` rewrites it and turns it into programs. Nothing here knows tract or
//! protobuf. Tensors are laid out as ONNX lays them out (row-major, pictures channels-first).

use crate::program::{Binary, Join, ReduceKind, Unary};
use crate::tensor::DType;
use std::ops::Range;
use std::sync::Arc;

/// Number of a value in its [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// The bytes of a constant, little-endian, row-major.
#[derive(Clone)]
pub enum Bytes {
    /// In memory.
    Owned(Arc<[u8]>),
    /// In a mapped file: read when packed, never copied as a whole.
    Mapped {
        /// The file.
        file: Arc<memmap2::Mmap>,
        /// First byte.
        offset: usize,
        /// Number of bytes.
        len: usize,
    },
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Owned(b) => b,
            Bytes::Mapped { file, offset, len } => &file[*offset..*offset + *len],
        }
    }

    /// Copies these bytes of it. Memory of a mapped file is given back on the way: a large table is in memory once, not twice.
    ///
    /// # Panics
    /// If there are no such bytes, or `to` has another length.
    pub fn copy(&self, range: Range<usize>, to: &mut [u8]) {
        /// Large, next to what it takes to give memory back.
        const PART: usize = 256 << 10;
        let from = &self.as_slice()[range.clone()];
        match self {
            Bytes::Mapped { file, offset, .. } if from.len() > PART => {
                let mut at = offset + range.start;
                for (to, from) in to.chunks_mut(PART).zip(from.chunks(PART)) {
                    to.copy_from_slice(from);
                    crate::mapped::release_range(file, at..at + from.len());
                    at += from.len();
                }
            }
            _ => to.copy_from_slice(from),
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bytes::Owned(b) => write!(f, "{} bytes", b.len()),
            Bytes::Mapped { offset, len, .. } => write!(f, "{len} bytes of the file at {offset}"),
        }
    }
}

/// A tensor of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its ONNX name, as far as it survived; unique enough for messages.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub dims: Vec<usize>,
    /// Its bytes, if it is a constant.
    pub constant: Option<Bytes>,
}

/// The window of a convolution or pooling: one entry per spatial axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Kernel sizes.
    pub kernel: Vec<usize>,
    /// Strides.
    pub strides: Vec<usize>,
    /// Dilations.
    pub dilations: Vec<usize>,
    /// Padding before each axis.
    pub before: Vec<usize>,
    /// Padding after each axis (auto_pad resolved; what ceil_mode adds is not counted).
    pub after: Vec<usize>,
}

/// Activation functions of a recurrent cell, with parameters (alpha, beta).
pub type Activation = (Unary, [f32; 2]);

/// A recurrent cell: inputs as ONNX's, absent ones `None`; outputs Y, Y_h (and Y_c), absent ones `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// Hidden units.
    pub hidden: usize,
    /// Directions: `false` forward, `true` reverse; one or two entries.
    pub directions: Vec<bool>,
    /// Activations: per direction 3 (LSTM: f, g, h), 2 (GRU: f, g), 1 (RNN).
    pub activations: Vec<Activation>,
    /// Pre-activations are clipped to `-clip..clip`, if given.
    pub clip: Option<f32>,
    /// LSTM: the forget gate is 1 - input gate.
    pub coupled: bool,
    /// GRU.
    pub linear_before_reset: bool,
    /// ONNX's `layout` = 1: batch first.
    pub batch_first: bool,
}

/// What a node computes.
#[derive(Clone, Debug)]
pub enum Op {
    /// Inputs X `[N, C, spatial…]` (or without N), W `[O, C/groups, kernel…]`, bias (optional).
    Conv {
        /// Window.
        window: Window,
        /// Groups.
        groups: usize,
    },
    /// Inputs X, W `[C, O/groups, kernel…]`, bias (optional).
    ConvTranspose {
        /// Window.
        window: Window,
        /// Groups.
        groups: usize,
        /// Rows added at the end of each axis.
        output_padding: Vec<usize>,
    },
    /// Input X.
    MaxPool {
        /// Window.
        window: Window,
    },
    /// Input X.
    AveragePool {
        /// Window.
        window: Window,
        /// Padding counts as zeros.
        count_include_pad: bool,
    },
    /// Maximum or mean over all spatial axes (kept, with size 1). Input X.
    GlobalPool {
        /// Maximum instead of mean.
        max: bool,
    },
    /// Inference form. Inputs X, scale, bias, mean, variance, each `[C]`.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Over the axes from `axis` on. Inputs X, scale (optional), bias (optional), of the normalised axes' shape or one that
    /// broadcasts to it.
    LayerNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        epsilon: f32,
        /// The mean is not subtracted.
        rms: bool,
    },
    /// Over `groups` of channels (InstanceNormalization: as many groups as channels). Inputs X, scale `[C]`, bias `[C]`.
    GroupNorm {
        /// Groups.
        groups: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Along one axis.
    Softmax {
        /// The axis.
        axis: usize,
        /// Its logarithm.
        log: bool,
    },
    /// A sum of products: the axes of each input and of the output, by letters. MatMul and Gemm become this. Where an input
    /// has size 1 on a letter that is larger elsewhere, it is broadcast.
    EinSum {
        /// Letters of each input's axes.
        inputs: Vec<String>,
        /// Letters of the output's axes.
        output: String,
    },
    /// Element-wise function of one input, with parameters.
    Unary(Unary, [f32; 2]),
    /// Element-wise function of two inputs, broadcast as numpy does.
    Binary(Binary),
    /// Inputs condition (bool), a, b; broadcast as numpy does.
    Select,
    /// To the output's element type.
    Cast,
    /// Over these axes; the output keeps them with size 1.
    Reduce {
        /// What is computed.
        kind: ReduceKind,
        /// The axes.
        axes: Vec<usize>,
    },
    /// Index of the largest (smallest) along one axis, kept with size 1; `i64`.
    ArgReduce {
        /// The axis.
        axis: usize,
        /// The smallest.
        min: bool,
        /// The last of equal values.
        last: bool,
    },
    /// Values and indices (`i64`; optional) of the largest (smallest) along one axis, in order; as many as the output has.
    TopK {
        /// The axis.
        axis: usize,
        /// The smallest.
        min: bool,
    },
    /// Output axis `i` is input axis `perm[i]`.
    Transpose(Vec<usize>),
    /// The same elements in the output's shape; the same bits, where its element type is another of the same size.
    Reshape,
    /// Along one axis, from `start`, as many as the output has.
    Slice {
        /// The axis.
        axis: usize,
        /// First element.
        start: usize,
        /// Distance between elements; negative: backwards.
        step: isize,
    },
    /// Along one axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// With a constant, given as the bits of one element.
    Pad {
        /// Elements before each axis.
        before: Vec<usize>,
        /// The value's bytes, of the element type.
        value: Vec<u8>,
    },
    /// To the output's shape, as numpy does.
    Broadcast,
    /// In a stream: the last elements along `axis`, as many as the output has; the input brings one more with each run. Before
    /// the stream's start there were zeros.
    Window {
        /// The axis.
        axis: usize,
    },
    /// Rows of input 0 along `axis` by the indices of input 1 (any rank).
    Gather {
        /// The axis.
        axis: usize,
    },
    /// Per element of input 1 (indices) the element of input 0 at that index along `axis`, and at the index's own place
    /// along the others.
    GatherElements {
        /// The axis.
        axis: usize,
    },
    /// Per tuple of indices, which the last axis of input 1 holds, the row of input 0 that it names; the first `batch` axes
    /// of both are walked together.
    GatherNd {
        /// Leading axes that are no indices.
        batch: usize,
    },
    /// Input 0 with the elements of input 2 written to the places that input 1 names, as in `GatherElements`.
    ScatterElements {
        /// The axis.
        axis: usize,
        /// How they join what is there.
        join: Join,
    },
    /// Input 0 with the rows of input 2 written to the places that input 1 names, as in `GatherNd`.
    ScatterNd {
        /// How they join what is there.
        join: Join,
    },
    /// Along one axis, each element of the output is a weighted sum: inputs X, places (`i32`, `[size of the output's axis,
    /// terms]`), weights (`f32`, the same shape).
    Resample {
        /// The axis.
        axis: usize,
    },
    /// Elements of pictures at places of a grid: inputs X `[N, C, spatial…]`, grid `[N, spatial…, axes]`.
    GridSample {
        /// The nearest element (0), linear (1) or cubic (2).
        mode: u32,
        /// Outside are zeros (0), the border (1), the picture reflected (2).
        padding: u32,
        /// -1 and 1 are the centres of the outermost elements.
        corners: bool,
    },
    /// Regions of pictures as maps of one size: inputs X, regions `[R, 4]`, the picture of each (`i64`).
    RoiAlign {
        /// Samples per cell and axis; 0: as many as the cell has pixels.
        samples: usize,
        /// From the regions' coordinates to those of the map.
        scale: f32,
        /// Coordinates are of pixels' centres.
        half_pixel: bool,
        /// The maximum instead of the mean.
        max: bool,
    },
    /// Where a mask is true: input `bool`, `[n]`; outputs the indices of its true elements in ascending order (`i64`,
    /// `[bound]`) and how many they are, at the most `bound` (`i64`, `[1]`). The places behind them repeat the
    /// last index; without a true element they are zero.
    NonZero,
    /// Boxes by descending score, per picture and class, that overlap none kept before them by more than a share of their
    /// union (ONNX's NonMaxSuppression). Inputs boxes `[batch, boxes, 4]`, scores `[batch, classes, boxes]`, how many a class
    /// keeps (`i64`, `[1]`), the share (`f32`, `[1]`; absent: 0), the score that a box must exceed (`f32`, `[1]`; absent:
    /// any). Outputs rows of (picture, class, box) (`i64`, `[bound, 3]`) and how many there are, at the most `bound` (`i64`,
    /// `[1]`). The rows behind them repeat the last; without a box they are zero.
    NonMaxSuppression {
        /// Boxes are (x centre, y centre, width, height), not two corners (y, x, y, x).
        centred: bool,
    },
    /// Sums (or products) of all elements up to each, along one axis.
    Cumulate {
        /// The axis.
        axis: usize,
        /// Products.
        product: bool,
        /// Without the element itself.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// Inputs X, W, R, B, sequence_lens, initial_h, initial_c, P.
    Lstm(Recurrent),
    /// Inputs X, W, R, B, sequence_lens, initial_h.
    Gru(Recurrent),
    /// Inputs X, W, R, B, sequence_lens, initial_h.
    Rnn(Recurrent),
    /// To the output's integer type: `saturate(round(x / scale) + zero)`, ties to even. Inputs X, scale, zero point
    /// (optional). Scale and zero point are scalars, or have one element per index of `axis`, or one per block of it.
    Quantize {
        /// The axis.
        axis: usize,
        /// Elements of `axis` that share a scale; 0: not blocked.
        block: usize,
    },
    /// `(x - zero) * scale`. Inputs X, scale, zero point (optional), as for `Quantize`.
    Dequantize {
        /// The axis.
        axis: usize,
        /// Elements of `axis` that share a scale; 0: not blocked.
        block: usize,
    },
    /// No native form: the host evaluates the node by its [recipe](Node::recipe).
    Extern {
        /// Why.
        reason: String,
    },
}

/// A node of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// The ONNX node's name (or its first output's).
    pub name: String,
    /// The ONNX op type, for messages.
    pub op_type: String,
    /// What it computes.
    pub op: Op,
    /// Inputs; `None` where an optional one is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs; `None` where an optional one is not wanted.
    pub outputs: Vec<Option<ValueId>>,
    /// By which the host can evaluate the node as it was imported, whatever its op: the importer's number of it. The op of
    /// a program that uses it ([`Extern`](crate::program::Extern)) takes those of `inputs` that are there and are not
    /// constants, in their order, and yields those of `outputs` that are there. `None` for a node that lowering made.
    pub recipe: Option<u32>,
}

/// An axis of an output whose length a run decides: its size in `dims` is the most. The output's elements, in row-major order by
/// their actual sizes, stand at its beginning; what lies behind them means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Number of the output in [`Graph::outputs`].
    pub output: usize,
    /// The axis.
    pub axis: usize,
    /// The length, when the run is over: `i64`, `[1]`.
    pub count: ValueId,
}

/// A network.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Tensors.
    pub values: Vec<Value>,
    /// Nodes, in an order in which they can run.
    pub nodes: Vec<Node>,
    /// Inputs, in the file's order (initializers excluded), with their ONNX names.
    pub inputs: Vec<ValueId>,
    /// Outputs, in the file's order, with their ONNX names.
    pub outputs: Vec<ValueId>,
    /// Axes of outputs whose lengths a run decides.
    pub lengths: Vec<Length>,
    /// `metadata_props` of the file.
    pub metadata: Vec<(String, String)>,
}
