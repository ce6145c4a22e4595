//! Small models made by hand, for tests that need an image: convolution, pooling, matrix product; ops that go by indices; ops that
//! choose; outputs whose lengths a run decides.

use kiln::plan::draft::{Draft, Length, Model, OpDraft, Storage, Value, ValueId, Weight, WeightId};
use kiln::plan::{self, Built};
use kiln::program::index::Scatter;
use kiln::program::{ArgReduce, Conv, Copy, Cumulate, Epilogue, Gemm, GridSample, Index, Join, NonMaxSuppression, NonZero};
use kiln::program::{OpKind, Pool, Reduce, ReduceKind, Resample, RoiAlign, TopK, Unary};
use kiln::tensor::DType;

fn value(name: &str, dims: &[u32], storage: Storage) -> Value {
    let bytes = 4 * dims.iter().map(|&d| d as u64).product::<u64>();
    Value { name: name.into(), dtype: DType::F32, dims: dims.to_vec(), storage, bytes }
}

fn integers(name: &str, dims: &[u32], dtype: DType, storage: Storage) -> Value {
    let bytes = dtype.size() as u64 * dims.iter().map(|&d| d as u64).product::<u64>();
    Value { dtype, bytes, ..value(name, dims, storage) }
}

fn op(name: &str, mut op: OpDraft, inputs: &[u32], output: u32) -> OpDraft {
    op.name = name.into();
    op.inputs = inputs.iter().map(|&v| Some(ValueId(v))).collect();
    op.outputs = vec![Some(ValueId(output))];
    op
}

fn weight(name: &str, elements: u64) -> Weight {
    Weight::whole(name.into(), 4 * elements, |to| {
        for (i, cell) in to.chunks_exact_mut(4).enumerate() {
            cell.copy_from_slice(&((i % 7) as f32 * 0.25 - 0.75).to_le_bytes());
        }
        Ok(())
    })
}

/// x `[1][6][6][3]` -> convolution 3x3 to 16 channels, ReLU -> pooling 2x2 -> product to y `[10]`.
pub fn image() -> Built {
    let conv = Conv {
        batch: 1,
        in_h: 6,
        in_w: 6,
        in_c: 3,
        out_h: 6,
        out_w: 6,
        out_c: 16,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 1,
        pad_left: 1,
        groups: 1,
        in_pitch: 3,
        out_pitch: 16,
        epilogue: Epilogue { activation: Unary::Clip as u32, p: [0.0, f32::INFINITY], ..Epilogue::NONE },
    };
    let pool = Pool {
        kind: 0,
        batch: 1,
        in_h: 6,
        in_w: 6,
        channels: 16,
        out_h: 3,
        out_w: 3,
        kernel_h: 2,
        kernel_w: 2,
        stride_h: 2,
        stride_w: 2,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: 0,
        pad_left: 0,
        pad_bottom: 0,
        pad_right: 0,
        in_pitch: 16,
        out_pitch: 16,
    };
    let main = Draft {
        name: "main".into(),
        values: vec![
            value("x", &[1, 6, 6, 3], Storage::Arena),
            value("conv.weight", &[27, 16], Storage::Weight(WeightId(0))),
            value("map", &[1, 6, 6, 16], Storage::Arena),
            value("pooled", &[1, 3, 3, 16], Storage::Arena),
            value("dense.weight", &[144, 16], Storage::Weight(WeightId(1))),
            value("y", &[10], Storage::Arena),
        ],
        ops: vec![
            op("conv", OpDraft::new("", OpKind::Conv, &conv, &[]), &[0, 1], 2),
            op("pool", OpDraft::new("", OpKind::Pool, &pool, &[]), &[2], 3),
            op("dense", OpDraft::new("", OpKind::Gemm, &Gemm::dense(1, 10, 144), &[]), &[3, 4], 5),
        ],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(5)],
        ..Draft::default()
    };
    let weights = vec![weight("conv.weight", 27 * 16), weight("dense.weight", 144 * 16)];
    let model = Model { programs: vec![main], weights, metadata: vec![("kiln.test".into(), "a value".into())] };
    plan::build(model, &plan::Options::default()).expect("the model is sound")
}

