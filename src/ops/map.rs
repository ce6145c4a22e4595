//! Element-wise programs.

use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::map::{Input, MapF32};
use crate::kernels::map_f64::MapF64;
use crate::kernels::map_i64::MapI64;
use crate::kernels::{Backend, Src};
use crate::program::map::{MAP_RANK, MAX_REGISTERS};
use crate::program::{Domain, Map, OpKind, Rules};
use crate::tensor::DType;

/// [`Map`](OpKind::Map).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Map, rules: Rules::of::<Map>(), eval: eval::<B, true> }
}

/// [`Map`](OpKind::Map) for images whose maps all compute in `f32`: one that does not is an error when it runs. Without the math of
/// the wider types it takes less than half of the code.
pub const fn f32_entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Map, rules: Rules::of::<Map>(), eval: eval::<B, false> }
}

fn eval<B: Backend, const WIDE: bool>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (map, tail) = op.record::<Map>()?;
    if !WIDE && map.domain != Domain::F32 as u32 {
        return Err(Error::new(Kind::MissingOp, "the op set's maps compute in f32 alone, and this one does not"));
    }
    let (strides, instructions) = map.tail(tail)?;
    let (count, rank) = (strides.len(), map.rank as usize);
    let mut inputs = [Input { data: Src::from_slice(&[]), dtype: DType::U8, strides: [0; MAP_RANK] }; MAX_REGISTERS];
    for ((input, strides), &tensor) in inputs.iter_mut().zip(strides).zip(op.inputs) {
        let strides = to_end(strides.iter().map(|&s| s as usize), rank, 0);
        *input = Input { data: context.src_bytes(tensor), dtype: context.dtype(tensor), strides };
    }
    let dims = to_end(map.dims.iter().map(|&d| d as usize), rank, 1);
    let inputs = &inputs[..count];
    let (output, dtype) = (context.dst_bytes(op.outputs[0]), context.dtype(op.outputs[0]));
    let result = map.result as usize;
    let units = context.range();
    Ok(Units::any(if WIDE && map.domain == Domain::I64 as u32 {
        MapI64 { dims, inputs, instructions, result, output, dtype, registers: context.scratch() }.run::<B>(units)
    } else if WIDE && map.domain == Domain::F64 as u32 {
        MapF64 { dims, inputs, instructions, result, output, dtype }.run(units)
    } else {
        MapF32 { dims, inputs, instructions, result, output, dtype, registers: context.scratch() }.run::<B>(units)
    }))
}

