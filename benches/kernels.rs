//! Single ops, each an image of its own that a session runs: `cargo bench --bench kernels [-- PART]` takes those whose name
//! contains PART (`-- gemm`). It needs no front end: with `--no-default-features --features std` it compiles in seconds.
//!
//! Behind criterion's figures, products and convolutions state the share of the core's peak of fused multiply-adds that
//! they reach, in the best of many batches. The peak is measured before and after each batch, since clocks and neighbours
//! change from one moment to the next; pin the program to a core (`taskset -c 0`). Convolutions are counted in the
//! multiply-adds of the direct sum: Winograd's form of one can reach more than 100 %.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use kiln::exec::OwnedSession;
use kiln::exec::owned::{Derived, OwnedImage};
use kiln::kernels::probe::peak_of;
use kiln::kernels::{Backend, Isa};
use kiln::ops;
use kiln::plan::draft::{Draft, Model, OpDraft, Storage, Value, ValueId, Weight, WeightId};
use kiln::plan::{Options, build, derive};
use kiln::program::conv::Depthwise;
use kiln::program::map::{Binary, Domain, Instruction, MAP_RANK, Unary};
use kiln::program::{Conv, Copy, Epilogue, Gemm, Gru, Lstm, Map, OpKind, Record, Softmax, Steps, hidden_padded, packed_len};
use kiln::tensor::DType;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Multiply-adds between two measurements of the peak, at least: a fraction of a millisecond.
const BATCH: u64 = 20_000_000;

/// An operand of so many elements of `f32`.
#[derive(Clone, Copy)]
enum Operand {
    Input(usize),
    Weight(usize),
}

/// An op, its operands in its order, and what it is measured by.
struct Case {
    name: String,
    op: OpDraft,
    operands: Vec<Operand>,
    /// Elements of each output.
    outputs: Vec<usize>,
    macs: u64,
    /// With the weights that a host derives (Winograd's).
    derived: bool,
}

impl Case {
    /// A case that lacks its operands.
    fn new<R: Record>(name: String, kind: OpKind, record: &R, tail: &[u8]) -> Case {
        let op = OpDraft::new(name.clone(), kind, record, tail);
        Case { name, op, operands: vec![], outputs: vec![], macs: record.macs(), derived: false }
    }

    fn session(&self, isa: Isa) -> OwnedSession {
        let mut draft = Draft { name: "main".into(), ops: vec![self.op.clone()], ..Draft::default() };
        let mut add = |name: String, n: usize, storage| {
            let value = Value { name, dtype: DType::F32, dims: vec![n as u32], storage, bytes: 4 * n as u64 };
            draft.values.push(value);
            ValueId(draft.values.len() as u32 - 1)
        };
        let (mut inputs, mut weights) = (vec![], vec![]);
        let mut operands = vec![];
        for operand in &self.operands {
            operands.push(Some(match *operand {
                Operand::Input(n) => {
                    let input = add(format!("x{}", inputs.len()), n, Storage::Arena);
                    inputs.push(input);
                    input
                }
                Operand::Weight(n) => {
                    weights.push(weight(n));
                    add("w".into(), n, Storage::Weight(WeightId(weights.len() as u32 - 1)))
                }
            }));
        }
        let numbered = self.outputs.iter().enumerate();
        let outputs: Vec<_> = numbered.map(|(i, &n)| add(format!("y{i}"), n, Storage::Arena)).collect();
        (draft.ops[0].inputs, draft.ops[0].outputs) = (operands, outputs.iter().copied().map(Some).collect());
        (draft.inputs, draft.outputs) = (inputs, outputs);
        let model = Model { programs: vec![draft], weights, metadata: vec![] };
        let built = build(model, &Options::default()).expect("an op whose operands fit");
        let image = Arc::new(OwnedImage::new(Box::new(built.image), false, None).expect("an image"));
        let derived = derive::image(&image.image(), isa, false).expect("an instruction set that was detected");
        let derived = if self.derived { derived } else { Derived::default() };
        assert!(self.derived != derived.weights.is_empty(), "{}: no weights were derived", self.name);
        let set = ops::set(isa).expect("an instruction set that was detected");
        let mut session = OwnedSession::new(image, None, set, derived).expect("a session");
        session.derive();
        for i in 0..session.program().inputs().count() {
            let input = session.input::<f32>(i).expect("an input");
            input.iter_mut().enumerate().for_each(|(i, x)| *x = number(i));
        }
        session
    }

