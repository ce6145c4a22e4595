//! Values of nodes whose inputs are all known, for the plain operators by which shapes, masks and indices are computed.
//!
//! tract finds them too, but writes every node into a model first, several times over for an operator that it has no name for, and
//! reckons with sizes as expressions: in a network that computes its indices this is most of the import. What is not found here, it
//! still finds: an unusual type or attribute, a value of more than [`MOST`] bytes, anything that is an error.

use super::attributes::Attributes;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

/// Bytes of the largest value that is found here.
const MOST: usize = 1 << 20;

type Dims = TVec<usize>;

/// The value of a node's only output, if it is found here; `inputs` by ONNX's numbers.
pub(super) fn value(node: &NodeProto, inputs: &[Option<Arc<Tensor>>]) -> Option<Arc<Tensor>> {
    let a = Attributes(node);
    let x = inputs.first()?.as_ref()?;
    let other = |slot: usize| inputs.get(slot).and_then(|input| input.as_deref());
    let made = match (&*node.op_type, inputs.len()) {
        ("Identity", 1) => return Some(x.clone()),
        ("Cast", 1) => cast(x, a.int("to", 0))?,
        ("Not" | "Neg" | "Abs", 1) if node.attribute.is_empty() => unary(&node.op_type, x)?,
        ("Mod", 2) if a.int("fmod", 0) == 0 => binary("Mod", x, other(1)?)?,
        (op, 2) if node.attribute.is_empty() && is_binary(op) => binary(op, x, other(1)?)?,
        ("Where", 3) => choose(x, other(1)?, other(2)?)?,
        ("Concat", _) => concat(inputs, a.has("axis").then(|| a.int("axis", 0))?)?,
        ("Expand", 2) => each(x, Stretch(&sizes(other(1)?)?))?,
        ("Flatten", 1) => {
            let at = bound(a.int("axis", 1), x.rank())?;
            let (outer, inner) = x.shape().split_at(at);
            reshaped(x, &[outer.iter().product(), inner.iter().product()])?
        }
        ("Gather", 2) => each(x, Pick { indices: other(1)?, axis: axis(a.int("axis", 0), x.rank())? })?,
        ("NonZero", 1) => non_zero(x)?,
        ("Range", 3) => range(x, other(1)?, other(2)?)?,
        ("Reshape", 2) if a.int("allowzero", 0) == 0 => reshaped(x, &shape(x.shape(), &ints(other(1)?)?)?)?,
        ("Slice", 3..=5) => each(x, slice(x.shape(), &ints(other(1)?)?, &ints(other(2)?)?, other(3), other(4))?)?,
        ("Squeeze", 1) if node.attribute.is_empty() => reshaped(x, &without(x.shape(), |_, n| n == 1))?,
        ("Squeeze", _) => {
            let axes = axes(a, other(1), x.rank())?;
            axes.iter().all(|&axis| x.shape()[axis] == 1).then_some(())?;
            reshaped(x, &without(x.shape(), |axis, _| axes.contains(&axis)))?
        }
        ("Transpose", 1) => each(x, transposed(x.shape(), a.ints("perm"))?)?,
        ("Unsqueeze", _) => {
            let count = a.ints("axes").map_or_else(|| other(1).map(Tensor::len), |axes| Some(axes.len()))?;
            let rank = x.rank() + count;
            let axes = axes(a, other(1), rank)?;
            let mut old = x.shape().iter().copied();
            let dims: Option<Dims> = (0..rank).map(|i| if axes.contains(&i) { Some(1) } else { old.next() }).collect();
            reshaped(x, &dims?)?
        }
        _ => return None,
    };
    Some(made.into_arc_tensor())
}

/// Elements of a shape, if there are not too many.
fn volume(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST / 8)
}

fn slice_of<T: Datum>(x: &Tensor) -> Option<&[T]> {
    x.try_as_plain_ram().ok()?.as_slice::<T>().ok()
}

pub(super) fn tensor<T: Datum + Copy>(dims: &[usize], values: &[T]) -> Option<Tensor> {
    Tensor::from_shape(dims, values).ok()
}

