//! Constants: weights seen through layouts, and the parts of a graph that hang only on them.
//!
//! A constant stays where it is, in the mapped file for a large one, and axis operations on it only rewrite its
//! [`Layout`]; its elements are read once, when they are packed into the image. Arithmetic on constants is evaluated here,
//! one tensor at a time.

use super::layout::Layout;
use super::net::Net;
use super::pack::Source;
use super::scalar;
use crate::graph::{Bytes, Op};
use crate::tensor::DType;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A constant tensor.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    store: Store,
    /// The type of the bytes; elements are converted from it to `dtype` when read.
    stored: DType,
    pub dtype: DType,
    pub layout: Layout,
}

/// Where its elements lie.
#[derive(Clone, Debug)]
enum Store {
    Bytes(Bytes),
    /// Other constants', one behind the other. An exporter may cut the gates of a recurrent cell's weights apart and put them together
    /// in another order, twice over: only what is read is written, and it is gone with its last reader.
    Joined(Arc<Joined>),
}

#[derive(Debug)]
struct Joined {
    parts: Vec<Constant>,
    bytes: OnceLock<Vec<u8>>,
}

impl Joined {
    fn write(&self, mut to: &mut [u8]) {
        for part in &self.parts {
            let (here, rest) = to.split_at_mut(part.size());
            part.write(here);
            to = rest;
        }
    }
}

impl Store {
    fn as_slice(&self) -> &[u8] {
        match self {
            Store::Bytes(bytes) => bytes.as_slice(),
            Store::Joined(joined) => joined.bytes.get_or_init(|| {
                let mut bytes = vec![0; joined.parts.iter().map(Constant::size).sum()];
                joined.write(&mut bytes);
                bytes
            }),
        }
    }

    fn copy(&self, range: Range<usize>, to: &mut [u8]) {
        match self {
            Store::Bytes(bytes) => bytes.copy(range, to),
            Store::Joined(joined) => {
                let whole = range == (0..joined.parts.iter().map(Constant::size).sum());
                if whole && joined.bytes.get().is_none() {
                    joined.write(to);
                } else {
                    to.copy_from_slice(&self.as_slice()[range]);
                }
            }
        }
    }
}

impl Constant {
    pub fn new(bytes: Bytes, dtype: DType, dims: &[usize]) -> Constant {
        Constant { store: Store::Bytes(bytes), stored: dtype, dtype, layout: Layout::row_major(dims) }
    }

    /// Bytes of all elements.
    fn size(&self) -> usize {
        self.layout.elements() * self.dtype.size()
    }

    /// A row-major constant of `f32`.
    pub fn of_f32(values: &[f32], dims: &[usize]) -> Constant {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Constant::new(Bytes::Owned(bytes.into()), DType::F32, dims)
    }

