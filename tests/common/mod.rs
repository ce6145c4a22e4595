//! A small model made by hand, for tests that need an image: convolution, pooling, matrix product.

use kiln::plan::draft::{Draft, Model, OpDraft, Storage, Value, ValueId, Weight, WeightId};
use kiln::plan::{self, Built};
use kiln::program::{Conv, Epilogue, Gemm, OpKind, Pool, Unary};
use kiln::tensor::DType;

fn value(name: &str, dims: &[u32], storage: Storage) -> Value {
    let bytes = 4 * dims.iter().map(|&d| d as u64).product::<u64>();
    Value { name: name.into(), dtype: DType::F32, dims: dims.to_vec(), storage, bytes }
}

fn op(name: &str, mut op: OpDraft, inputs: &[u32], output: u32) -> OpDraft {
    op.name = name.into();
    op.inputs = inputs.iter().map(|&v| Some(ValueId(v))).collect();
    op.outputs = vec![Some(ValueId(output))];
    op
}

fn weight(name: &str, elements: u64) -> Weight {
    let pack = Box::new(|to: &mut [u8]| {
        for (i, cell) in to.chunks_exact_mut(4).enumerate() {
            cell.copy_from_slice(&((i % 7) as f32 * 0.25 - 0.75).to_le_bytes());
        }
        Ok(())
    });
    Weight { name: name.into(), bytes: 4 * elements, pack }
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
    };
    let weights = vec![weight("conv.weight", 27 * 16), weight("dense.weight", 144 * 16)];
    let model = Model { programs: vec![main], weights, metadata: vec![("kiln.test".into(), "a value".into())] };
    plan::build(model, &plan::Options::default(), &mut |_| ()).expect("the model is sound")
}
