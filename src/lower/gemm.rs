//! Sums of products as matrix products.
//!
//! The letters of an einsum say what each axis is: **rows** are in the first operand and the output, **columns** in the
//! second and the output, **depth** in both operands only, **batch** in all three. Letters of one role that walk memory as
//! one axis are joined; rows and columns that do not become batch axes. Shapes never matter, and transposes and heads cost
//! nothing: the output is written as `[batch][rows][columns]` and its axes get the strides that follow. A constant operand
//! is always the second, packed into panels in whatever order of depth suits the first one's strides.

use super::builder::{Builder, View, word};
use super::constant::{Constant, offsets};
use super::group::{Channel, Product};
use super::layout::{Layout, merge};
use super::net::Net;
use super::pack;
use crate::graph::{Node, Op, ValueId};
use crate::plan::draft::{self, Piece};
use crate::program::{Epilogue, Gemm, OpKind, PANEL, SLAB, Unary, packed_len, slabs_len};
use crate::tensor::DType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of weights from which on those of a single row lie in slabs: what no core's own cache holds. From a shared cache panels are
/// read as fast or faster if no input is zero (1 MB: by 13 %; 5 MB: as fast).
const SLABS: usize = 4 << 20;

/// Bytes of a piece of packed weights, at least.
const PIECE: u64 = 4 << 20;

/// Which letters play which part; letters of size 1 are left out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Roles {
    /// The input that is read by rows.
    pub a: usize,
    /// The input that is read by columns.
    pub b: usize,
    pub batch: Vec<char>,
    pub m: Vec<char>,
    pub n: Vec<char>,
    pub k: Vec<char>,
    pub sizes: BTreeMap<char, usize>,
}

/// The roles of an einsum of two operands of `f32`; `None` for one that is no matrix product.
pub(super) fn roles(net: &Net, node: &Node) -> Option<Roles> {
    let (Op::EinSum { inputs, output }, [Some(x), Some(y)]) = (&node.op, &node.inputs[..]) else { return None };
    let out = node.outputs[0]?;
    if [*x, *y, out].iter().any(|&v| net.dtype(v) != DType::F32) {
        return None;
    }
    let mut sizes = BTreeMap::new();
    for (letters, v) in inputs.iter().chain([output]).zip([*x, *y, out]) {
        if letters.chars().count() != net.dims(v).len() {
            return None;
        }
        for (i, c) in letters.chars().enumerate() {
            if letters.chars().filter(|&d| d == c).count() > 1 {
                return None;
            }
            let size: &mut usize = sizes.entry(c).or_default();
            *size = (*size).max(net.dims(v)[i]);
        }
    }
    // An axis of one element against a larger one is broadcast: the operand does not have it.
    let has =
        |letters: &str, v: ValueId, c: char| letters.chars().position(|d| d == c).is_some_and(|i| net.dims(v)[i] == sizes[&c]);
    let of = |first: usize| {
        let second = 1 - first;
        let operands = [*x, *y];
        let (mut batch, mut m, mut n, mut k) = (vec![], vec![], vec![], vec![]);
        // In the output's order; depth in the order of the second operand.
        for c in output.chars().chain(inputs[second].chars().filter(|c| !output.contains(*c))) {
            if sizes[&c] == 1 {
                continue;
            }
            let a = has(&inputs[first], operands[first], c);
            let b = has(&inputs[second], operands[second], c);
            match (output.contains(c), a, b) {
                (true, true, true) => batch.push(c),
                (true, true, false) => m.push(c),
                (true, false, true) => n.push(c),
                (false, true, true) => k.push(c),
                _ => return None,
            }
        }
        let all = batch.len() + m.len() + n.len() + k.len();
        let counted = sizes.values().filter(|&&s| s != 1).count();
        (all == counted).then_some(Roles { a: first, b: second, batch, m, n, k, sizes: sizes.clone() })
    };
    let constant = [*x, *y].map(|v| net.constant(v).is_some());
    match constant {
        [false, true] => of(0),
        [true, false] => of(1),
        _ => {
            // Columns are what the output ends with.
            let roles = of(0)?;
            let last = output.chars().rev().find(|c| sizes[c] != 1);
            if last.is_some_and(|c| roles.m.contains(&c)) || roles.n.is_empty() { of(1) } else { Some(roles) }
        }
    }
}

/// Sizes and strides of letters in an operand; 0 where it does not have one.
fn axes(letters: &[char], inside: &str, layout: &Layout, sizes: &BTreeMap<char, usize>) -> Vec<(usize, usize)> {
    let axis = |c: &char| match inside.chars().position(|d| d == *c) {
        Some(i) if layout.dims[i] == sizes[c] => (sizes[c], layout.strides[i]),
        _ => (sizes[c], 0),
    };
    letters.iter().map(axis).collect()
}

