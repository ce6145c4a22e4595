//! An operator of ONNX written out in ops of a graph.
//!
//! An expansion is a function that draws the ops onto a [`Sketch`], with all shapes known, and says which values the outputs
//! are. tract asks for the types and shapes of those outputs, the conversion to a graph takes the ops: there is one
//! description of an operator for both.

use super::attributes::Attributes;
use super::lengths::{self, Lengths};
use super::ragged::{self, Seen};
use super::types;
use super::whole::Inputs;
use crate::graph::{Bytes, Op};
use crate::program::{Binary, ReduceKind, Unary};
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// A value of a sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ref(pub usize);

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// The operator's input of this number, in ONNX's counting.
    Input(usize),
    /// A constant.
    Constant(Bytes),
    /// An op yields it.
    Made,
    /// A size that depends on data: `i64`, `[1]`.
    Size(TDim),
}

/// A value: type, shape and origin.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub dtype: DType,
    /// Sizes, or the most that they can be.
    pub dims: Vec<usize>,
    /// Those that depend on data.
    pub lengths: Lengths,
    /// They do not follow from the op: the expansion vouches for them.
    pub vouched: bool,
    pub origin: Origin,
}

/// An op with its operands.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    pub op: Op,
    pub inputs: Vec<Option<Ref>>,
    pub outputs: Vec<Option<Ref>>,
}

/// An expansion: the values of the operator's outputs, in ONNX's numbering; it may yield fewer than there are.
pub(super) type Expansion = fn(&mut Sketch<'_>) -> TractResult<Vec<Ref>>;

/// What an expansion draws onto.
pub(super) struct Sketch<'a> {
    node: &'a Inputs<'a>,
    /// Version of the operator set.
    pub opset: i64,
    pub values: Vec<Value>,
    pub ops: Vec<Drawn>,
    /// Sizes that the operator finds out, and their values (`i64`, `[1]`).
    pub counted: Vec<(TDim, Ref)>,
    /// Why an op can't be drawn.
    trouble: Option<TractError>,
}