    /// A row-major constant of integers or booleans.
    pub fn of_i64(values: &[i64], dtype: DType, dims: &[usize]) -> Constant {
        let size = dtype.size();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec()).collect();
        Constant::new(Bytes::Owned(bytes.into()), dtype, dims)
    }

    /// The same elements through another layout.
    pub fn with_layout(&self, layout: Layout) -> Constant {
        Constant { layout, ..self.clone() }
    }

    /// The stored element at this index, as `f32`.
    #[inline]
    pub fn at(&self, index: usize) -> f32 {
        let b = self.store.as_slice();
        match self.stored {
            DType::F32 => f32::from_le_bytes([b[4 * index], b[4 * index + 1], b[4 * index + 2], b[4 * index + 3]]),
            DType::F16 => f16_to_f32(u16::from_le_bytes([b[2 * index], b[2 * index + 1]])),
            DType::BF16 => f32::from_bits((u16::from_le_bytes([b[2 * index], b[2 * index + 1]]) as u32) << 16),
            DType::F64 => {
                let mut eight = [0; 8];
                eight.copy_from_slice(&b[8 * index..8 * index + 8]);
                f64::from_le_bytes(eight) as f32
            }
            DType::U64 => self.integer(index) as u64 as f32,
            _ => self.integer(index) as f32,
        }
    }

    /// Gives `read` the stored elements from this index on, for a packer.
    pub fn elements<R>(&self, start: usize, read: impl FnOnce(Source<'_>) -> R) -> R {
        match self.store.as_slice().as_chunks::<4>().0.get(start..) {
            Some(all) if self.stored == DType::F32 => read(Source::Stored(all)),
            _ => read(Source::Made(&|i| self.at(start + i))),
        }
    }

    /// The stored element at this index, as an integer.
    fn integer(&self, index: usize) -> i64 {
        let size = self.stored.size();
        let b = &self.store.as_slice()[index * size..(index + 1) * size];
        let mut eight = [0; 8];
        eight[..size].copy_from_slice(b);
        let wide = i64::from_le_bytes(eight);
        match self.stored {
            DType::I8 => wide as i8 as i64,
            DType::I16 => wide as i16 as i64,
            DType::I32 => wide as i32 as i64,
            DType::Bool => (wide != 0) as i64,
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => {
                if self.stored == DType::F64 {
                    f64::from_le_bytes(eight) as i64
                } else {
                    self.at(index) as i64
                }
            }
            _ => wide,
        }
    }

    /// Storage indices of all elements, row-major.
    fn indices(&self) -> Vec<usize> {
        offsets(&self.layout.dims, &self.layout.strides).into_iter().map(|i| i + self.layout.offset).collect()
    }

    /// All elements, row-major, as `f32`.
    pub fn f32s(&self) -> Vec<f32> {
        let truth = self.dtype == DType::Bool && self.stored != DType::Bool;
        if self.stored == DType::F32 && !truth && self.layout.is_row_major() {
            let all = self.store.as_slice()[4 * self.layout.offset..].as_chunks::<4>().0;
            return all[..self.layout.elements()].iter().map(|&b| f32::from_le_bytes(b)).collect();
        }
        self.indices().into_iter().map(|i| if truth { (self.at(i) != 0.0) as u8 as f32 } else { self.at(i) }).collect()
    }

    /// All elements, row-major, as integers.
    pub fn i64s(&self) -> Vec<i64> {
        // Indices mostly are what they are stored as, one behind the other: tables of them can be long.
        if self.stored == DType::I64 && self.layout.is_row_major() {
            let all = self.store.as_slice()[8 * self.layout.offset..].as_chunks::<8>().0;
            return all[..self.layout.elements()].iter().map(|&b| i64::from_le_bytes(b)).collect();
        }
        let truth = self.dtype == DType::Bool && is_float(self.stored);
        self.indices().into_iter().map(|i| if truth { (self.at(i) != 0.0) as i64 } else { self.integer(i) }).collect()
    }

    /// The value that all elements have, if they agree.
    pub fn uniform(&self) -> Option<f32> {
        if self.layout.elements() == 0 || self.layout.elements() > 1 << 16 {
            return None;
        }
        let all = self.f32s();
        all.iter().all(|v| v.to_bits() == all[0].to_bits()).then_some(all[0])
    }

    /// Writes all elements, row-major, as the bytes of `dtype`.
    pub fn write(&self, to: &mut [u8]) {
        let size = self.dtype.size();
        if self.stored == self.dtype && self.layout.is_row_major() {
            let start = self.layout.offset * size;
            let len = self.layout.elements() * size;
            self.store.copy(start..start + len, &mut to[..len]);
            return;
        }
        for (i, to) in self.indices().into_iter().zip(to.chunks_exact_mut(size)) {
            if self.stored == self.dtype {
                to.copy_from_slice(&self.store.as_slice()[i * size..(i + 1) * size]);
                continue;
            }
            match self.dtype {
                DType::F32 => to.copy_from_slice(&self.at(i).to_le_bytes()),
                DType::F64 => to.copy_from_slice(&(self.at(i) as f64).to_le_bytes()),
                DType::F16 => to.copy_from_slice(&f32_to_f16(self.at(i)).to_le_bytes()),
                DType::BF16 => to.copy_from_slice(&((self.at(i).to_bits() >> 16) as u16).to_le_bytes()),
                DType::Bool => to[0] = (self.at(i) != 0.0) as u8,
                _ => to.copy_from_slice(&self.integer(i).to_le_bytes()[..size]),
            }
        }
    }
}

/// Whether it is one of the floating-point types.
pub(super) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// Where each element of an index space lies, row-major.
pub(super) fn offsets(dims: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut all = vec![0];
    for (&d, &s) in dims.iter().zip(strides) {
        all = all.iter().flat_map(|&base| (0..d).map(move |i| base + i * s)).collect();
    }
    all
}

fn f16_to_f32(h: u16) -> f32 {
    let sign = ((h >> 15) as u32) << 31;
    let (exponent, fraction) = ((h >> 10) as u32 & 31, h as u32 & 1023);
    match (exponent, fraction) {
        (0, f) => f32::from_bits(sign | (f as f32 / 16_777_216.0).to_bits()),
        (31, f) => f32::from_bits(sign | 0x7f80_0000 | f << 13),
        (e, f) => f32::from_bits(sign | (e + 112) << 23 | f << 13),
    }
}

fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    if magnitude < 6.103_515_6e-5 {
        return sign | (magnitude * 16_777_216.0).round_ties_even() as u16;
    }
    let rounded = (magnitude.to_bits() + 0xfff + (magnitude.to_bits() >> 13 & 1)) >> 13;
    sign | (rounded - (112 << 10)) as u16
}