/// Per-column factors and sums of a product, in the order of its columns.
#[derive(Clone)]
pub(super) struct Columns {
    pub scale: Option<Vec<f32>>,
    pub shift: Option<Vec<f32>>,
}

/// Works out what happens to each column; `at` holds, per column, the index along each of the output's axes as an offset
/// into a constant of given strides.
pub(super) fn columns(channel: &[Channel], n: usize, bias: Option<Vec<f32>>, at: impl Fn(&Constant) -> Vec<usize>) -> Columns {
    let mut scale: Option<Vec<f32>> = None;
    let mut shift = bias;
    for step in channel {
        let (factor, sum): (Option<Vec<f32>>, Option<Vec<f32>>) = match step {
            Channel::Scale(c) => (Some(at(c).into_iter().map(|i| c.at(i)).collect()), None),
            Channel::Shift(c) => (None, Some(at(c).into_iter().map(|i| c.at(i)).collect())),
            Channel::Affine(a, b) => ((*a != 1.0).then(|| vec![*a; n]), (*b != 0.0).then(|| vec![*b; n])),
        };
        if let Some(f) = factor {
            let scaled = scale.get_or_insert_with(|| vec![1.0; n]);
            scaled.iter_mut().zip(&f).for_each(|(s, f)| *s *= f);
            if let Some(shift) = &mut shift {
                shift.iter_mut().zip(&f).for_each(|(s, f)| *s *= f);
            }
        }
        if let Some(sum) = sum {
            let shifted = shift.get_or_insert_with(|| vec![0.0; n]);
            shifted.iter_mut().zip(&sum).for_each(|(s, v)| *s += v);
        }
    }
    Columns { scale, shift }
}

/// The epilogue of a product and its operands (bias, residual).
pub(super) fn epilogue(
    b: &mut Builder<'_>,
    product: &Product,
    name: &str,
    shift: Option<Vec<f32>>,
    residual: Option<draft::ValueId>,
) -> Result<(Epilogue, [Option<draft::ValueId>; 2]), String> {
    let (activation, p) = product.activation.unwrap_or((Unary::Identity, [0.0; 2]));
    let epilogue = Epilogue {
        bias: shift.is_some() as u32,
        residual: product.residual.map_or(0, |r| r.1),
        activation: activation as u32,
        p,
    };
    let bias = shift.map(|s| b.weight_f32(&format!("{name} bias"), s)).transpose()?;
    Ok((epilogue, [bias, residual]))
}