    /// Bytes that it reads and writes.
    fn bytes(&self) -> u64 {
        let sizes = self.operands.iter().map(|&(Operand::Input(n) | Operand::Weight(n))| n);
        4 * sizes.chain(self.outputs.iter().copied()).sum::<usize>() as u64
    }
}

fn weight(n: usize) -> Weight {
    let pack = |to: &mut [u8]| {
        to.chunks_exact_mut(4).enumerate().for_each(|(i, to)| to.copy_from_slice(&number(i).to_le_bytes()));
        Ok(())
    };
    Weight::whole("w".into(), 4 * n as u64, pack)
}

/// Runs a session on what its inputs hold.
fn run(session: &mut OwnedSession) {
    for i in 0..session.program().inputs().count() {
        session.input::<f32>(i).expect("an input"); // counts as written
    }
    session.run().expect("a run");
}

/// Some number from -1 to 1.
fn number(i: usize) -> f32 {
    (i * 7919 % 2003) as f32 / 1001.5 - 1.0
}

fn bench<B: Backend>(c: &mut Criterion, part: &str, case: Case) {
    let mut group = c.benchmark_group(part);
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(match case.macs {
        0 => Throughput::Bytes(case.bytes()),
        macs => Throughput::Elements(macs),
    });
    let (mut session, mut best) = (None, (0.0, 0.0));
    group.bench_function(BenchmarkId::from_parameter(&case.name), |b| {
        let session = session.get_or_insert_with(|| case.session(B::ISA));
        b.iter_custom(|runs| {
            if case.macs == 0 {
                let start = Instant::now();
                (0..runs).for_each(|_| run(session));
                return start.elapsed();
            }
            let batch = BATCH.div_ceil(case.macs);
            let (mut total, mut left, mut before) = (Duration::ZERO, runs, peak_of::<B>());
            while left > 0 {
                let n = left.min(batch);
                let start = Instant::now();
                (0..n).for_each(|_| run(session));
                let elapsed = start.elapsed();
                let after = peak_of::<B>();
                let rate = (case.macs * n) as f64 / elapsed.as_secs_f64();
                let share = rate / before.max(after);
                if share > best.0 {
                    best = (share, rate);
                }
                (total, left, before) = (total + elapsed, left - n, after);
            }
            total
        });
    });
    group.finish();
    if best.0 > 0.0 {
        println!("{:24}share:  {:.1} % of the peak of multiply-adds, {:.1} GFLOP/s\n", "", 100.0 * best.0, 2e-9 * best.1);
    }
}

fn gemm(m: u32, k: u32, n: u32) -> Case {
    let mut case = Case::new(format!("{m}x{k}x{n}"), OpKind::Gemm, &Gemm::dense(m, n, k), &[]);
    case.operands = vec![Operand::Input((m * k) as usize), Operand::Weight(packed_len(k as u64, n as u64) as usize)];
    case.outputs = vec![(m * n) as usize];
    case
}

/// A convolution of a square map with "same" padding.
fn shape(size: u32, kernel: u32, stride: u32, in_c: u32, out_c: u32, groups: u32) -> Conv {
    let out = size.div_ceil(stride);
    Conv {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c,
        out_h: out,
        out_w: out,
        out_c,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        groups,
        in_pitch: in_c,
        out_pitch: out_c,
        epilogue: Epilogue::NONE,
    }
}