/// Puts the axes that there are at the end, with `fill` for others before them.
fn to_end(axes: impl Iterator<Item = usize>, rank: usize, fill: usize) -> [usize; MAP_RANK] {
    let mut all = [fill; MAP_RANK];
    let first = MAP_RANK - rank.min(MAP_RANK);
    all[first..].iter_mut().zip(axes).for_each(|(to, axis)| *to = axis);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, on_each_backend};
    use crate::ops::testing::{Case, Random, Tensor, assert_close, blank, tensor};
    use crate::program::{Binary, Instruction, Record, Unary};
    use zerocopy::IntoBytes;

    fn step(class: u8, function: u8, to: usize, [a, b, c]: [usize; 3], p: [f32; 2]) -> Instruction {
        let [to, a, b, c] = [to, a, b, c].map(|r| r as u8);
        Instruction { class, function, to, a, b, c, reserved: [0; 2], p: p.map(f32::to_bits) }
    }

    fn tail(strides: &[[i32; MAP_RANK]], steps: &[Instruction]) -> Vec<u8> {
        [strides.as_bytes(), steps.as_bytes()].concat()
    }

    fn map(domain: Domain, dims: &[u32], inputs: usize, steps: &[Instruction], result: usize) -> Map {
        let mut all = [1; MAP_RANK];
        all[..dims.len()].copy_from_slice(dims);
        let registers = steps.iter().map(|s| s.to as u32 + 1).max().unwrap_or(0).max(inputs as u32);
        let (rank, instructions) = (dims.len() as u32, steps.len() as u32);
        let (domain, inputs, result) = (domain as u32, inputs as u32, result as u16);
        Map { domain, rank, dims: all, inputs, registers, instructions, result, direct: 0 }
    }

    /// What a program gives, element by element in f64.
    fn reference(dims: &[u32], inputs: &[(Vec<f64>, [i32; MAP_RANK])], steps: &[Instruction], result: usize) -> Vec<f64> {
        let n: usize = dims.iter().map(|&d| d as usize).product();
        let mut out = Vec::new();
        for e in 0..n {
            let mut registers = [0f64; MAX_REGISTERS];
            for (r, (x, strides)) in registers.iter_mut().zip(inputs) {
                let (mut rest, mut at) = (e, 0);
                for (i, &d) in dims.iter().enumerate().rev() {
                    at += rest % d as usize * strides[i] as usize;
                    rest /= d as usize;
                }
                *r = x[at];
            }
            for s in steps {
                let [a, b, c] = [s.a, s.b, s.c].map(|r| registers[r as usize]);
                let p = s.p.map(f32::from_bits);
                registers[s.to as usize] = match s.class {
                    0 => p[0] as f64,
                    1 => match Unary::from_number(s.function as u32).unwrap() {
                        Unary::Neg => -a,
                        Unary::Tanh => a.tanh(),
                        Unary::Clip => a.clamp(p[0] as f64, p[1] as f64),
                        f => panic!("{f:?}"),
                    },
                    2 => match Binary::from_number(s.function as u32).unwrap() {
                        Binary::Add => a + b,
                        Binary::Sub => a - b,
                        Binary::Mul => a * b,
                        Binary::Max => a.max(b),
                        Binary::Less => (a < b) as u8 as f64,
                        f => panic!("{f:?}"),
                    },
                    _ => {
                        if a != 0.0 {
                            b
                        } else {
                            c
                        }
                    }
                };
            }
            out.push(registers[result]);
        }
        out
    }

    #[test]
    fn the_entry_for_f32_computes_in_f32_alone() {
        let steps = [step(1, Unary::Neg as u8, 1, [0; 3], [0.0; 2])];
        let strides = [[1, 0, 0, 0, 0, 0]];
        let run = |domain, x: Tensor, y| {
            let record = map(domain, &[3], 1, &steps, 1);
            let tail = tail(&strides, &steps);
            let case = Case { record: &record, tail: &tail, inputs: vec![Some(x)], outputs: vec![Some(y)], shared: vec![None] };
            case.run(f32_entry::<crate::kernels::Base>())
        };
        let negated = run(Domain::F32, tensor(&[1.0f32, 2.0, 3.0]), blank::<f32>(3)).unwrap();
        assert_eq!(negated[0].to::<f32>(), [-1.0, -2.0, -3.0]);
        for domain in [Domain::I64, Domain::F64] {
            let refused = run(domain, tensor(&[1i64, 2, 3]), blank::<i64>(3)).unwrap_err();
            assert_eq!(refused.kind, Kind::MissingOp);
        }
    }

    #[test]
    fn random_programs_agree_with_the_reference() {
        on_each_backend!(random_on());
    }

    fn random_on<B: Backend>() {
        let mut random = Random::new(7);
        for round in 0..1500 {
            let rank = 1 + random.below(4);
            let sizes = [1usize, 2, 3, 7, 8, 9, 16, 17, 40, 300];
            let dims: Vec<u32> = (0..rank)
                .map(|i| if round % 50 == 0 && i == 0 { 0 } else { sizes[random.below(if rank > 2 { 7 } else { 10 })] as u32 })
                .collect();
            let count = 1 + random.below(3);
            let (mut strides, mut data) = (Vec::new(), Vec::new());
            for _ in 0..count {
                // Contiguous, broadcast along some axes, or with gaps.
                let (mut s, mut size) = ([0i32; MAP_RANK], 1);
                for i in (0..rank).rev() {
                    if random.below(4) > 0 {
                        s[i] = size as i32;
                        size *= dims[i].max(1) as usize;
                    }
                    if random.below(8) == 0 {
                        size *= 2;
                    }
                }
                let reach: usize = (0..rank).map(|i| (dims[i].max(1) as usize - 1) * s[i] as usize).sum::<usize>() + 1;
                strides.push(s);
                data.push(random.units(reach));
            }
            let length = 1 + random.below(5);
            let mut known: Vec<usize> = (0..count).collect();
            let mut steps = Vec::new();
            for _ in 0..length {
                let to = count + random.below(4);
                let args = [0; 3].map(|_| known[random.below(known.len())]);
                let unary = [Unary::Neg, Unary::Tanh, Unary::Clip][random.below(3)] as u8;
                let binary = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Less][random.below(5)] as u8;
                let class = random.below(4) as u8;
                steps.push(step(class, if class == 1 { unary } else { binary }, to, args, [-0.5, 0.25]));
                known.push(to);
            }
            let result = known[known.len() - 1 - random.below(2)];
            let n: usize = dims.iter().map(|&d| d as usize).product();
            let mut map = map(Domain::F32, &dims, count, &steps, result);
            let tail = tail(&strides, &steps);
            // Without memory for the inputs that are read where they lie, or for some of them.
            let innermost = (0..rank).rfind(|&i| dims[i] != 1).unwrap_or(0);
            let direct = strides.iter().take_while(|s| s[innermost] <= 1 || dims[innermost] == 1).count();
            map.direct = random.below(direct + 1) as u16;
            // In place where an input is contiguous and as large as the output.
            let contiguous = |s: &[i32; MAP_RANK]| {
                let mut size = 1;
                (0..rank).rev().all(|i| {
                    let fits = s[i] == size || dims[i] == 1;
                    size *= dims[i] as i32;
                    fits
                })
            };
            let shared = (0..count).find(|&i| contiguous(&strides[i]) && data[i].len() == n);
            let inputs: Vec<_> = data.iter().map(|d| Some(tensor(d))).collect();
            let case = Case { record: &map, tail: &tail, inputs, outputs: vec![Some(blank::<f32>(n))], shared: vec![shared] };
            let got = case.run(entry::<B>()).unwrap()[0].to::<f32>();
            let wide: Vec<_> = data.iter().zip(&strides).map(|(d, s)| (d.iter().map(|&v| v as f64).collect(), *s)).collect();
            let want = reference(&dims, &wide, &steps, result);
            assert_close(&got, &want, 1e-5, &format!("{} round {round}: {dims:?} {strides:?} {steps:?}", B::ISA.name()));
        }
    }

    fn convert<B: Backend>(domain: Domain, x: Tensor, out: Tensor) -> Tensor {
        let n = x.bytes.len() / x.dtype.size();
        let map = map(domain, &[n as u32], 1, &[], 0);
        let tail = tail(&[[1, 0, 0, 0, 0, 0]], &[]);
        let case = Case { record: &map, tail: &tail, inputs: vec![Some(x)], outputs: vec![Some(out)], shared: Vec::new() };
        case.run(entry::<B>()).unwrap().remove(0)
    }

    #[test]
    fn casts_follow_the_domains() {
        on_each_backend!(casts_on());
    }

    fn casts_on<B: Backend>() {
        let f = |v: &[f32]| tensor(v);
        let x = f(&[-1.5, 300.7, 0.0, f32::NAN, 1e20]);
        assert_eq!(convert::<B>(Domain::F32, x.clone(), blank::<u8>(5)).to::<u8>(), [0, 255, 0, 0, 255]);
        assert_eq!(convert::<B>(Domain::F32, x.clone(), blank::<i32>(5)).to::<i32>(), [-1, 300, 0, 0, i32::MAX]);
        let bools = Tensor { dtype: DType::Bool, bytes: vec![9; 5] };
        assert_eq!(convert::<B>(Domain::F32, x, bools).bytes, [1, 1, 0, 1, 1]);
        let halves = Tensor { dtype: DType::F16, bytes: vec![0; 4] };
        let halves = convert::<B>(Domain::F32, f(&[1.5, -65504.0]), halves);
        assert_eq!(convert::<B>(Domain::F32, halves, blank::<f32>(2)).to::<f32>(), [1.5, -65504.0]);
        assert_eq!(convert::<B>(Domain::F32, tensor(&[2.5f64, -1.0]), blank::<f32>(2)).to::<f32>(), [2.5, -1.0]);
        let x = tensor(&[-1i64, 1 << 40, 258]);
        assert_eq!(convert::<B>(Domain::I64, x.clone(), blank::<u8>(3)).to::<u8>(), [255, 0, 2]);
        assert_eq!(convert::<B>(Domain::I64, x, blank::<i32>(3)).to::<i32>(), [-1, 0, 258]);
        assert_eq!(convert::<B>(Domain::I64, tensor(&[200u8, 3]), blank::<i64>(2)).to::<i64>(), [200, 3]);
    }

    #[test]
    fn integers_are_exact() {
        let a = [7i64, -7, i64::MAX, 5, 1 << 40, 0];
        let b = [3i64, 3, 1, 0, 3, -2];
        let cases: [(Binary, [i64; 6]); 8] = [
            (Binary::Add, [10, -4, i64::MIN, 5, (1 << 40) + 3, -2]),
            (Binary::Div, [2, -2, i64::MAX, 0, (1 << 40) / 3, 0]),
            (Binary::Rem, [1, -1, 0, 0, 1, 0]),
            (Binary::Mod, [1, 2, 0, 0, 1, 0]),
            (Binary::Pow, [343, -343, i64::MAX, 1, 0, 0]),
            (Binary::ShiftLeft, [56, -56, -2, 5, 1 << 43, 0]),
            (Binary::ShiftRight, [0, i64::MAX / 4, i64::MAX / 2, 5, 1 << 37, 0]),
            (Binary::Greater, [1, 0, 1, 1, 1, 1]),
        ];
        for (f, want) in cases {
            let steps = [step(2, f as u8, 2, [0, 1, 0], [0.0; 2])];
            let map = map(Domain::I64, &[2, 3], 2, &steps, 2);
            let tail = tail(&[[3, 1, 0, 0, 0, 0]; 2], &steps);
            let inputs = vec![Some(tensor(&a)), Some(tensor(&b))];
            let case = Case { record: &map, tail: &tail, inputs, outputs: vec![Some(blank::<i64>(6))], shared: Vec::new() };
            let got = case.run(entry::<crate::kernels::portable::Scalar>()).unwrap();
            assert_eq!(got[0].to::<i64>(), want, "{f:?} ({:?})", Isa::Scalar);
        }
    }

    #[test]
    fn integers_by_vectors_are_those_one_by_one() {
        on_each_backend!(integers_on());
    }

    fn integers_on<B: Backend>() {
        use crate::kernels::map_i64::one;
        let mut random = Random::new(11);
        for _ in 0..400 {
            let sizes = [1usize, 2, 3, 7, 8, 9, 40, 127, 128, 129, 300];
            let dims = [sizes[random.below(7)], sizes[random.below(sizes.len())]];
            // Dense, broadcast along an axis, transposed, one number.
            let kinds = [[dims[1], 1], [1, 0], [0, 1], [1, dims[0]], [0, 0]];
            let strides = [0; 3].map(|_| kinds[random.below(kinds.len())]);
            let data = [0; 3].map(|_| {
                let mut number = || match random.below(4) {
                    0 => random.below(3) as i64 - 1,
                    1 => random.below(200) as i64 - 100,
                    2 => (random.below(1 << 30) as i64 - (1 << 29)) * 7919,
                    _ => random.below(70) as i64,
                };
                (0..dims[0] * dims[1]).map(|_| number()).collect::<Vec<_>>()
            });
            let mut steps = vec![];
            for to in 3..4 + random.below(4) {
                let arguments = [0; 3].map(|_| random.below(to));
                let (class, function) = match random.below(8) {
                    0 => (0, 0),
                    1 => (1, [Unary::Neg, Unary::Not, Unary::Abs, Unary::Square][random.below(4)] as u8),
                    2 => (3, 0),
                    _ => (2, Binary::ALL.iter().filter(|f| f.on_integers()).nth(random.below(25)).copied().unwrap() as u8),
                };
                steps.push(step(class, function, to, arguments, [1.5, -2.5]));
            }
            let result = 3 + random.below(steps.len());
            let record = map(Domain::I64, &dims.map(|d| d as u32), 3, &steps, result);
            let tail = tail(&strides.map(|s| [s[0] as i32, s[1] as i32, 0, 0, 0, 0]), &steps);
            let narrow: Vec<i32> = data[1].iter().map(|&v| v as i32).collect();
            let bytes: Vec<u8> = data[2].iter().map(|&v| v as u8).collect();
            let mut want = vec![];
            for e in 0..dims[0] * dims[1] {
                let at = |i: usize| e / dims[1] * strides[i][0] + e % dims[1] * strides[i][1];
                let mut registers = [0i64; MAX_REGISTERS];
                (registers[0], registers[1], registers[2]) = (data[0][at(0)], narrow[at(1)] as i64, bytes[at(2)] as i64);
                for s in &steps {
                    registers[s.to as usize] = one(s, [s.a, s.b, s.c].map(|r| registers[r as usize]));
                }
                want.push(registers[result]);
            }
            let inputs = || vec![Some(tensor(&data[0])), Some(tensor(&narrow)), Some(tensor(&bytes))];
            let run = |output: Tensor| {
                let outputs = vec![Some(output)];
                let case = Case { record: &record, tail: &tail, inputs: inputs(), outputs, shared: Vec::new() };
                case.run(entry::<B>()).unwrap().remove(0)
            };
            assert_eq!(run(blank::<i64>(want.len())).to::<i64>(), want, "{:?}: {dims:?} {steps:?}", B::ISA);
            let wrapped: Vec<i32> = want.iter().map(|&v| v as i32).collect();
            assert_eq!(run(blank::<i32>(want.len())).to::<i32>(), wrapped, "{:?}", B::ISA);
        }
    }

    #[test]
    fn doubles_are_exact() {
        let a = [1e200f64, -2.5, 1.0 + f64::EPSILON, 9_007_199_254_740_991.0];
        let steps = [
            Instruction { p: [0, 0x3ff0_0000], ..step(0, 0, 1, [0; 3], [0.0; 2]) }, // 1.0
            step(2, Binary::Sub as u8, 2, [0, 1, 0], [0.0; 2]),
            step(1, Unary::Affine as u8, 3, [2, 0, 0], [2.0, 0.0]),
        ];
        let record = map(Domain::F64, &[4], 1, &steps, 3);
        let run = |output: Tensor| {
            let tail = tail(&[[1, 0, 0, 0, 0, 0]], &steps);
            let case = Case {
                record: &record,
                tail: &tail,
                inputs: vec![Some(tensor(&a))],
                outputs: vec![Some(output)],
                shared: vec![],
            };
            case.run(entry::<crate::kernels::portable::Scalar>()).unwrap().remove(0)
        };
        assert_eq!(run(blank::<f64>(4)).to::<f64>(), a.map(|a| (a - 1.0) * 2.0));
        assert_eq!(run(blank::<i64>(4)).to::<i64>(), [i64::MAX, -7, 0, 18_014_398_509_481_980]);
        assert_eq!(run(blank::<f32>(4)).to::<f32>()[0], f32::INFINITY);
    }

    #[test]
    fn registers_are_no_longer_than_what_is_computed_at_a_time() {
        let add = [step(2, Binary::Add as u8, 2, [0, 1, 0], [0.0; 2])];
        let scratch = |domain, dims: &[u32], direct| Map { direct, ..map(domain, dims, 2, &add, 2) }.scratch(&[]);
        assert_eq!(scratch(Domain::F32, &[1000], 0), 3 * 1024);
        assert_eq!(scratch(Domain::F32, &[1000], 2), 1024);
        assert_eq!(scratch(Domain::F32, &[4, 129], 2), 136 * 4, "a row at a time");
        assert_eq!(scratch(Domain::F32, &[4, 30], 1), 2 * 120 * 4);
        assert_eq!(scratch(Domain::F32, &[1], 0), 3 * 32);
        assert_eq!(scratch(Domain::I64, &[1000], 0), 3 * 1024);
        assert_eq!(scratch(Domain::I64, &[2, 5], 0), 3 * 16 * 8);
        assert_eq!(scratch(Domain::F64, &[1000], 0), 0);
    }

    #[test]
    fn bad_programs_are_rejected() {
        let add = |to, a, b| step(2, Binary::Add as u8, to, [a, b, 0], [0.0; 2]);
        let run = |map: Map, tail: &[u8], x: Tensor| {
            let outputs = vec![Some(blank::<f32>(4))];
            Case { record: &map, tail, inputs: vec![Some(x)], outputs, shared: Vec::new() }.check(OpKind::Map)
        };
        let strides = [[1, 0, 0, 0, 0, 0]];
        let x = || tensor(&[0f32; 4]);
        let good = [add(1, 0, 0)];
        let record = map(Domain::F32, &[4], 1, &good, 1);
        assert_eq!(run(record, &tail(&strides, &good), x()), Ok(()));
        assert!(run(record, &tail(&strides, &[]), x()).is_err(), "no instruction");
        assert!(run(record, &tail(&[[2, 0, 0, 0, 0, 0]], &good), x()).is_err(), "too far");
        assert!(run(record, &tail(&[[-1, 0, 0, 0, 0, 0]], &good), x()).is_err(), "negative stride");
        assert!(run(record, &tail(&strides, &[add(0, 0, 0)]), x()).is_err(), "writes an input");
        assert!(run(record, &tail(&strides, &[add(1, 1, 0)]), x()).is_err(), "reads nothing");
        assert!(run(record, &tail(&strides, &[add(16, 0, 0)]), x()).is_err(), "no such register");
        let unused = [Instruction { c: 255, ..add(1, 0, 0) }];
        assert!(run(record, &tail(&strides, &unused), x()).is_err(), "an argument that is not used, of no register");
        let bits = [step(2, Binary::BitAnd as u8, 1, [0; 3], [0.0; 2])];
        assert!(run(record, &tail(&strides, &bits), x()).is_err(), "bits of floats");
        let integers = Map { domain: 1, ..record };
        assert!(run(integers, &tail(&strides, &good), x()).is_err(), "floats as integers");
        assert!(run(Map { instructions: u32::MAX, ..record }, &tail(&strides, &good), x()).is_err(), "endless");
        assert!(run(Map { inputs: u32::MAX, ..record }, &tail(&strides, &good), x()).is_err(), "inputs");
        assert_eq!(run(Map { direct: 1, ..record }, &tail(&strides, &good), x()), Ok(()));
        assert!(run(Map { direct: 2, ..record }, &tail(&strides, &good), x()).is_err(), "more than there are");
        let two = Map { dims: [2, 2, 1, 1, 1, 1], rank: 2, direct: 1, ..record };
        assert!(run(two, &tail(&[[1, 2, 0, 0, 0, 0]], &good), x()).is_err(), "gaps, read where it lies");
        let long = Tensor { dtype: DType::I64, bytes: vec![0; 32] };
        assert!(run(Map { direct: 1, ..record }, &tail(&strides, &good), long.clone()).is_err(), "integers, read where they lie");
        let integers = Map { domain: 1, direct: 1, ..record };
        assert!(run(integers, &tail(&strides, &good), long).is_err(), "registers of integers");
        let large = Map { dims: [u32::MAX; 6], rank: 6, ..record };
        assert!(run(large, &tail(&[[i32::MAX; 6]], &good), x()).is_err(), "overflow");
    }
}