/// Writes the op of an einsum and what is fused into it.
pub(super) fn emit(b: &mut Builder<'_>, product: &Product, out: ValueId) -> Result<(), String> {
    let net = b.net;
    let node = &net.graph.nodes[product.node];
    let Op::EinSum { inputs, output } = &node.op else { return Err("no einsum".into()) };
    let r = roles(net, node).ok_or("no matrix product")?;
    let (a_id, b_id) = (node.inputs[r.a].ok_or("no input")?, node.inputs[r.b].ok_or("no input")?);
    let size = |letters: &[char]| letters.iter().map(|c| r.sizes[c]).product::<usize>();
    let (n, k) = (size(&r.n), size(&r.k));

    // Rows and depth in the order in which A lies in memory, so that as many as possible join.
    let mut a = b.view(a_id)?;
    let (mut m_letters, mut k_letters) = (r.m.clone(), r.k.clone());
    let sort = |letters: &mut Vec<char>, view: &View| {
        let strides = axes(letters, &inputs[r.a], &view.layout, &r.sizes);
        let mut both: Vec<_> = letters.iter().copied().zip(strides).collect();
        both.sort_by_key(|&(_, (_, stride))| std::cmp::Reverse(stride));
        *letters = both.into_iter().map(|(c, _)| c).collect();
    };
    sort(&mut m_letters, &a);
    sort(&mut k_letters, &a);
    let constant = net.constant(b_id).filter(|_| r.batch.len() <= 1);
    let mut second = None;
    if constant.is_none() {
        second = Some(b.view(b_id)?);
    }
    let joined = |view: &View, letters: &[char], input: usize| {
        merge(&axes(letters, &inputs[input], &view.layout, &r.sizes)).map(|(_, stride)| stride)
    };
    let depth_fits = |first: &View, second: &Option<View>, k: &[char]| {
        joined(first, k, r.a).is_some() && second.as_ref().is_none_or(|s| joined(s, k, r.b).is_some())
    };
    if !depth_fits(&a, &second, &k_letters) {
        // In one order for both operands: the one of the second, where it has a layout.
        if second.is_some() {
            k_letters = r.k.clone();
        }
        if joined(&a, &k_letters, r.a).is_none() {
            let order = letters_order(&inputs[r.a], &[&r.batch[..], &m_letters, &k_letters].concat());
            a = b.dense(&a, &order, net.name(a_id))?;
        }
        if let Some(s) = second.take() {
            let fits = joined(&s, &k_letters, r.b).is_some();
            let order = letters_order(&inputs[r.b], &[&r.batch[..], &r.n, &k_letters].concat());
            second = Some(if fits { s } else { b.dense(&s, &order, net.name(b_id))? });
        }
    }
    let a_col = joined(&a, &k_letters, r.a).ok_or("depth does not join")?;

    // Columns in an order in which B joins; of a constant any order will do.
    let mut n_letters = r.n.clone();
    if let Some(s) = &second {
        if joined(s, &n_letters, r.b).is_none() {
            let mut both: Vec<_> = n_letters.iter().copied().zip(axes(&n_letters, &inputs[r.b], &s.layout, &r.sizes)).collect();
            both.sort_by_key(|&(_, (_, stride))| std::cmp::Reverse(stride));
            n_letters = both.into_iter().map(|(c, _)| c).collect();
        }
        if joined(s, &n_letters, r.b).is_none() {
            let order = letters_order(&inputs[r.b], &[&r.batch[..], &k_letters, &n_letters].concat());
            second = Some(b.dense(s, &order, net.name(b_id))?);
        }
    }

    // Rows that do not join in A go to the batch, outermost first.
    let mut batch = r.batch.clone();
    let mut rows = m_letters.clone();
    while joined(&a, &rows, r.a).is_none() {
        batch.push(rows.remove(0));
    }
    let a_row = joined(&a, &rows, r.a).unwrap_or(1);

    let order = letters_order(output, &[&batch[..], &rows, &n_letters].concat());
    let residual = match product.residual {
        Some((v, _)) => Some(b.ordered(v, &order)?),
        None => None,
    };
    let c = b.output(out, &order, residual.is_none())?;
    let walk: Vec<(usize, Vec<usize>)> = batch
        .iter()
        .map(|letter| {
            let one = [*letter];
            let stride = |inside: &str, layout: &Layout| axes(&one, inside, layout, &r.sizes)[0].1;
            let in_b = second.as_ref().map_or(0, |s| stride(&inputs[r.b], &s.layout));
            (r.sizes[letter], vec![stride(&inputs[r.a], &a.layout), in_b, stride(output, &c.layout)])
        })
        .collect();
    let mut walk = super::layout::join(walk);
    if let (Some(_), [letter]) = (constant, &r.batch[..]) {
        // A constant with a batch axis: its panels lie one after another.
        let step = packed_len(k as u64, n as u64) as usize;
        let stride = |inside: &str, layout: &Layout| axes(&[*letter], inside, layout, &r.sizes)[0].1;
        walk = vec![(r.sizes[letter], vec![stride(&inputs[r.a], &a.layout), step, stride(output, &c.layout)])];
        for row in &batch[1..] {
            let stride = |inside: &str, layout: &Layout| axes(&[*row], inside, layout, &r.sizes)[0].1;
            walk.push((r.sizes[row], vec![stride(&inputs[r.a], &a.layout), 0, stride(output, &c.layout)]));
        }
    }
    if walk.len() > 3 {
        return Err(format!("a matrix product with {} batch axes", walk.len()));
    }

    // What happens per column.
    let at = |constant: &Constant| {
        let in_output =
            |c: &char| output.chars().position(|d| d == *c).map_or((1, 0), |i| (r.sizes[c], constant.layout.strides[i]));
        let (dims, strides): (Vec<_>, Vec<_>) = n_letters.iter().map(in_output).unzip();
        offsets(&dims, &strides).into_iter().map(|i| i + constant.layout.offset).collect()
    };
    let mut columns = columns(&product.channel, n, None, at);
    let name = net.name(b_id).to_string();
    let (mut alpha, mut slabs) = (1.0, false);
    let (b_value, b_row, b_col) = match (&second, constant) {
        (Some(s), _) => {
            if let Some(scale) = columns.scale.take() {
                alpha = *scale.first().unwrap_or(&1.0);
            }
            let b_row = joined(s, &k_letters, r.b).ok_or("depth does not join")?;
            let b_col = joined(s, &n_letters, r.b).ok_or("columns do not join")?;
            (b.operand(s)?, b_row, b_col)
        }
        (None, Some(constant)) => {
            let scale = columns.scale.take();
            slabs = size(&rows) == 1 && walk.iter().all(|(size, _)| *size == 1) && a_col == 1 && 4 * n * k >= SLABS;
            let value = pack_weight(b, constant, b_id, &r, &inputs[r.b], &k_letters, &n_letters, scale, slabs, &name)?;
            (Some(value), n, 1)
        }
        (None, None) => return Err("a weight has neither a value nor a place".into()),
    };
    let shared = residual.as_ref().is_some_and(|view| b.is_whole(view) && b.is_whole(&c));
    let residual = match &residual {
        Some(view) => b.operand(view)?,
        None => None,
    };
    let (epilogue, [bias, residual]) = epilogue(b, product, &name, columns.shift, residual)?;
    let c_rows = merge(&axes(&rows, output, &c.layout, &r.sizes)).ok_or("rows do not join")?;
    let mut record = Gemm::dense(word(size(&rows))?, word(n)?, word(k)?);
    for (i, (size, strides)) in walk.iter().enumerate() {
        let i = i + 3 - walk.len();
        record.batch[i] = word(*size)?;
        record.a_batch[i] = word(strides[0])?;
        record.b_batch[i] = word(strides[1])?;
        record.c_batch[i] = word(strides[2])?;
    }
    record.a_row = word(a_row)?;
    record.a_col = word(a_col)?;
    (record.b_row, record.b_col) = (word(b_row)?, word(b_col)?);
    record.b_packed = if slabs { 2 } else { second.is_none() as u32 };
    record.c_row = word(if rows.is_empty() { n } else { c_rows.1 })?;
    record.alpha = alpha;
    record.epilogue = epilogue;
    let (first, c) = (b.operand(&a)?, b.operand(&c)?);
    let in_place = if shared { vec![3] } else { vec![] };
    let inputs = vec![first, b_value, bias, residual];
    b.push(OpKind::Gemm, &record, &[], inputs, vec![c], in_place, "a matrix product");
    Ok(())
}