/// x `[4][6]` -> the three largest of each row and where they were -> those places gathered from x, and added to it at
/// constant places -> running sums -> resized, and read between the elements by x itself as a grid, and by regions.
#[allow(dead_code)]
pub fn indexed() -> Built {
    let places = |name: &str, dtype: DType, values: &'static [i64]| {
        Weight::whole(name.into(), (values.len() * dtype.size()) as u64, move |to| {
            for (cell, v) in to.chunks_exact_mut(dtype.size()).zip(values) {
                cell.copy_from_slice(&v.to_le_bytes()[..dtype.size()]);
            }
            Ok(())
        })
    };
    let mut along = Index::new(4, 1);
    (along.rank, along.depth) = (2, 1);
    along.dims[..2].copy_from_slice(&[4, 3]);
    along.base[0] = 6;
    (along.sizes[0], along.strides[0]) = (6, 1);
    let mut tuples = Index::new(4, 3);
    (tuples.rank, tuples.depth, tuples.join) = (1, 2, Join::Add as u32);
    tuples.dims[0] = 4;
    tuples.sizes[..2].copy_from_slice(&[4, 2]);
    tuples.strides[..2].copy_from_slice(&[6, 3]);
    let grid = GridSample { batch: 1, channels: 1, axes: 2, sizes: [4, 6, 1], points: 12, mode: 2, padding: 2, corners: 1 };
    let regions = RoiAlign {
        batch: 1,
        channels: 1,
        height: 4,
        width: 6,
        regions: 6,
        out_h: 2,
        out_w: 2,
        samples: 2,
        scale: 0.5,
        half_pixel: 1,
        max: 1,
    };
    let arena = Storage::Arena;
    let kept = |i: u32| Storage::Weight(WeightId(i));
    let main = Draft {
        name: "main".into(),
        values: vec![
            value("x", &[4, 6], arena),
            value("largest", &[4, 3], arena),
            integers("places", &[4, 3], DType::I64, arena),
            value("gathered", &[4, 3], arena),
            integers("tuples", &[4, 2], DType::I32, kept(0)),
            value("added", &[4, 6], arena),
            value("sums", &[4, 6], arena),
            integers("taps", &[9, 2], DType::I32, kept(1)),
            value("weights", &[9, 2], kept(2)),
            value("resized", &[4, 9], arena),
            value("sampled", &[12], arena),
            integers("pictures", &[6], DType::I64, kept(3)),
            value("regions", &[6, 1, 2, 2], arena),
        ],
        ops: vec![
            {
                let top = TopK { outer: 4, len: 6, inner: 1, k: 3, min: 0 };
                let mut top = op("top", OpDraft::new("", OpKind::TopK, &top, &[]), &[0], 1);
                top.outputs.push(Some(ValueId(2)));
                top
            },
            op("gather", OpDraft::new("", OpKind::GatherNd, &along, &[]), &[0, 2], 3),
            op("scatter", OpDraft::new("", OpKind::Scatter, &Scatter(tuples), &[]), &[0, 4, 3], 5),
            {
                let sums = Cumulate { outer: 4, len: 6, inner: 1, product: 0, exclusive: 1, reverse: 1 };
                op("sums", OpDraft::new("", OpKind::Cumulate, &sums, &[]), &[5], 6)
            },
            {
                let resize = Resample { outer: 4, len: 6, out: 9, inner: 1, taps: 2 };
                op("resize", OpDraft::new("", OpKind::Resample, &resize, &[]), &[6, 7, 8], 9)
            },
            op("sample", OpDraft::new("", OpKind::GridSample, &grid, &[]), &[6, 0], 10),
            op("align", OpDraft::new("", OpKind::RoiAlign, &regions, &[]), &[6, 0, 11], 12),
        ],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(9), ValueId(10), ValueId(12)],
        ..Draft::default()
    };
    let weights = vec![
        places("tuples", DType::I32, &[0, 0, 1, -1, -2, 1, 3, 0]),
        places("taps", DType::I32, &[0, 1, 0, 1, 1, 2, 2, 3, 2, 3, 3, 4, 3, 4, 4, 5, 4, 5]),
        weight("weights", 18),
        places("pictures", DType::I64, &[0; 6]),
    ];
    let model = Model { programs: vec![main], weights, metadata: vec![] };
    plan::build(model, &plan::Options::default()).expect("the model is sound")
}