fn maps(mut case: Case, g: &Conv, weights: u64) -> Case {
    case.operands = vec![Operand::Input((g.in_h * g.in_w * g.in_c) as usize), Operand::Weight(weights as usize)];
    case.outputs = vec![(g.pixels() * g.out_c as u64) as usize];
    case
}

fn conv(size: u32, kernel: u32, stride: u32, in_c: u32, out_c: u32) -> Case {
    let g = shape(size, kernel, stride, in_c, out_c, 1);
    let name = format!("{kernel}x{kernel} stride {stride} {size}x{size}x{in_c} to {out_c}");
    maps(Case::new(name, OpKind::Conv, &g, &[]), &g, g.weights())
}

fn depthwise(size: u32, stride: u32, channels: u32) -> Case {
    let g = shape(size, 3, stride, channels, channels, channels);
    let name = format!("3x3 stride {stride} {size}x{size}x{channels}");
    maps(Case::new(name, OpKind::Depthwise, &Depthwise(g), &[]), &g, 9 * channels as u64)
}

fn lstm(steps: u32, hidden: u32) -> Case {
    let gates = 4 * hidden_padded(hidden);
    let record = Lstm {
        at: Steps { steps, batch: 1, hidden, reverse: 0, pre_step: gates, pre_batch: 0, y_step: hidden, y_batch: 0, clip: 0.0 },
        coupled: 0,
        activations: [Unary::Sigmoid as u32, Unary::Tanh as u32, Unary::Tanh as u32],
        p: [[0.0; 2]; 3],
    };
    let mut case = Case::new(format!("lstm {steps} steps of {hidden}"), OpKind::Lstm, &record, &[]);
    let (pre, state) = (Operand::Input((steps * gates) as usize), Operand::Input(hidden as usize));
    let r = Operand::Weight(packed_len(hidden as u64, gates as u64) as usize);
    case.operands = vec![pre, r, state, state];
    case.outputs = [steps * hidden, hidden, hidden].map(|n| n as usize).to_vec();
    case
}

fn gru(steps: u32, hidden: u32) -> Case {
    let gates = 3 * hidden_padded(hidden);
    let record = Gru {
        at: Steps { steps, batch: 1, hidden, reverse: 0, pre_step: gates, pre_batch: 0, y_step: hidden, y_batch: 0, clip: 0.0 },
        linear_before_reset: 1,
        activations: [Unary::Sigmoid as u32, Unary::Tanh as u32],
        p: [[0.0; 2]; 2],
    };
    let mut case = Case::new(format!("gru {steps} steps of {hidden}"), OpKind::Gru, &record, &[]);
    let (pre, state) = (Operand::Input((steps * gates) as usize), Operand::Input(hidden as usize));
    let r = Operand::Weight(packed_len(hidden as u64, gates as u64) as usize);
    case.operands = vec![pre, r, state];
    case.outputs = [steps * hidden, hidden].map(|n| n as usize).to_vec();
    case
}

fn softmax(outer: u32, len: u32) -> Case {
    let record = Softmax { outer, len, inner: 1, log: 0 };
    let mut case = Case::new(format!("{outer} rows of {len}"), OpKind::Softmax, &record, &[]);
    case.operands = vec![Operand::Input((outer * len) as usize)];
    case.outputs = vec![(outer * len) as usize];
    case
}

