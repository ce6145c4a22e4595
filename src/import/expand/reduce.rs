//! Operators along axes.

use super::super::sketch::{Ref, Sketch};
use crate::graph::Op;
use crate::program::{Binary, ReduceKind, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

type Drawn = TractResult<Vec<Ref>>;

/// Running sums and products.
pub(super) fn cumulate(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let axis = s.ints(1, "the axis")?.context("input 1 is missing")?;
    let axis = s.axis(*axis.first().context("the axis is empty")?, x)?;
    let flag = |name| s.attributes().int(name, 0) != 0;
    let op = Op::Cumulate { axis, product: s.op_type() == "CumProd", exclusive: flag("exclusive"), reverse: flag("reverse") };
    let dims = s.dims(x).to_vec();
    Ok(vec![s.op(op, &[x], s.dtype(x), &dims)])
}

/// Divided by the norm along an axis; zeros stay.
pub(super) fn lp_normalization(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let axis = s.axis(s.attributes().int("axis", -1), x)?;
    let kind = match s.attributes().int("p", 2) {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        p => bail!("p is {p}, it must be 1 or 2"),
    };
    let norm = s.reduce(kind, &[axis], x);
    let zero = s.with(Binary::Equal, norm, 0.0)?;
    let one = s.number(1.0, s.dtype(x))?;
    let norm = s.select(zero, one, norm)?;
    Ok(vec![s.binary(Binary::Div, x, norm)?])
}

pub(super) fn mean_variance_normalization(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let axes = s.attributes().ints("axes").unwrap_or(&[0, 2, 3]);
    let axes: Vec<usize> = axes.iter().map(|&a| s.axis(a, x)).collect::<TractResult<_>>()?;
    let mean = s.reduce(ReduceKind::Mean, &axes, x);
    let centred = s.binary(Binary::Sub, x, mean)?;
    let variance = s.reduce(ReduceKind::MeanSquare, &axes, centred);
    let deviation = s.unary(Unary::Sqrt, [0.0; 2], variance);
    let deviation = s.with(Binary::Add, deviation, 1e-9)?;
    Ok(vec![s.binary(Binary::Div, centred, deviation)?])
}

/// One where the first of the largest values is, else zero.
pub(super) fn hardmax(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let whole = s.dims(x).to_vec();
    let (dtype, rank) = (s.dtype(x), whole.len() as i64);
    // Before opset 13 the axes from `axis` on are taken together.
    let (flat, axis) = if s.opset < 13 {
        let first = s.attributes().int("axis", 1);
        let first = if first < 0 { first + rank } else { first };
        ensure!((0..=rank).contains(&first), "there is no axis {first}");
        let (outer, inner) = whole.split_at(first as usize);
        (s.reshape(x, &[outer.iter().product(), inner.iter().product()])?, 1)
    } else {
        (x, s.axis(s.attributes().int("axis", -1), x)?)
    };
    let mut dims = s.dims(flat).to_vec();
    let len = dims[axis];
    dims[axis] = 1;
    let place = s.op(Op::ArgReduce { axis, min: false, last: false }, &[flat], DType::I64, &dims);
    let mut shape = vec![1; dims.len()];
    shape[axis] = len;
    let places: Vec<i64> = (0..len as i64).collect();
    let places = s.i64s(&places, &shape);
    let here = s.binary(Binary::Equal, place, places)?;
    let out = s.cast(here, dtype);
    Ok(vec![s.reshape(out, &whole)?])
}

/// A layer norm that also yields mean and inverse deviation.
pub(super) fn layer_norm(s: &mut Sketch<'_>) -> Drawn {
    let (x, scale, bias) = (s.input(0)?, s.input(1)?, s.optional(2)?);
    let axis = s.axis(s.attributes().int("axis", -1), x)?;
    let axes: Vec<usize> = (axis..s.rank(x)).collect();
    let dtype = s.dtype(x);
    let x = s.cast(x, DType::F32);
    let mean = s.reduce(ReduceKind::Mean, &axes, x);
    let centred = s.binary(Binary::Sub, x, mean)?;
    let variance = s.reduce(ReduceKind::MeanSquare, &axes, centred);
    let sum = s.with(Binary::Add, variance, s.attributes().float("epsilon", 1e-5) as f64)?;
    let inverse = s.unary(Unary::Rsqrt, [0.0; 2], sum);
    let normed = s.binary(Binary::Mul, centred, inverse)?;
    let normed = s.cast(normed, dtype);
    let mut y = s.binary(Binary::Mul, normed, scale)?;
    if let Some(bias) = bias {
        y = s.binary(Binary::Add, y, bias)?;
    }
    Ok(vec![y, mean, inverse])
}

/// A reduction, as ONNX defines it for all types and for empty axes.
pub(in super::super) fn reduce(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let kind = match s.op_type() {
        "ReduceL1" => ReduceKind::L1,
        "ReduceL2" => ReduceKind::L2,
        "ReduceLogSum" => ReduceKind::LogSum,
        "ReduceLogSumExp" => ReduceKind::LogSumExp,
        "ReduceMax" => ReduceKind::Max,
        "ReduceMean" => ReduceKind::Mean,
        "ReduceMin" => ReduceKind::Min,
        "ReduceProd" => ReduceKind::Product,
        "ReduceSum" => ReduceKind::Sum,
        "ReduceSumSquare" => ReduceKind::SumSquare,
        other => bail!("{other} is no reduction"),
    };
    let given = s.ints_of("axes", 1)?.unwrap_or_default();
    let nothing = given.is_empty() && s.attributes().int("noop_with_empty_axes", 0) != 0;
    let axes: Vec<usize> = if given.is_empty() && !nothing {
        (0..s.rank(x)).collect()
    } else {
        given.iter().map(|&a| s.axis(a, x)).collect::<TractResult<_>>()?
    };
    let y = if s.dtype(x) == DType::Bool {
        // As numbers; the largest of none is minus infinity, which is false.
        let numbers = s.cast(x, DType::I32);
        let y = s.reduce(kind, &axes, numbers);
        s.with(Binary::Greater, y, 0.0)?
    } else if s.dtype(x) == DType::F64 {
        of_doubles(s, kind, &axes, x)?
    } else {
        s.reduce(kind, &axes, x)
    };
    if s.attributes().int("keepdims", 1) != 0 {
        return Ok(vec![y]);
    }
    let kept = s.dims(y).iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, &d)| d);
    let dims: Vec<usize> = kept.collect();
    Ok(vec![s.reshape(y, &dims)?])
}

