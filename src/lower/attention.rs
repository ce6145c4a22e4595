//! Attention written out, found by the roles of its axes:
//! `einsum(softmax(scale * einsum(q, k) + mask), v)` becomes one op that never keeps all scores.
//!
//! The axis of the softmax is the columns. In the first product, axes of both operands and of the scores are batch axes,
//! those of one operand alone are rows, the one that is summed over is the depth of a head. The second product sums over
//! the columns and brings the width.

use super::builder::{Builder, View, word};
use super::layout::{Layout, merge};
use super::net::Net;
use crate::graph::{Node, Op, ValueId};
use crate::program::{self, Binary, OpKind, Unary};
use crate::tensor::DType;

/// A match.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// Nodes that it covers, in their order.
    pub nodes: Vec<usize>,
    pub output: ValueId,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    mask: Option<ValueId>,
    scale: f32,
    /// Letters of each operand's axes, all in one alphabet.
    q_axes: Vec<char>,
    k_axes: Vec<char>,
    v_axes: Vec<char>,
    out_axes: Vec<char>,
    score_axes: Vec<char>,
    batch: Vec<char>,
    rows: Vec<char>,
    column: char,
    depth: char,
    width: char,
}

impl Attention {
    /// The node where it runs.
    pub fn last(&self) -> usize {
        self.nodes.last().copied().unwrap_or(0)
    }
}

/// A two-operand einsum of `f32`: letters of both operands and of the output.
fn einsum(net: &Net, node: &Node) -> Option<([Vec<char>; 2], Vec<char>)> {
    let (Op::EinSum { inputs, output }, [Some(a), Some(b)]) = (&node.op, &node.inputs[..]) else { return None };
    let [x, y] = &inputs[..] else { return None };
    let fits = net.dtype(*a) == DType::F32 && net.dtype(*b) == DType::F32;
    fits.then(|| ([x.chars().collect(), y.chars().collect()], output.chars().collect()))
}