/// Integers of any shape, one after the other.
fn ints(x: &Tensor) -> Option<TVec<i64>> {
    match x.datum_type() {
        DatumType::I64 => slice_of::<i64>(x).map(Into::into),
        DatumType::I32 => Some(slice_of::<i32>(x)?.iter().map(|&v| v.into()).collect()),
        _ => None,
    }
}

fn sizes(x: &Tensor) -> Option<Dims> {
    ints(x)?.into_iter().map(|n| usize::try_from(n).ok()).collect()
}

/// A number from 0 to `n`, counted from the end if it is negative.
fn bound(i: i64, n: usize) -> Option<usize> {
    let counted = if i < 0 { i.checked_add(n as i64)? } else { i };
    usize::try_from(counted).ok().filter(|&i| i <= n)
}

fn axis(i: i64, rank: usize) -> Option<usize> {
    bound(i, rank).filter(|&i| i < rank)
}

/// Axes, an attribute or an input, each once.
fn axes(a: Attributes<'_>, input: Option<&Tensor>, rank: usize) -> Option<Dims> {
    let given: TVec<i64> = match a.ints("axes") {
        Some(axes) => axes.into(),
        None => ints(input?)?,
    };
    let axes = given.iter().map(|&i| axis(i, rank)).collect::<Option<Dims>>()?;
    (0..axes.len()).all(|i| !axes[..i].contains(&axes[i])).then_some(axes)
}

fn without(dims: &[usize], goes: impl Fn(usize, usize) -> bool) -> Dims {
    dims.iter().enumerate().filter(|&(axis, &n)| !goes(axis, n)).map(|(_, &n)| n).collect()
}

fn reshaped(x: &Tensor, dims: &[usize]) -> Option<Tensor> {
    volume(dims)?;
    x.clone().into_shape(dims).ok()
}

/// What `Reshape` makes of a shape: 0 keeps a size, one -1 takes what is left.
fn shape(dims: &[usize], wanted: &[i64]) -> Option<Dims> {
    let kept = |(i, &n): (usize, &i64)| match n {
        0 => dims.get(i).copied(),
        -1 => Some(1),
        n => usize::try_from(n).ok(),
    };
    let mut made = wanted.iter().enumerate().map(kept).collect::<Option<Dims>>()?;
    if let Some(open) = wanted.iter().position(|&n| n == -1) {
        let (all, rest) = (volume(dims)?, volume(&made)?);
        (rest > 0 && all % rest == 0).then_some(())?;
        made[open] = all / rest;
    }
    Some(made)
}

/// A view of a tensor's elements: sizes, steps along the axes, where it starts.
struct View {
    dims: Dims,
    steps: TVec<isize>,
    start: isize,
}

fn steps(dims: &[usize]) -> TVec<isize> {
    let mut steps: TVec<isize> = tvec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        steps[axis - 1] = steps[axis] * dims[axis] as isize;
    }
    steps
}

/// Steps of a tensor of these sizes as it is broadcast to others.
fn stretched(dims: &[usize], to: &[usize]) -> Option<TVec<isize>> {
    let missing = to.len().checked_sub(dims.len())?;
    let step = |(axis, step): (usize, isize)| match dims[axis] {
        1 => Some(0),
        n => (n == to[missing + axis]).then_some(step),
    };
    let own = steps(dims).into_iter().enumerate().map(step).collect::<Option<TVec<isize>>>()?;
    Some(std::iter::repeat_n(0, missing).chain(own).collect())
}

/// The sizes that both broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Option<Dims> {
    let rank = a.len().max(b.len());
    let size = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    let both = |axis: usize| match (size(a, axis), size(b, axis)) {
        (1, n) | (n, 1) => Some(n),
        (n, m) => (n == m).then_some(n),
    };
    (0..rank).map(both).collect()
}