/// Evaluates all nodes whose inputs are constants and that are cheap to evaluate; their outputs become constants.
pub(super) fn fold(net: &mut Net) {
    for i in 0..net.graph.nodes.len() {
        let node = &net.graph.nodes[i];
        let [Some(out)] = node.outputs[..] else { continue };
        if net.constant(out).is_some() || node.inputs.is_empty() {
            continue;
        }
        let inputs: Option<Vec<Constant>> = node.inputs.iter().map(|v| net.constant((*v)?).cloned()).collect();
        let Some(inputs) = inputs else { continue };
        let (dims, dtype) = (net.dims(out).to_vec(), net.dtype(out));
        if let Some(constant) = evaluate(&node.op, &inputs, &dims, dtype) {
            debug_assert_eq!(constant.layout.dims, dims);
            net.set_constant(out, constant);
        }
    }
    net.tidy();
}

fn evaluate(op: &Op, inputs: &[Constant], dims: &[usize], dtype: DType) -> Option<Constant> {
    let x = inputs.first()?;
    let layout = match op {
        Op::Transpose(perm) => x.layout.transpose(perm),
        // The same bits as another type.
        Op::Reshape if dtype != x.dtype => {
            return Some(Constant { stored: dtype, dtype, layout: Layout::row_major(dims), ..materialized(x) });
        }
        Op::Reshape => match x.layout.reshape(dims) {
            Some(layout) => layout,
            None => return Some(materialized(x).with_layout(Layout::row_major(dims))),
        },
        Op::Slice { axis, start, step, .. } if *step > 0 => x.layout.slice(*axis, *start, *step as usize, dims[*axis]),
        Op::Broadcast => x.layout.broadcast(dims),
        Op::Cast => return cast(x, dtype),
        Op::Concat { axis } => return concat(inputs, *axis, dims, dtype),
        Op::Gather { axis } => return gather(x, inputs.get(1)?, *axis, dims, dtype),
        Op::Unary(f, p) if dtype == DType::F32 => {
            let values: Option<Vec<f32>> = x.f32s().into_iter().map(|v| scalar::unary(*f, *p, v)).collect();
            return Some(Constant::of_f32(&values?, dims));
        }
        Op::Binary(f) => {
            let y = inputs.get(1)?;
            let (x, y) = (x.with_layout(x.layout.broadcast(dims)), y.with_layout(y.layout.broadcast(dims)));
            if is_float(x.dtype) && dtype == DType::F32 {
                let values: Option<Vec<f32>> = x.f32s().iter().zip(y.f32s()).map(|(&a, b)| scalar::binary(*f, a, b)).collect();
                return Some(Constant::of_f32(&values?, dims));
            }
            if !is_float(x.dtype) && !is_float(dtype) {
                let values: Option<Vec<i64>> = x.i64s().iter().zip(y.i64s()).map(|(&a, b)| scalar::integer(*f, a, b)).collect();
                return Some(Constant::of_i64(&values?, dtype, dims));
            }
            return None;
        }
        Op::Select => {
            let [c, a, b] = inputs else { return None };
            let wide = |x: &Constant| x.with_layout(x.layout.broadcast(dims));
            let c = wide(c).i64s();
            return Some(if dtype == DType::F32 {
                let values: Vec<f32> = zip3(&c, wide(a).f32s(), wide(b).f32s());
                Constant::of_f32(&values, dims)
            } else if is_float(dtype) {
                return None;
            } else {
                let values: Vec<i64> = zip3(&c, wide(a).i64s(), wide(b).i64s());
                Constant::of_i64(&values, dtype, dims)
            });
        }
        _ => return None,
    };
    Some(x.with_layout(layout))
}