/// The attention whose softmax is this node.
pub(super) fn find(net: &Net, softmax: usize) -> Option<Attention> {
    let node = &net.graph.nodes[softmax];
    let Op::Softmax { axis, log: false } = node.op else { return None };
    let (scores_in, weights) = (node.inputs[0]?, node.outputs[0]?);
    let dims = net.dims(weights).to_vec();
    let second = net.only_reader(weights)?;
    let mut nodes = vec![softmax, second];

    // Backwards from the softmax: a mask, a factor, the product.
    let (mut at, mut scale, mut mask) = (scores_in, 1.0, None);
    let first = loop {
        let producer = net.producer(at)?;
        net.only_reader(at)?;
        if net.dims(at) != dims {
            return None;
        }
        nodes.push(producer);
        let made = &net.graph.nodes[producer];
        match made.op {
            Op::EinSum { .. } => break producer,
            Op::Unary(Unary::Affine, [a, 0.0]) => {
                scale *= a;
                at = made.inputs[0]?;
            }
            Op::Binary(Binary::Add) if mask.is_none() && scale == 1.0 => {
                let (a, b) = (made.inputs[0]?, made.inputs[1]?);
                let leads = |v: ValueId| {
                    let mut v = v;
                    while let Some((Unary::Affine, _, x)) = net.unary(v) {
                        v = x;
                    }
                    net.dims(v) == dims && net.node_of(v).is_some_and(|n| matches!(n.op, Op::EinSum { .. }))
                };
                let (x, m) = if leads(a) { (a, b) } else { (b, a) };
                if !leads(x) || net.dtype(m) != DType::F32 || x == m {
                    return None;
                }
                mask = Some(m);
                at = x;
            }
            _ => return None,
        }
    };
    let ([x_axes, y_axes], score_axes) = einsum(net, &net.graph.nodes[first])?;
    let (x, y) = (net.graph.nodes[first].inputs[0]?, net.graph.nodes[first].inputs[1]?);
    let column = *score_axes.get(axis)?;
    let (mut q, mut k, q_axes, k_axes) = match (x_axes.contains(&column), y_axes.contains(&column)) {
        (false, true) => (x, y, x_axes, y_axes),
        (true, false) => (y, x, y_axes, x_axes),
        _ => return None,
    };

    // The second product, its letters in the alphabet of the first.
    let last = &net.graph.nodes[second];
    let ([a_axes, b_axes], o_axes) = einsum(net, last)?;
    let (a, b) = (last.inputs[0]?, last.inputs[1]?);
    if (a == weights) == (b == weights) {
        return None;
    }
    let (s_axes, v_axes, v) = if a == weights { (a_axes, b_axes, b) } else { (b_axes, a_axes, a) };
    let rename = |letters: Vec<char>| -> Option<Vec<char>> {
        let one = |c: char| match s_axes.iter().position(|&s| s == c) {
            Some(i) => score_axes.get(i).copied(),
            None => char::from_u32(c as u32 + 0xE000),
        };
        letters.into_iter().map(one).collect()
    };
    let (v_axes, out_axes) = (rename(v_axes)?, rename(o_axes)?);

    // A factor on q or k is one on the scores.
    for operand in [&mut q, &mut k] {
        if let (Some((Unary::Affine, [a, 0.0], inner)), Some(producer)) = (net.unary(*operand), net.producer(*operand))
            && net.only_reader(*operand) == Some(first)
        {
            scale *= a;
            nodes.push(producer);
            *operand = inner;
        }
    }

    let has = |axes: &[char], value: ValueId, c: char| axes.iter().position(|&a| a == c).is_some_and(|i| net.dims(value)[i] != 1);
    let size = |c: char| score_axes.iter().position(|&a| a == c).map(|i| dims[i]);
    let (mut batch, mut rows) = (vec![], vec![]);
    for &c in score_axes.iter().filter(|&&c| c != column && size(c) != Some(1)) {
        match (has(&q_axes, q, c), has(&k_axes, k, c)) {
            (true, true) => batch.push(c),
            (true, false) => rows.push(c),
            _ => return None,
        }
    }
    let summed: Vec<char> = q_axes.iter().copied().filter(|c| k_axes.contains(c) && !score_axes.contains(c)).collect();
    let wide: Vec<char> = v_axes.iter().copied().filter(|c| !score_axes.contains(c)).collect();
    let (&[depth], &[width]) = (&summed[..], &wide[..]) else { return None };
    let known = |axes: &[char], all: &[char]| axes.iter().all(|c| all.contains(c) || score_axes.contains(c));
    let sound = v_axes.contains(&column)
        && !out_axes.contains(&column)
        && out_axes.contains(&width)
        && batch.iter().chain(&rows).all(|c| out_axes.contains(c))
        && !rows.iter().any(|c| has(&v_axes, v, *c))
        && known(&q_axes, &[depth])
        && known(&k_axes, &[depth])
        && known(&out_axes, &[width])
        && batch.len() <= 2
        && (rows.len() <= 1 || mask.is_none())
        && has(&v_axes, v, column);
    if !sound {
        return None;
    }
    nodes.sort();
    nodes.dedup();
    let output = last.outputs[0]?;
    Some(Attention {
        nodes,
        output,
        q,
        k,
        v,
        mask,
        scale,
        q_axes,
        k_axes,
        v_axes,
        out_axes,
        score_axes,
        batch,
        rows,
        column,
        depth,
        width,
    })
}

/// The order of an operand's axes that puts these letters one after another; others, of one element, first.
fn order(axes: &[char], letters: &[char]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..axes.len()).collect();
    order.sort_by_key(|&i| (letters.iter().position(|&l| l == axes[i]).map_or(0, |p| p + 1), i));
    order
}

/// Strides of the batch axes (outer, inner).
fn batch_strides(view: &View, axes: &[char], batch: &[char]) -> [usize; 2] {
    let stride = |c: char| match axes.iter().position(|&a| a == c) {
        Some(i) if view.layout.dims[i] != 1 => view.layout.strides[i],
        _ => 0,
    };
    match *batch {
        [] => [0, 0],
        [inner] => [0, stride(inner)],
        _ => [stride(batch[0]), stride(batch[1])],
    }
}

fn joined(view: &View, axes: &[char], letters: &[char]) -> Option<usize> {
    let at = |c: &char| axes.iter().position(|a| a == c).map_or((1, 0), |i| (view.layout.dims[i], view.layout.strides[i]));
    merge(&letters.iter().map(at).collect::<Vec<_>>()).map(|(_, stride)| stride)
}