/// Calls `row` with where each row along the last axis starts, in each of some tensors that are walked with these steps.
fn rows<const N: usize>(dims: &[usize], steps: [&[isize]; N], row: &mut dyn FnMut([isize; N])) {
    let Some(outer) = dims.len().checked_sub(1).map(|last| &dims[..last]) else { return row([0; N]) };
    if dims.contains(&0) {
        return;
    }
    let (mut at, mut place) = ([0isize; N], tvec![0usize; outer.len()]);
    loop {
        row(at);
        let mut axis = outer.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return };
            axis = next;
            place[axis] += 1;
            (0..N).for_each(|i| at[i] += steps[i][axis]);
            if place[axis] < outer[axis] {
                break;
            }
            (0..N).for_each(|i| at[i] -= steps[i][axis] * outer[axis] as isize);
            place[axis] = 0;
        }
    }
}

/// Length of a row, and the step in it.
fn along(dims: &[usize], steps: &[isize]) -> (usize, isize) {
    (dims.last().copied().unwrap_or(1), steps.last().copied().unwrap_or(0))
}

fn zipped<A: Datum + Copy, T: Datum + Copy>(a: &Tensor, b: &Tensor, f: fn(A, A) -> T) -> Option<Tensor> {
    let dims = broadcast(a.shape(), b.shape())?;
    let mut out = Vec::with_capacity(volume(&dims)?);
    let (x, y) = (slice_of::<A>(a)?, slice_of::<A>(b)?);
    let (p, q) = (stretched(a.shape(), &dims)?, stretched(b.shape(), &dims)?);
    let ((n, s), (_, t)) = (along(&dims, &p), along(&dims, &q));
    rows(&dims, [&p, &q], &mut |[i, j]| {
        out.extend((0..n as isize).map(|k| f(x[(i + k * s) as usize], y[(j + k * t) as usize])));
    });
    tensor(&dims, &out)
}

fn is_binary(op: &str) -> bool {
    let numbers = matches!(op, "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "And" | "Or");
    numbers || matches!(op, "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual")
}

fn binary(op: &str, a: &Tensor, b: &Tensor) -> Option<Tensor> {
    if a.datum_type() != b.datum_type() {
        return None;
    }
    macro_rules! integers {
        ($t:ty) => {
            match op {
                "Add" => zipped(a, b, <$t>::wrapping_add),
                "Sub" => zipped(a, b, <$t>::wrapping_sub),
                "Mul" => zipped(a, b, <$t>::wrapping_mul),
                "Max" => zipped(a, b, <$t as Ord>::max),
                "Min" => zipped(a, b, <$t as Ord>::min),
                "Div" | "Mod" if slice_of::<$t>(b)?.contains(&0) => None,
                "Div" => zipped(a, b, <$t>::wrapping_div),
                "Mod" => zipped(a, b, |x: $t, y: $t| {
                    let rest = x.wrapping_rem(y);
                    if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }
                }),
                op => compared::<$t>(op, a, b),
            }
        };
    }
    match a.datum_type() {
        DatumType::I64 => integers!(i64),
        DatumType::I32 => integers!(i32),
        DatumType::F32 => match op {
            "Add" => zipped(a, b, |x: f32, y: f32| x + y),
            "Sub" => zipped(a, b, |x: f32, y: f32| x - y),
            "Mul" => zipped(a, b, |x: f32, y: f32| x * y),
            "Div" => zipped(a, b, |x: f32, y: f32| x / y),
            op => compared::<f32>(op, a, b),
        },
        DatumType::Bool => match op {
            "And" => zipped(a, b, |x: bool, y: bool| x && y),
            "Or" => zipped(a, b, |x: bool, y: bool| x || y),
            "Equal" => zipped(a, b, |x: bool, y: bool| x == y),
            _ => None,
        },
        _ => None,
    }
}

fn compared<T: Datum + Copy + PartialOrd>(op: &str, a: &Tensor, b: &Tensor) -> Option<Tensor> {
    match op {
        "Equal" => zipped(a, b, |x: T, y: T| x == y),
        "Less" => zipped(a, b, |x: T, y: T| x < y),
        "LessOrEqual" => zipped(a, b, |x: T, y: T| x <= y),
        "Greater" => zipped(a, b, |x: T, y: T| x > y),
        "GreaterOrEqual" => zipped(a, b, |x: T, y: T| x >= y),
        _ => None,
    }
}