/// In `f64` sums, means, products and extremes are native; the others are made of them.
fn of_doubles(s: &mut Sketch<'_>, kind: ReduceKind, axes: &[usize], x: Ref) -> TractResult<Ref> {
    let plain = |s: &mut Sketch<'_>, f, x| s.unary(f, [0.0; 2], x);
    Ok(match kind {
        ReduceKind::L1 => {
            let sizes = plain(s, Unary::Abs, x);
            s.reduce(ReduceKind::Sum, axes, sizes)
        }
        ReduceKind::L2 | ReduceKind::SumSquare => {
            let squares = plain(s, Unary::Square, x);
            let sum = s.reduce(ReduceKind::Sum, axes, squares);
            if kind == ReduceKind::L2 { plain(s, Unary::Sqrt, sum) } else { sum }
        }
        ReduceKind::LogSum => {
            let sum = s.reduce(ReduceKind::Sum, axes, x);
            plain(s, Unary::Log, sum)
        }
        ReduceKind::LogSumExp => {
            // Less the largest, unless that is infinite.
            let most = s.reduce(ReduceKind::Max, axes, x);
            let size = plain(s, Unary::Abs, most);
            let finite = s.with(Binary::Less, size, f64::INFINITY)?;
            let zero = s.number(0.0, DType::F64)?;
            let shift = s.select(finite, most, zero)?;
            let shifted = s.binary(Binary::Sub, x, shift)?;
            let powers = plain(s, Unary::Exp, shifted);
            let sum = s.reduce(ReduceKind::Sum, axes, powers);
            let log = plain(s, Unary::Log, sum);
            s.binary(Binary::Add, log, shift)?
        }
        _ => s.reduce(kind, axes, x),
    })
}