/// Outputs whose lengths a run decides, by how x `[8]` and n, an integer, are: a `[5][2]` has as many rows as the place of the
/// largest of x is from the start; b `[3][4]` n rows, and columns as a has rows; d `[4]` three elements, by a constant; sum `[1]` is
/// always there.
#[allow(dead_code)]
pub fn lengths() -> Built {
    let copy = |dims: &[u32], from: &[i32]| {
        let mut copy = Copy::new(4, dims.len() as u32);
        let mut to = 1;
        for i in (0..dims.len()).rev() {
            (copy.dims[i], copy.from[i], copy.to[i]) = (dims[i], from[i], to);
            to *= dims[i] as i32;
        }
        OpDraft::new("", OpKind::Copy, &copy, &[])
    };
    let largest = OpDraft::new("", OpKind::ArgReduce, &ArgReduce { outer: 1, len: 8, inner: 1, min: 0, last: 0 }, &[]);
    let sum = Reduce { kind: ReduceKind::Sum as u32, outer: 1, len: 2, inner: 1 };
    let arena = Storage::Arena;
    let main = Draft {
        name: "main".into(),
        values: vec![
            value("x", &[8], arena),
            integers("n", &[1], DType::I64, arena),
            integers("rows", &[1], DType::I64, arena),
            value("a", &[5, 2], arena),
            value("b", &[3, 4], arena),
            value("d", &[4], arena),
            integers("three", &[], DType::I64, Storage::Weight(WeightId(0))),
            value("two", &[2], arena),
            value("sum", &[1], arena),
        ],
        ops: vec![
            op("largest", largest, &[0], 2),
            op("a", copy(&[5, 2], &[1, 1]), &[0], 3),
            op("b", copy(&[3, 4], &[2, 1]), &[0], 4),
            op("d", copy(&[4], &[2]), &[0], 5),
            // By now nobody reads the counts any more but who asks for the outputs: whose memory it takes would be theirs.
            op("two", copy(&[2], &[1]), &[0], 7),
            op("sum", OpDraft::new("", OpKind::Reduce, &sum, &[]), &[7], 8),
        ],
        inputs: vec![ValueId(0), ValueId(1)],
        outputs: vec![ValueId(3), ValueId(4), ValueId(5), ValueId(8)],
        lengths: [(1, 1, 2), (0, 0, 2), (2, 0, 6), (1, 0, 1)]
            .map(|(output, axis, count)| Length { output, axis, count: ValueId(count) })
            .to_vec(),
        ..Draft::default()
    };
    let weights = vec![Weight::whole("three".into(), 8, |to| {
        to.copy_from_slice(&3i64.to_le_bytes());
        Ok(())
    })];
    let model = Model { programs: vec![main], weights, metadata: vec![] };
    plan::build(model, &plan::Options::default()).expect("the model is sound")
}

/// mask `[40]` -> where it is true; boxes `[2][12][4]`, with scores of three classes -> those that stand for others, as many as
/// an input says.
#[allow(dead_code)]
pub fn choosing() -> Built {
    let boxes = NonMaxSuppression { batch: 2, classes: 3, boxes: 12, bound: 20, centred: 1 };
    let arena = Storage::Arena;
    let kept = |i: u32| Storage::Weight(WeightId(i));
    let main = Draft {
        name: "main".into(),
        values: vec![
            integers("mask", &[40], DType::Bool, arena),
            integers("places", &[30], DType::I64, arena),
            integers("true", &[1], DType::I64, arena),
            value("boxes", &[2, 12, 4], kept(0)),
            value("scores", &[2, 3, 12], kept(1)),
            integers("most", &[1], DType::I64, arena),
            value("share", &[1], kept(2)),
            value("least", &[1], arena),
            integers("rows", &[20, 3], DType::I64, arena),
            integers("found", &[1], DType::I64, arena),
        ],
        ops: vec![
            {
                let places = NonZero { len: 40, bound: 30 };
                let mut places = op("places", OpDraft::new("", OpKind::NonZero, &places, &[]), &[0], 1);
                places.outputs.push(Some(ValueId(2)));
                places
            },
            {
                let mut rows = op("rows", OpDraft::new("", OpKind::NonMaxSuppression, &boxes, &[]), &[3, 4, 5, 6, 7], 8);
                rows.outputs.push(Some(ValueId(9)));
                rows
            },
        ],
        inputs: vec![ValueId(0), ValueId(5), ValueId(7)],
        outputs: vec![ValueId(1), ValueId(2), ValueId(8), ValueId(9)],
        ..Draft::default()
    };
    let weights = vec![weight("boxes", 96), weight("scores", 72), weight("share", 1)];
    let model = Model { programs: vec![main], weights, metadata: vec![] };
    plan::build(model, &plan::Options::default()).expect("the model is sound")
}