fn map<A: Datum + Copy, T: Datum + Copy>(x: &Tensor, f: fn(A) -> Option<T>) -> Option<Tensor> {
    volume(x.shape())?;
    let out: Vec<T> = slice_of::<A>(x)?.iter().map(|&v| f(v)).collect::<Option<_>>()?;
    tensor(x.shape(), &out)
}

fn unary(op: &str, x: &Tensor) -> Option<Tensor> {
    match (op, x.datum_type()) {
        ("Not", DatumType::Bool) => map(x, |v: bool| Some(!v)),
        ("Neg", DatumType::I64) => map(x, i64::checked_neg),
        ("Neg", DatumType::I32) => map(x, i32::checked_neg),
        ("Abs", DatumType::I64) => map(x, i64::checked_abs),
        ("Abs", DatumType::I32) => map(x, i32::checked_abs),
        _ => None,
    }
}

/// A cast to an element type by ONNX's number; none of a number that does not fit.
pub(super) fn cast(x: &Tensor, to: i64) -> Option<Tensor> {
    fn fits(v: f32) -> Option<f32> {
        (v.abs() < (1 << 24) as f32).then_some(v) // from there on not every integer has an `f32`
    }
    match (x.datum_type(), to) {
        (DatumType::I64, 7) | (DatumType::I32, 6) | (DatumType::F32, 1) | (DatumType::Bool, 9) => reshaped(x, x.shape()),
        (DatumType::I64, 6) => map(x, |v: i64| i32::try_from(v).ok()),
        (DatumType::I64, 9) => map(x, |v: i64| Some(v != 0)),
        (DatumType::I64, 1) => map(x, |v: i64| Some(v as f32)),
        (DatumType::I32, 7) => map(x, |v: i32| Some(i64::from(v))),
        (DatumType::I32, 9) => map(x, |v: i32| Some(v != 0)),
        (DatumType::I32, 1) => map(x, |v: i32| Some(v as f32)),
        (DatumType::F32, 6) => map(x, |v: f32| fits(v).map(|v| v as i32)),
        (DatumType::F32, 7) => map(x, |v: f32| fits(v).map(|v| v as i64)),
        (DatumType::F32, 9) => map(x, |v: f32| Some(v != 0.0)),
        (DatumType::Bool, 1) => map(x, |v: bool| Some(if v { 1.0f32 } else { 0.0 })),
        (DatumType::Bool, 6) => map(x, |v: bool| Some(i32::from(v))),
        (DatumType::Bool, 7) => map(x, |v: bool| Some(i64::from(v))),
        _ => None,
    }
}

/// Work that moves elements, whatever they are.
trait Moves {
    fn run<T: Datum + Copy>(&self, x: &Tensor) -> Option<Tensor>;
}

fn each(x: &Tensor, work: impl Moves) -> Option<Tensor> {
    match x.datum_type() {
        DatumType::I64 => work.run::<i64>(x),
        DatumType::I32 => work.run::<i32>(x),
        DatumType::F32 => work.run::<f32>(x),
        DatumType::Bool => work.run::<bool>(x),
        _ => None,
    }
}

impl Moves for View {
    fn run<T: Datum + Copy>(&self, x: &Tensor) -> Option<Tensor> {
        let mut out = Vec::with_capacity(volume(&self.dims)?);
        let x = slice_of::<T>(x)?;
        let (n, step) = along(&self.dims, &self.steps);
        rows(&self.dims, [&self.steps], &mut |[at]| {
            let at = self.start + at;
            match step {
                1 => out.extend_from_slice(&x[at as usize..][..n]),
                step => out.extend((0..n as isize).map(|k| x[(at + k * step) as usize])),
            }
        });
        tensor(&self.dims, &out)
    }
}

/// Broadcasts to a shape, and the shape to the tensor.
struct Stretch<'a>(&'a [usize]);

impl Moves for Stretch<'_> {
    fn run<T: Datum + Copy>(&self, x: &Tensor) -> Option<Tensor> {
        let dims = broadcast(x.shape(), self.0)?;
        let steps = stretched(x.shape(), &dims)?;
        View { dims, steps, start: 0 }.run::<T>(x)
    }
}

/// `Gather`.
struct Pick<'a> {
    indices: &'a Tensor,
    axis: usize,
}