/// In training mode: by the batch's own mean and variance, which also move the running ones.
pub(super) fn batch_normalization(s: &mut Sketch<'_>) -> Drawn {
    let (x, scale, bias, mean, variance) = (s.input(0)?, s.input(1)?, s.input(2)?, s.input(3)?, s.input(4)?);
    ensure!(s.opset >= 14, "batch normalisation in training mode is not supported before opset 14: export it for inference");
    ensure!(s.rank(x) >= 2, "the input has no channels");
    let a = s.attributes();
    let (epsilon, momentum) = (a.float("epsilon", 1e-5) as f64, a.float("momentum", 0.9));
    let axes: Vec<usize> = (0..s.rank(x)).filter(|&a| a != 1).collect();
    let mut shape = vec![1; s.rank(x)];
    shape[1] = s.dims(x)[1];
    let own = s.reduce(ReduceKind::Mean, &axes, x);
    let centred = s.binary(Binary::Sub, x, own)?;
    let spread = s.reduce(ReduceKind::MeanSquare, &axes, centred);
    let sum = s.with(Binary::Add, spread, epsilon)?;
    let inverse = s.unary(Unary::Rsqrt, [0.0; 2], sum);
    let normed = s.binary(Binary::Mul, centred, inverse)?;
    let (scale, bias) = (s.reshape(scale, &shape)?, s.reshape(bias, &shape)?);
    let scaled = s.binary(Binary::Mul, normed, scale)?;
    let y = s.binary(Binary::Add, scaled, bias)?;
    let mut outputs = vec![y];
    for (old, new) in [(mean, own), (variance, spread)] {
        let dims = s.dims(old).to_vec();
        let new = s.reshape(new, &dims)?;
        let (old, new) = (s.unary(Unary::Affine, [momentum, 0.0], old), s.unary(Unary::Affine, [1.0 - momentum, 0.0], new));
        outputs.push(s.binary(Binary::Add, old, new)?);
    }
    Ok(outputs)
}

/// The determinant of small matrices, by the minors of their last rows.
pub(super) fn det(s: &mut Sketch<'_>) -> Drawn {
    let x = s.input(0)?;
    let dims = s.dims(x).to_vec();
    let [batch @ .., rows, n] = &dims[..] else { bail!("its input is of shape {dims:?}, which is no matrix") };
    ensure!(
        rows == n && (1..=4).contains(n),
        "of matrices of {rows}x{n} it is not supported: they must be square, of 4 rows at the most"
    );
    let (n, count) = (*n, batch.iter().product());
    let flat = s.reshape(x, &[count, n * n])?;
    let place = |row: usize, column: usize| row * n + column;
    // Of the rows so far, by sets of columns.
    let mut minors: Vec<Option<Ref>> = vec![None; 1 << n];
    for set in 1usize..1 << n {
        let row = n - set.count_ones() as usize;
        let mut sum = None;
        for (i, column) in (0..n).filter(|column| set >> column & 1 == 1).enumerate() {
            let element = s.slice(flat, 1, place(row, column), 1, 1);
            let term = match minors[set & !(1 << column)] {
                Some(minor) => s.binary(Binary::Mul, element, minor)?,
                None => element,
            };
            let f = if i % 2 == 0 { Binary::Add } else { Binary::Sub };
            sum = Some(sum.map_or(Ok(term), |sum| s.binary(f, sum, term))?);
        }
        minors[set] = sum;
    }
    let all = minors[(1 << n) - 1].context("it has no rows")?;
    Ok(vec![s.reshape(all, batch)?])
}