impl<'a> Sketch<'a> {
    /// An empty one for a node.
    pub fn new(node: &'a Inputs<'a>, opset: i64) -> Sketch<'a> {
        Sketch { node, opset, values: vec![], ops: vec![], counted: vec![], trouble: None }
    }

    pub fn attributes(&self) -> Attributes<'a> {
        self.node.attributes()
    }

    /// The operator.
    pub fn op_type(&self) -> &'a str {
        &self.node.node.op_type
    }

    /// How many inputs the node lists.
    pub fn inputs(&self) -> usize {
        self.node.node.input.len()
    }

    fn add(&mut self, dtype: DType, dims: &[usize], origin: Origin) -> Ref {
        self.values.push(Value { dtype, dims: dims.to_vec(), lengths: vec![], vouched: false, origin });
        Ref(self.values.len() - 1)
    }

    /// An input, if it is there.
    pub fn optional(&mut self, slot: usize) -> TractResult<Option<Ref>> {
        let Some(fact) = self.node.optional(slot) else { return Ok(None) };
        let known = self.values.iter().position(|v| matches!(v.origin, Origin::Input(s) if s == slot));
        if let Some(known) = known {
            return Ok(Some(Ref(known)));
        }
        let (dims, lengths) = lengths::of(&fact.shape).with_context(|| format!("the shape of input {slot} depends on data"))?;
        let followed = lengths.is_empty() || super::expand::follows(self.op_type());
        ensure!(followed, "the shape of input {slot} depends on data: {:?}", fact.shape);
        let dtype = types::dtype(fact.datum_type)?;
        let value = self.add(dtype, &dims, Origin::Input(slot));
        self.values[value.0].lengths = lengths;
        Ok(Some(value))
    }

    /// An input that must be there.
    pub fn input(&mut self, slot: usize) -> TractResult<Ref> {
        self.optional(slot)?.with_context(|| format!("input {slot} is missing"))
    }

    /// The value of an input that must be a constant; `None` where it is absent.
    fn known(&self, slot: usize, what: &str) -> TractResult<Option<Arc<Tensor>>> {
        let Some(fact) = self.node.optional(slot) else { return Ok(None) };
        let known = fact.konst.clone().or_else(|| {
            let all = fact.shape.as_concrete()?;
            let uniform = fact.uniform.as_ref()?;
            uniform.broadcast_scalar_to_shape(all).ok().map(|t| t.into_arc_tensor())
        });
        let why = || format!("input {slot} ({what}) depends on data, which is not supported: make it a constant");
        known.with_context(why).map(Some)
    }

    /// The integers of an input that must be a constant; `None` where it is absent.
    pub fn ints(&self, slot: usize, what: &str) -> TractResult<Option<Vec<i64>>> {
        let Some(tensor) = self.known(slot, what)? else { return Ok(None) };
        Ok(Some(tensor.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec()))
    }

    /// The numbers of an input that must be a constant; `None` where it is absent.
    pub fn floats(&self, slot: usize, what: &str) -> TractResult<Option<Vec<f32>>> {
        let Some(tensor) = self.known(slot, what)? else { return Ok(None) };
        Ok(Some(tensor.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
    }

    /// The numbers of an input that must be a constant, as `f64`; `None` where it is absent.
    pub fn doubles(&self, slot: usize, what: &str) -> TractResult<Option<Vec<f64>>> {
        let Some(tensor) = self.known(slot, what)? else { return Ok(None) };
        Ok(Some(tensor.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.to_vec()))
    }

    /// Integers that older operator sets have as an attribute and newer ones as an input.
    pub fn ints_of(&self, attribute: &str, slot: usize) -> TractResult<Option<Vec<i64>>> {
        match self.attributes().ints(attribute) {
            Some(ints) => Ok(Some(ints.to_vec())),
            None => self.ints(slot, attribute),
        }
    }

    pub fn dims(&self, v: Ref) -> &[usize] {
        &self.values[v.0].dims
    }

    pub fn rank(&self, v: Ref) -> usize {
        self.dims(v).len()
    }

    pub fn dtype(&self, v: Ref) -> DType {
        self.values[v.0].dtype
    }

    /// Number of elements.
    pub fn len(&self, v: Ref) -> usize {
        self.dims(v).iter().product()
    }

    /// A constant of its elements' bytes.
    pub fn constant(&mut self, dtype: DType, dims: &[usize], bytes: Vec<u8>) -> Ref {
        debug_assert_eq!(bytes.len(), dims.iter().product::<usize>() * dtype.size());
        self.add(dtype, dims, Origin::Constant(Bytes::Owned(bytes.into())))
    }

    pub fn f32s(&mut self, values: &[f32], dims: &[usize]) -> Ref {
        self.constant(DType::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn i64s(&mut self, values: &[i64], dims: &[usize]) -> Ref {
        self.constant(DType::I64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn i32s(&mut self, values: &[i32], dims: &[usize]) -> Ref {
        self.constant(DType::I32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// One number of this type.
    pub fn number(&mut self, value: f64, dtype: DType) -> TractResult<Ref> {
        let tensor = tensor0(value).cast_to_dt(types::datum_type(dtype)?)?.into_owned();
        Ok(self.constant(dtype, &[], tensor.try_as_plain_ram()?.as_bytes().to_vec()))
    }

    /// An op of one output.
    pub fn op(&mut self, op: Op, inputs: &[Ref], dtype: DType, dims: &[usize]) -> Ref {
        let out = self.add(dtype, dims, Origin::Made);
        self.draw(Drawn { op, inputs: inputs.iter().map(|&v| Some(v)).collect(), outputs: vec![Some(out)] });
        out
    }

    /// Adds an op, whose outputs get the lengths that follow.
    pub fn draw(&mut self, drawn: Drawn) {
        let open = drawn.inputs.iter().flatten().any(|v| !self.values[v.0].lengths.is_empty());
        if open && let Some(first) = drawn.outputs.iter().flatten().next() {
            let seen = |v: &Option<Ref>| {
                let value = &self.values[v.as_ref()?.0];
                Some(Seen { dims: &value.dims, lengths: &value.lengths })
            };
            let inputs: Vec<_> = drawn.inputs.iter().map(seen).collect();
            match ragged::through(&drawn.op, &inputs, self.dims(*first), None) {
                Ok(passed) => {
                    drawn.outputs.iter().flatten().for_each(|v| self.values[v.0].lengths.clone_from(&passed.lengths));
                }
                Err(trouble) => self.trouble = self.trouble.take().or(Some(trouble)),
            }
        }
        self.ops.push(drawn);
    }

    /// An op that finds elements, at the most `dims[0]` of them, and says how many they are: the first of its outputs.
    pub fn found(&mut self, op: Op, inputs: &[Option<Ref>], dims: &[usize]) -> TractResult<Ref> {
        let length = self.symbol(dims[0])?;
        let mut dims = dims.to_vec();
        dims[0] = lengths::planned(&length)?;
        let out = self.add(DType::I64, &dims, Origin::Made);
        let count = self.add(DType::I64, &[1], Origin::Made);
        self.draw(Drawn { op, inputs: inputs.to_vec(), outputs: vec![Some(out), Some(count)] });
        self.vouch(count, vec![]);
        self.vouch(out, vec![(0, length.clone())]);
        self.counted.push((length, count));
        Ok(out)
    }

    /// A size that the operator finds out, at most `most`. There is one for each number.
    pub fn symbol(&self, most: usize) -> TractResult<TDim> {
        let base = self.node.counts.context("its size depends on data")?;
        lengths::symbol(base, self.counted.len(), most)
    }

    /// Says what the lengths of a value are, where its op does not.
    pub fn vouch(&mut self, v: Ref, lengths: Lengths) {
        self.values[v.0].lengths = lengths;
        self.values[v.0].vouched = true;
    }

    /// How long an axis is: a number, or an expression of sizes that depend on data.
    pub fn size(&self, v: Ref, axis: usize) -> TDim {
        lengths::along(&self.values[v.0].lengths, axis).cloned().unwrap_or_else(|| self.dims(v)[axis].into())
    }

    /// A size as a value: `i64`, `[1]`.
    pub fn size_value(&mut self, size: &TDim) -> Ref {
        match size.as_i64() {
            Some(size) => self.i64s(&[size], &[1]),
            None => self.add(DType::I64, &[1], Origin::Size(size.clone())),
        }
    }

    /// The sizes of an input that is a constant, if it is one.
    pub fn sizes(&self, slot: usize) -> TractResult<Option<Vec<TDim>>> {
        let Ok(Some(tensor)) = self.known(slot, "sizes") else { return Ok(None) };
        if tensor.datum_type() == DatumType::TDim {
            return Ok(Some(tensor.try_as_plain_ram()?.as_slice::<TDim>()?.to_vec()));
        }
        // tract's own cast to `TDim` cuts numbers to 32 bits.
        let ints = tensor.cast_to::<i64>()?;
        Ok(Some(ints.try_as_plain_ram()?.as_slice::<i64>()?.iter().map(|&i| i.into()).collect()))
    }

    /// # Errors
    /// When one of the ops can't be drawn.
    pub fn sound(&mut self) -> TractResult<()> {
        self.trouble.take().map_or(Ok(()), Err)
    }

    pub fn unary(&mut self, f: Unary, p: [f32; 2], x: Ref) -> Ref {
        let dtype = if matches!(f, Unary::Not | Unary::IsNan | Unary::IsInf) { DType::Bool } else { self.dtype(x) };
        let dims = self.dims(x).to_vec();
        self.op(Op::Unary(f, p), &[x], dtype, &dims)
    }

    pub fn binary(&mut self, f: Binary, a: Ref, b: Ref) -> TractResult<Ref> {
        use Binary::*;
        let dims = self.broadcast_dims(&[a, b])?;
        let logical = matches!(f, Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual | And | Or | Xor);
        let dtype = if logical { DType::Bool } else { self.dtype(a) };
        ensure!(self.dtype(a) == self.dtype(b), "operands of different types: {} and {}", self.dtype(a), self.dtype(b));
        Ok(self.op(Op::Binary(f), &[a, b], dtype, &dims))
    }

    /// `f(x, number)`.
    pub fn with(&mut self, f: Binary, x: Ref, number: f64) -> TractResult<Ref> {
        let number = self.number(number, self.dtype(x))?;
        self.binary(f, x, number)
    }

    pub fn select(&mut self, condition: Ref, a: Ref, b: Ref) -> TractResult<Ref> {
        let dims = self.broadcast_dims(&[condition, a, b])?;
        Ok(self.op(Op::Select, &[condition, a, b], self.dtype(a), &dims))
    }

    /// The shape to which all are broadcast.
    pub fn broadcast_dims(&self, all: &[Ref]) -> TractResult<Vec<usize>> {
        let rank = all.iter().map(|&v| self.rank(v)).max().unwrap_or(0);
        let mut dims = vec![1; rank];
        for &v in all {
            let start = rank - self.rank(v);
            for (to, &d) in dims[start..].iter_mut().zip(self.dims(v)) {
                ensure!(*to == 1 || d == 1 || *to == d, "shapes that can't be broadcast: {:?}", self.dims(v));
                *to = if *to == 1 { d } else { *to };
            }
        }
        Ok(dims)
    }

    pub fn cast(&mut self, x: Ref, dtype: DType) -> Ref {
        if self.dtype(x) == dtype {
            return x;
        }
        let dims = self.dims(x).to_vec();
        self.op(Op::Cast, &[x], dtype, &dims)
    }

    pub fn reshape(&mut self, x: Ref, dims: &[usize]) -> TractResult<Ref> {
        ensure!(self.len(x) == dims.iter().product::<usize>(), "{:?} can't be reshaped to {dims:?}", self.dims(x));
        if self.dims(x) == dims {
            return Ok(x);
        }
        Ok(self.op(Op::Reshape, &[x], self.dtype(x), dims))
    }

    /// Output axis `i` is input axis `perm[i]`.
    pub fn transpose(&mut self, x: Ref, perm: &[usize]) -> Ref {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return x;
        }
        let dims: Vec<usize> = perm.iter().map(|&a| self.dims(x)[a]).collect();
        self.op(Op::Transpose(perm.to_vec()), &[x], self.dtype(x), &dims)
    }

    /// `len` elements of an axis.
    pub fn slice(&mut self, x: Ref, axis: usize, start: usize, step: isize, len: usize) -> Ref {
        let mut dims = self.dims(x).to_vec();
        if start == 0 && step == 1 && dims[axis] == len {
            return x;
        }
        dims[axis] = len;
        self.op(Op::Slice { axis, start, step }, &[x], self.dtype(x), &dims)
    }

    pub fn concat(&mut self, parts: &[Ref], axis: usize) -> TractResult<Ref> {
        if let [one] = parts {
            return Ok(*one);
        }
        let mut dims = self.dims(*parts.first().context("nothing to join")?).to_vec();
        dims[axis] = parts.iter().map(|&p| self.dims(p)[axis]).sum();
        Ok(self.op(Op::Concat { axis }, parts, self.dtype(parts[0]), &dims))
    }

    /// `before` and `after` elements of `value` around each axis.
    pub fn pad(&mut self, x: Ref, before: &[usize], after: &[usize], value: f64) -> TractResult<Ref> {
        if before.iter().chain(after).all(|&n| n == 0) {
            return Ok(x);
        }
        let dtype = self.dtype(x);
        let dims: Vec<usize> = self.dims(x).iter().zip(before.iter().zip(after)).map(|(d, (b, a))| d + b + a).collect();
        let value = tensor0(value).cast_to_dt(types::datum_type(dtype)?)?.into_owned();
        let value = value.try_as_plain_ram()?.as_bytes().to_vec();
        Ok(self.op(Op::Pad { before: before.to_vec(), value }, &[x], dtype, &dims))
    }

    pub fn broadcast(&mut self, x: Ref, dims: &[usize]) -> Ref {
        if self.dims(x) == dims {
            return x;
        }
        self.op(Op::Broadcast, &[x], self.dtype(x), dims)
    }

    /// Over `axes`, which stay with size 1.
    pub fn reduce(&mut self, kind: ReduceKind, axes: &[usize], x: Ref) -> Ref {
        let mut dims = self.dims(x).to_vec();
        axes.iter().for_each(|&a| dims[a] = 1);
        self.op(Op::Reduce { kind, axes: axes.to_vec() }, &[x], self.dtype(x), &dims)
    }

    /// The largest or smallest along an axis, `length` of them, and where they stood (`i64`).
    pub fn top_k(&mut self, x: Ref, axis: usize, min: bool, dims: &[usize], length: TDim) -> TractResult<Vec<Ref>> {
        let (y, order) = (self.add(self.dtype(x), dims, Origin::Made), self.add(DType::I64, dims, Origin::Made));
        let mut lengths: Lengths = self.values[x.0].lengths.iter().filter(|l| l.0 != axis).cloned().collect();
        if length.as_i64().is_none() {
            lengths.push((axis, length));
            lengths.sort_by_key(|l| l.0);
        }
        for v in [y, order] {
            self.vouch(v, lengths.clone());
        }
        let op = Op::TopK { axis, min };
        self.ops.push(Drawn { op, inputs: vec![Some(x)], outputs: vec![Some(y), Some(order)] });
        Ok(vec![y, order])
    }

    /// The elements of a row in ascending order, equal ones as they stand, and where they stood (`i64`).
    pub fn sorted(&mut self, x: Ref) -> (Ref, Ref) {
        let (dtype, dims) = (self.dtype(x), self.dims(x).to_vec());
        let (y, order) = (self.add(dtype, &dims, Origin::Made), self.add(DType::I64, &dims, Origin::Made));
        let op = Op::TopK { axis: 0, min: true };
        self.draw(Drawn { op, inputs: vec![Some(x)], outputs: vec![Some(y), Some(order)] });
        (y, order)
    }

    pub fn softmax(&mut self, x: Ref, axis: usize, log: bool) -> Ref {
        let dims = self.dims(x).to_vec();
        self.op(Op::Softmax { axis, log }, &[x], self.dtype(x), &dims)
    }

    /// Rows of `x` along `axis` by these constant places.
    pub fn take(&mut self, x: Ref, axis: usize, places: &[usize]) -> Ref {
        let places: Vec<i64> = places.iter().map(|&p| p as i64).collect();
        let index = self.i64s(&places, &[places.len()]);
        let mut dims = self.dims(x).to_vec();
        dims[axis] = places.len();
        self.op(Op::Gather { axis }, &[x, index], self.dtype(x), &dims)
    }

    /// A product of two matrices, or of batches of them: letters as in [`Op::EinSum`].
    pub fn einsum(&mut self, a: Ref, b: Ref, inputs: [&str; 2], output: &str) -> TractResult<Ref> {
        let mut sizes: HashMap<char, usize> = HashMap::new();
        for (v, letters) in [(a, inputs[0]), (b, inputs[1])] {
            for (c, &d) in letters.chars().zip(self.dims(v)) {
                let size = sizes.entry(c).or_insert(d);
                *size = if *size == 1 { d } else { *size };
            }
        }
        let dims: Option<Vec<usize>> = output.chars().map(|c| sizes.get(&c).copied()).collect();
        let op = Op::EinSum { inputs: inputs.map(String::from).to_vec(), output: output.into() };
        Ok(self.op(op, &[a, b], self.dtype(a), &dims.context("a letter of the output is in no input")?))
    }

    /// An axis that an attribute or input names, counted from the front.
    pub fn axis(&self, axis: i64, x: Ref) -> TractResult<usize> {
        super::rules::axis(axis, self.rank(x))
    }

    /// Types and shapes of values, as tract has them.
    pub fn facts(&self, values: &[Ref]) -> TractResult<Vec<TypedFact>> {
        let shape = |v: Ref| lengths::shape(self.dims(v), &self.values[v.0].lengths);
        values.iter().map(|&v| Ok(types::datum_type(self.dtype(v))?.fact(shape(v)))).collect()
    }
}