/// `f(x * scale + bias) + residual`, scale and bias per column.
fn chain(rows: u32, columns: u32, f: Unary) -> Case {
    let mut dims = [1; MAP_RANK];
    dims[..2].copy_from_slice(&[rows, columns]);
    let strides = |row: u32| {
        let mut strides = [0i32; MAP_RANK];
        (strides[0], strides[1]) = (row as i32, 1);
        strides
    };
    let step = |class, function, to, a, b| Instruction { class, function, to, a, b, c: 0, reserved: [0; 2], p: [0; 2] };
    let binary = |f: Binary, to, a, b| step(Instruction::BINARY, f as u8, to, a, b);
    let program = [
        binary(Binary::Mul, 4, 0, 2),
        binary(Binary::Add, 4, 4, 3),
        step(Instruction::UNARY, f as u8, 4, 4, 0),
        binary(Binary::Add, 4, 4, 1),
    ];
    let tail = [[strides(columns), strides(columns), strides(0), strides(0)].as_bytes(), program.as_bytes()].concat();
    let domain = Domain::F32 as u32;
    let record = Map { domain, rank: 2, dims, inputs: 4, registers: 5, instructions: program.len() as u32, result: 4, direct: 0 };
    let mut case = Case::new(format!("scale, shift, {f:?}, add {rows}x{columns}"), OpKind::Map, &record, &tail);
    let elements = (rows * columns) as usize;
    let (map, row) = (Operand::Input(elements), Operand::Weight(columns as usize));
    case.operands = vec![map, map, row, row];
    case.outputs = vec![elements];
    case
}

/// The axes of a row-major tensor, in another order.
fn transpose(sizes: &[u32], order: &[usize]) -> Case {
    let row_major =
        |sizes: &[u32]| -> Vec<i32> { (0..sizes.len()).map(|i| sizes[i + 1..].iter().product::<u32>() as i32).collect() };
    let rank = sizes.len();
    let mut record = Copy::new(4, rank as u32);
    let strides = row_major(sizes);
    for (i, &axis) in order.iter().enumerate() {
        (record.dims[i], record.from[i]) = (sizes[axis], strides[axis]);
    }
    record.to[..rank].copy_from_slice(&row_major(&record.dims[..rank]));
    let mut case = Case::new(format!("{sizes:?} as {order:?}"), OpKind::Copy, &record, &[]);
    let elements = sizes.iter().product::<u32>() as usize;
    case.operands = vec![Operand::Input(elements)];
    case.outputs = vec![elements];
    case
}

fn all<B: Backend>(c: &mut Criterion) {
    for (m, k, n) in [(512, 512, 512), (512, 128, 512), (49, 2048, 512), (3136, 576, 64), (3136, 24, 144), (1, 512, 512)] {
        bench::<B>(c, "gemm", gemm(m, k, n));
    }
    for case in [conv(56, 3, 1, 64, 64), conv(14, 3, 1, 256, 256), conv(56, 3, 2, 64, 128), conv(224, 7, 2, 3, 64)] {
        bench::<B>(c, "conv", case);
    }
    for (size, channels) in [(56, 64), (14, 256)] {
        let case = Case { derived: true, ..conv(size, 3, 1, channels, channels) };
        bench::<B>(c, "winograd", case);
    }
    for (size, stride, channels) in [(56, 1, 144), (14, 1, 576), (112, 2, 96)] {
        bench::<B>(c, "depthwise", depthwise(size, stride, channels));
    }
    for case in [lstm(32, 128), lstm(1, 64), gru(1, 64)] {
        bench::<B>(c, "recurrent", case);
    }
    for (outer, len) in [(591, 197), (24, 24)] {
        bench::<B>(c, "softmax", softmax(outer, len));
    }
    for f in [Unary::Clip, Unary::Gelu] {
        bench::<B>(c, "chain", chain(512, 512, f));
    }
    for (sizes, order) in [(&[512, 512][..], &[1, 0][..]), (&[64, 56, 56], &[1, 2, 0]), (&[197, 3, 64], &[1, 0, 2])] {
        bench::<B>(c, "transpose", transpose(sizes, order));
    }
}

fn main() {
    let short = Criterion::default().sample_size(20);
    let short = short.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let mut c = short.configure_from_args();
    let isa = std::env::var("KILN_ISA").map_or(Isa::detect(), |name| Isa::from_name(&name).expect("KILN_ISA"));
    println!("{}", isa.name());
    kiln::with_backend!(isa, B => all::<B>(&mut c), else unreachable!("detected instruction sets have kernels"));
    c.final_summary();
}