/// The axes of an operand in the order of these letters; axes of one element first.
fn letters_order(inside: &str, letters: &[char]) -> Vec<usize> {
    let place = |c: char| letters.iter().position(|&l| l == c);
    let mut order: Vec<usize> = (0..inside.chars().count()).collect();
    let chars: Vec<char> = inside.chars().collect();
    order.sort_by_key(|&i| (place(chars[i]).map_or(0, |p| p + 1), i));
    order
}

fn pack_weight(
    b: &mut Builder<'_>,
    constant: &Constant,
    id: ValueId,
    r: &Roles,
    inside: &str,
    k_letters: &[char],
    n_letters: &[char],
    scale: Option<Vec<f32>>,
    slabs: bool,
    name: &str,
) -> Result<draft::ValueId, String> {
    let table = |letters: &[char]| {
        let (dims, strides): (Vec<_>, Vec<_>) = axes(letters, inside, &constant.layout, &r.sizes).into_iter().unzip();
        offsets(&dims, &strides)
    };
    let rows = table(k_letters);
    let columns: Vec<Option<usize>> = table(n_letters).into_iter().map(Some).collect();
    let starts: Vec<usize> = table(&r.batch).into_iter().map(|s| s + constant.layout.offset).collect();
    let k = rows.len() as u64;
    let (form, width) = match slabs {
        true => ("slabs", SLAB as usize),
        // A weight of many megabytes is packed by several threads.
        false => ("panels", (PIECE / (4 * k.max(1))).next_multiple_of(PANEL as u64) as usize),
    };
    let one = |columns: usize| if slabs { slabs_len(k, columns as u64) } else { packed_len(k, columns as u64) };
    let all = one(columns.len()) * starts.len() as u64;
    let key = match &scale {
        None => format!("{} {form} {k_letters:?} {n_letters:?} of {inside}", id.0),
        Some(_) => format!("{} {form} #{}", id.0, b.weights.len()),
    };
    let dims = vec![word(all as usize)?];
    Ok(b.weight_in_pieces(&key, name, DType::F32, dims, || {
        let rows: Arc<[usize]> = rows.into();
        let piece = |start: usize, first: usize, columns: &[Option<usize>]| {
            let (constant, rows, columns) = (constant.clone(), rows.clone(), columns.to_vec());
            let scale = scale.as_ref().map(|s| s[first..first + columns.len()].to_vec());
            let bytes = 4 * one(columns.len());
            let pack = move |to: &mut [u8]| {
                constant.elements(start, |from| match slabs {
                    true => pack::slab(to, &rows, &columns, from, scale.as_deref()),
                    false => pack::panels(to, &rows, &columns, from, scale.as_deref()),
                });
                Ok(())
            };
            Piece { bytes, pack: Box::new(pack) }
        };
        let pieces = |&start: &usize| columns.chunks(width).enumerate().map(move |(i, some)| (start, i * width, some));
        starts.iter().flat_map(pieces).map(|(start, first, some)| piece(start, first, some)).collect()
    }))
}