fn zip3<T: Copy>(c: &[i64], a: Vec<T>, b: Vec<T>) -> Vec<T> {
    c.iter().zip(a.iter().zip(&b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect()
}

/// A row-major copy.
fn materialized(x: &Constant) -> Constant {
    let mut bytes = vec![0; x.layout.elements() * x.dtype.size()];
    x.write(&mut bytes);
    Constant::new(Bytes::Owned(bytes.into()), x.dtype, &x.layout.dims)
}

fn cast(x: &Constant, dtype: DType) -> Option<Constant> {
    // Between floats the conversion can wait until the elements are read; the others are rare and small.
    if is_float(x.dtype) && is_float(dtype) && is_float(x.stored) {
        return Some(Constant { dtype, ..x.clone() });
    }
    if is_float(dtype) {
        return (dtype == DType::F32).then(|| Constant::of_f32(&x.f32s(), &x.layout.dims));
    }
    let values = match (is_float(x.dtype), dtype) {
        (true, DType::Bool) => x.f32s().iter().map(|&v| (v != 0.0) as i64).collect(),
        (false, DType::Bool) => x.i64s().iter().map(|&v| (v != 0) as i64).collect::<Vec<_>>(),
        _ => x.i64s(),
    };
    Some(Constant::of_i64(&values, dtype, &x.layout.dims))
}

fn concat(inputs: &[Constant], axis: usize, dims: &[usize], dtype: DType) -> Option<Constant> {
    let size = dtype.size();
    let inner: usize = dims[axis + 1..].iter().product::<usize>() * size;
    let outer: usize = dims[..axis].iter().product();
    if outer == 1 && inputs.iter().all(|x| x.dtype == dtype) {
        let joined = Joined { parts: inputs.to_vec(), bytes: OnceLock::new() };
        return Some(Constant { store: Store::Joined(joined.into()), stored: dtype, dtype, layout: Layout::row_major(dims) });
    }
    let parts: Vec<Vec<u8>> = inputs
        .iter()
        .map(|x| {
            let mut bytes = vec![0; x.layout.elements() * size];
            x.write(&mut bytes);
            bytes
        })
        .collect();
    let mut out = Vec::with_capacity(dims.iter().product::<usize>() * size);
    for o in 0..outer {
        for (x, part) in inputs.iter().zip(&parts) {
            let row = x.layout.dims[axis] * inner;
            out.extend_from_slice(&part[o * row..(o + 1) * row]);
        }
    }
    Some(Constant::new(Bytes::Owned(out.into()), dtype, dims))
}

fn gather(x: &Constant, index: &Constant, axis: usize, dims: &[usize], dtype: DType) -> Option<Constant> {
    let bytes: usize = dims.iter().product::<usize>() * dtype.size();
    if bytes > 1 << 22 || is_float(index.dtype) {
        return None;
    }
    let n = x.layout.dims[axis];
    let mut out = Vec::with_capacity(bytes);
    let outer: usize = x.layout.dims[..axis].iter().product();
    let row: usize = x.layout.dims[axis + 1..].iter().product::<usize>() * dtype.size();
    let mut table = vec![0; x.layout.elements() * dtype.size()];
    x.write(&mut table);
    for o in 0..outer {
        for i in index.i64s() {
            let i = if i < 0 { i + n as i64 } else { i };
            let at = o * n + usize::try_from(i).ok().filter(|&i| i < n)?;
            out.extend_from_slice(&table[at * row..(at + 1) * row]);
        }
    }
    Some(Constant::new(Bytes::Owned(out.into()), dtype, dims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_both_ways() {
        for h in 0..=u16::MAX {
            let x = f16_to_f32(h);
            if x.is_nan() {
                assert!(f16_to_f32(f32_to_f16(x)).is_nan());
            } else {
                assert_eq!(f32_to_f16(x), h, "{x}");
            }
        }
        assert_eq!(f32_to_f16(1.0 + 1.0 / 2048.0), 0x3c00); // ties to even
        assert_eq!(f32_to_f16(65519.0), 0x7bff);
    }

    #[test]
    fn a_constant_is_read_through_its_layout() {
        let x = Constant::of_f32(&[0., 1., 2., 3., 4., 5.], &[2, 3]);
        let t = evaluate(&Op::Transpose(vec![1, 0]), std::slice::from_ref(&x), &[3, 2], DType::F32).unwrap();
        assert_eq!(t.f32s(), [0., 3., 1., 4., 2., 5.]);
        let flat = evaluate(&Op::Reshape, &[t], &[6], DType::F32).unwrap();
        assert_eq!(flat.f32s(), [0., 3., 1., 4., 2., 5.]);
        let ints = evaluate(&Op::Cast, &[x], &[2, 3], DType::I32).unwrap();
        assert_eq!(ints.i64s(), [0, 1, 2, 3, 4, 5]);
        let both = concat(&[ints.clone(), ints.clone()], 1, &[2, 6], DType::I32).unwrap();
        assert_eq!(both.i64s(), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        let row =
            |i| evaluate(&Op::Slice { axis: 0, start: i, step: 1 }, std::slice::from_ref(&ints), &[1, 3], DType::I32).unwrap();
        let swapped = concat(&[row(1), row(0)], 0, &[2, 3], DType::I32).unwrap();
        let twice = concat(&[swapped.clone(), swapped.clone()], 0, &[4, 3], DType::I32).unwrap();
        let mut bytes = vec![0; twice.size()];
        twice.write(&mut bytes);
        assert_eq!(bytes.iter().step_by(4).copied().collect::<Vec<_>>(), [3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2]);
        assert_eq!(twice.i64s(), [3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2]);
        assert_eq!(swapped.with_layout(swapped.layout.transpose(&[1, 0])).i64s(), [3, 0, 4, 1, 5, 2]);
    }
}