impl Moves for Pick<'_> {
    fn run<T: Datum + Copy>(&self, x: &Tensor) -> Option<Tensor> {
        let n = x.shape()[self.axis];
        let places = ints(self.indices)?.into_iter().map(|i| axis(i, n)).collect::<Option<Dims>>()?;
        let (outer, inner) = (&x.shape()[..self.axis], &x.shape()[self.axis + 1..]);
        let dims: Dims = outer.iter().chain(self.indices.shape()).chain(inner).copied().collect();
        let mut out = Vec::with_capacity(volume(&dims)?);
        let (x, block) = (slice_of::<T>(x)?, inner.iter().product::<usize>());
        for start in 0..outer.iter().product() {
            places.iter().for_each(|place| out.extend_from_slice(&x[(start * n + place) * block..][..block]));
        }
        tensor(&dims, &out)
    }
}

/// `Where`.
fn choose(condition: &Tensor, a: &Tensor, b: &Tensor) -> Option<Tensor> {
    struct Choice<'a>(&'a Tensor, &'a Tensor);
    impl Moves for Choice<'_> {
        fn run<T: Datum + Copy>(&self, a: &Tensor) -> Option<Tensor> {
            let (condition, b) = (self.0, self.1);
            let dims = broadcast(condition.shape(), &broadcast(a.shape(), b.shape())?)?;
            let mut out = Vec::with_capacity(volume(&dims)?);
            let (c, x, y) = (slice_of::<bool>(condition)?, slice_of::<T>(a)?, slice_of::<T>(b)?);
            let of = |tensor: &Tensor| stretched(tensor.shape(), &dims);
            let (p, q, r) = (of(condition)?, of(a)?, of(b)?);
            let ((n, s), (_, t), (_, u)) = (along(&dims, &p), along(&dims, &q), along(&dims, &r));
            rows(&dims, [&p, &q, &r], &mut |[h, i, j]| {
                let chosen = |k: isize| if c[(h + k * s) as usize] { x[(i + k * t) as usize] } else { y[(j + k * u) as usize] };
                out.extend((0..n as isize).map(chosen));
            });
            tensor(&dims, &out)
        }
    }
    if a.datum_type() != b.datum_type() {
        return None;
    }
    each(a, Choice(condition, b))
}

fn concat(inputs: &[Option<Arc<Tensor>>], at: i64) -> Option<Tensor> {
    struct Parts<'a>(TVec<&'a Tensor>, usize);
    impl Moves for Parts<'_> {
        fn run<T: Datum + Copy>(&self, first: &Tensor) -> Option<Tensor> {
            let Parts(parts, axis) = self;
            let fits = |(i, (a, b)): (usize, (&usize, &usize))| i == *axis || a == b;
            let alike = |x: &&Tensor| x.rank() == first.rank() && x.shape().iter().zip(first.shape()).enumerate().all(fits);
            parts.iter().all(alike).then_some(())?;
            let mut dims: Dims = first.shape().into();
            dims[*axis] = parts.iter().try_fold(0usize, |n, x| n.checked_add(x.shape()[*axis]))?;
            let mut out = Vec::with_capacity(volume(&dims)?);
            let slices = parts.iter().map(|x| slice_of::<T>(x)).collect::<Option<TVec<_>>>()?;
            let blocks: Dims = parts.iter().map(|x| x.shape()[*axis..].iter().product()).collect();
            for i in 0..dims[..*axis].iter().product() {
                slices.iter().zip(&blocks).for_each(|(x, &n)| out.extend_from_slice(&x[i * n..][..n]));
            }
            tensor(&dims, &out)
        }
    }
    let parts = inputs.iter().map(|input| input.as_deref()).collect::<Option<TVec<_>>>()?;
    let first = *parts.first()?;
    let at = axis(at, first.rank())?;
    each(first, Parts(parts, at))
}