/// An operand whose innermost letter is contiguous and whose `rows` join: as it lies, or a copy.
fn read(
    b: &mut Builder<'_>,
    v: ValueId,
    axes: &[char],
    batch: &[char],
    rows: &[char],
    inner: char,
) -> Result<(View, [u32; 3]), String> {
    let mut view = b.view(v)?;
    let place = axes.iter().position(|&a| a == inner).ok_or("an axis is missing")?;
    // The record's rows don't overlap: those of a broadcast, or of windows, are copied.
    let fits = |view: &View| {
        let Layout { dims, strides, .. } = &view.layout;
        let count: usize = rows.iter().filter_map(|r| axes.iter().position(|a| a == r)).map(|i| dims[i]).product();
        let row = joined(view, axes, rows);
        (dims[place] == 1 || strides[place] == 1) && row.is_some_and(|row| count <= 1 || row >= dims[place])
    };
    if !fits(&view) {
        let letters = [batch, rows, &[inner]].concat();
        view = b.ordered(v, &order(axes, &letters))?;
    }
    let [outer, heads] = batch_strides(&view, axes, batch);
    let row = joined(&view, axes, rows).ok_or("rows do not join")?;
    Ok((view, [word(outer)?, word(heads)?, word(row)?]))
}

/// Writes the op.
pub(super) fn emit(b: &mut Builder<'_>, t: &Attention) -> Result<(), String> {
    let net = b.net;
    let size = |axes: &[char], v: ValueId, c: char| axes.iter().position(|&a| a == c).map_or(1, |i| net.dims(v)[i]);
    let rows: usize = t.rows.iter().map(|&c| size(&t.q_axes, t.q, c)).product();
    let heads: Vec<usize> = t.batch.iter().map(|&c| size(&t.q_axes, t.q, c)).collect();
    let (q, q_strides) = read(b, t.q, &t.q_axes, &t.batch, &t.rows, t.depth)?;
    let (k, k_strides) = read(b, t.k, &t.k_axes, &t.batch, &[t.column], t.depth)?;
    let (v, v_strides) = read(b, t.v, &t.v_axes, &t.batch, &[t.column], t.width)?;
    let mask = match t.mask {
        Some(m) => {
            let view = b.view(m)?;
            let dims: Vec<usize> = t
                .score_axes
                .iter()
                .map(|&c| if c == t.column { size(&t.k_axes, t.k, c) } else { size(&t.q_axes, t.q, c) })
                .collect();
            Some(view.with_layout(view.layout.broadcast(&dims)))
        }
        None => None,
    };
    // Heads beside each other within a row, as the product that follows reads them.
    let (outer, inner) = t.batch.split_at(t.batch.len().saturating_sub(1));
    let letters = [outer, &t.rows, inner, &[t.width]].concat();
    let out = b.output(t.output, &order(&t.out_axes, &letters), false)?;
    let [out_outer, out_heads] = batch_strides(&out, &t.out_axes, &t.batch);
    let out_row = joined(&out, &t.out_axes, &t.rows).ok_or("rows do not join")?;
    let mask_strides = match &mask {
        Some(view) => {
            let [outer, heads] = batch_strides(view, &t.score_axes, &t.batch);
            let row = joined(view, &t.score_axes, &t.rows).ok_or("rows do not join")?;
            let column = joined(view, &t.score_axes, &[t.column]).ok_or("columns do not join")?;
            [word(outer)?, word(heads)?, word(row)?, word(column)?]
        }
        None => [0; 4],
    };
    let record = program::Attention {
        batch: word(if heads.len() == 2 { heads[0] } else { 1 })?,
        heads: word(heads.last().copied().unwrap_or(1))?,
        rows: word(rows)?,
        columns: word(size(&t.k_axes, t.k, t.column))?,
        depth: word(size(&t.q_axes, t.q, t.depth))?,
        width: word(size(&t.v_axes, t.v, t.width))?,
        q: q_strides,
        k: k_strides,
        v: v_strides,
        out: [word(out_outer)?, word(out_heads)?, word(out_row)?],
        mask: mask_strides,
        causal: 0,
        scale: t.scale,
    };
    let mut inputs = vec![b.operand(&q)?, b.operand(&k)?, b.operand(&v)?];
    inputs.push(match &mask {
        Some(view) => b.operand(view)?,
        None => None,
    });
    let outputs = vec![b.operand(&out)?];
    let in_place = if record.out_may_replace_q() { vec![0] } else { vec![] };
    b.push(OpKind::Attention, &record, &[], inputs, outputs, in_place, "attention, written out in the file");
    Ok(())
}