fn transposed(dims: &[usize], order: Option<&[i64]>) -> Option<View> {
    let reversed = || (0..dims.len()).rev().collect();
    let order: Dims = order.map_or_else(|| Some(reversed()), |order| order.iter().map(|&i| axis(i, dims.len())).collect())?;
    let whole = order.len() == dims.len() && (0..dims.len()).all(|axis| order.contains(&axis));
    let own = steps(dims);
    whole.then(|| View {
        dims: order.iter().map(|&axis| dims[axis]).collect(),
        steps: order.iter().map(|&axis| own[axis]).collect(),
        start: 0,
    })
}

fn slice(dims: &[usize], starts: &[i64], ends: &[i64], given: Option<&Tensor>, by: Option<&Tensor>) -> Option<View> {
    let count = starts.len();
    let along = match given {
        Some(axes) => ints(axes)?.into_iter().map(|i| axis(i, dims.len())).collect::<Option<Dims>>()?,
        None => (0..count).collect(),
    };
    let by = by.map_or_else(|| Some(tvec![1; count]), ints)?;
    let distinct = (0..along.len()).all(|i| along[i] < dims.len() && !along[..i].contains(&along[i]));
    (distinct && ends.len() == count && along.len() == count && by.len() == count).then_some(())?;
    let mut view = View { dims: dims.into(), steps: steps(dims), start: 0 };
    for (i, &axis) in along.iter().enumerate() {
        let (n, step) = (dims[axis] as i64, by[i]);
        // Backwards it can end before the first element, and starts at the last at most.
        let (least, most) = if step < 0 { (-1, n - 1) } else { (0, n) };
        let place = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        if step < 0 && place(starts[i]) < 0 {
            return None; // numpy and ONNX's text differ
        }
        let start = place(starts[i]).clamp(least, most).max(0);
        let end = place(ends[i]).clamp(least, most);
        let count = match step {
            0 => return None,
            step if step > 0 => (end - start).max(0).checked_add(step - 1)? / step,
            step => (start - end).max(0).checked_add(step.checked_neg()? - 1)? / step.checked_neg()?,
        };
        view.dims[axis] = usize::try_from(count).ok()?;
        view.start += start as isize * view.steps[axis];
        view.steps[axis] = view.steps[axis].checked_mul(isize::try_from(step).ok()?)?;
    }
    Some(view)
}

fn range(start: &Tensor, limit: &Tensor, step: &Tensor) -> Option<Tensor> {
    if [start, limit, step].iter().any(|x| x.datum_type() != DatumType::I64 || x.len() != 1) {
        return None;
    }
    let [start, limit, step] = [start, limit, step].map(|x| slice_of::<i64>(x).map(|v| v[0]));
    let (start, limit, step) = (start?, limit?, step?);
    let (span, size) =
        if step < 0 { (start.checked_sub(limit)?, step.checked_neg()?) } else { (limit.checked_sub(start)?, step) };
    (size > 0).then_some(())?;
    let count = usize::try_from(span.max(0).checked_add(size - 1)? / size).ok()?;
    volume(&[count])?;
    tensor(&[count], &(0..count as i64).map(|i| start + i * step).collect::<Vec<_>>())
}

/// Places of what is not zero: per axis of `x` a row.
fn non_zero(x: &Tensor) -> Option<Tensor> {
    volume(x.shape())?;
    let (dims, own) = (x.shape(), steps(x.shape()));
    let found: Vec<usize> = match x.datum_type() {
        DatumType::Bool => slice_of::<bool>(x)?.iter().enumerate().filter(|(_, v)| **v).map(|(i, _)| i).collect(),
        DatumType::I64 => slice_of::<i64>(x)?.iter().enumerate().filter(|(_, v)| **v != 0).map(|(i, _)| i).collect(),
        DatumType::F32 => slice_of::<f32>(x)?.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(i, _)| i).collect(),
        _ => return None,
    };
    // One number has no axis; of no place at all tract knows what it is.
    (!dims.is_empty() && !found.is_empty()).then_some(())?;
    volume(&[dims.len(), found.len()])?;
    let row = |axis: usize| {
        let (step, n) = (own[axis] as usize, dims[axis]);
        found.iter().map(move |&i| (i / step % n) as i64)
    };
    tensor(&[dims.len(), found.len()], &(0..dims.len()).flat_map(row).collect::<Vec<_>>())
}
