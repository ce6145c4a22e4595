//! Ops along axes: reductions, softmax, norms, the largest.
//!
//! They want the axis (or axes) in question side by side in memory, and do not mind in what order the other axes lie.

use super::builder::{Builder, View, word};
use super::net::made;
use crate::graph::{Node, Op, ValueId};
use crate::program::{self, OpKind, Record, ReduceKind};
use crate::tensor::DType;

/// A value read so that `axes` lie side by side: the view, its order of axes, and the sizes outside, of the axes, inside.
fn beside(b: &mut Builder<'_>, x: ValueId, axes: &[usize]) -> Result<(View, Vec<usize>, [usize; 3]), String> {
    let dims = b.net.dims(x).to_vec();
    let mut order = if b.is_bound(x) { b.view(x)?.layout.order() } else { (0..dims.len()).collect() };
    // Axes of one element do not part others.
    order.sort_by_key(|&a| dims[a] != 1);
    let places: Vec<usize> = (0..order.len()).filter(|&i| axes.contains(&order[i]) && dims[order[i]] != 1).collect();
    if places.last().zip(places.first()).is_some_and(|(l, f)| l - f + 1 != places.len()) {
        order.sort_by_key(|a| axes.contains(a));
    }
    let view = b.ordered(x, &order)?;
    let first = order.iter().position(|a| axes.contains(a) && dims[*a] != 1).unwrap_or(0);
    let len: usize = axes.iter().map(|&a| dims[a]).product();
    let outer: usize = order[..first].iter().filter(|a| !axes.contains(a)).map(|&a| dims[a]).product();
    let inner: usize = order[first..].iter().filter(|a| !axes.contains(a)).map(|&a| dims[a]).product();
    Ok((view, order, [outer, len, inner]))
}

/// Writes a reduction.
pub(super) fn along(b: &mut Builder<'_>, x: ValueId, out: ValueId, axes: &[usize], kind: ReduceKind) -> Result<(), String> {
    let dtype = b.net.dtype(x);
    let whole = matches!(kind, ReduceKind::Sum | ReduceKind::Max | ReduceKind::Min | ReduceKind::Product);
    let wide = dtype == DType::F64 && (whole || kind == ReduceKind::Mean);
    if dtype != DType::F32 && !wide && !(whole && matches!(dtype, DType::I64 | DType::I32)) {
        return Err(format!("this reduction of {dtype} has no native form"));
    }
    let (view, order, [outer, len, inner]) = beside(b, x, axes)?;
    let output = b.output(out, &order, false)?;
    let record = program::Reduce { kind: kind as u32, outer: word(outer)?, len: word(len)?, inner: word(inner)? };
    let (inputs, outputs) = (vec![b.operand(&view)?], vec![b.operand(&output)?]);
    b.push(OpKind::Reduce, &record, &[], inputs, outputs, vec![], "a reduction");
    Ok(())
}

/// Writes the op of a node along an axis.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<(), String> {
    let x = node.inputs[0].ok_or("no input")?;
    match &node.op {
        Op::Reduce { kind, axes } => return along(b, x, out, axes, *kind),
        Op::LayerNorm { .. } | Op::GroupNorm { .. } => return norm(b, node, x, out),
        _ => {}
    }
    let dtype = b.net.dtype(x);
    let whole = matches!(node.op, Op::TopK { .. } | Op::ArgReduce { .. } | Op::Cumulate { .. });
    let wide = dtype == DType::F64 && matches!(node.op, Op::Cumulate { .. });
    if dtype != DType::F32 && !wide && !(whole && matches!(dtype, DType::I64 | DType::I32)) {
        return Err(format!("{} of {dtype} has no native form", node.op_type));
    }
    match node.op {
        Op::Cumulate { axis, product, exclusive, reverse } => {
            let (view, order, [outer, len, inner]) = beside(b, x, &[axis])?;
            let output = b.output(out, &order, false)?;
            let (outer, len, inner) = (word(outer)?, word(len)?, word(inner)?);
            let (product, exclusive, reverse) = (product as u32, exclusive as u32, reverse as u32);
            let record = program::Cumulate { outer, len, inner, product, exclusive, reverse };
            write(b, OpKind::Cumulate, &record, &[view], &output, "running sums")
        }
        Op::Resample { axis } => {
            let [_, Some(places), Some(weights)] = node.inputs[..] else { return Err("no places or weights".into()) };
            let (view, order, [outer, len, inner]) = beside(b, x, &[axis])?;
            let [n, taps] = b.net.dims(places)[..] else { return Err("places are no matrix".into()) };
            let (places, weights) = (b.row_major(places)?, b.row_major(weights)?);
            let output = b.output(out, &order, false)?;
            let (outer, len, inner) = (word(outer)?, word(len)?, word(inner)?);
            let record = program::Resample { outer, len, out: word(n)?, inner, taps: word(taps)? };
            let inputs = vec![b.operand(&view)?, b.operand(&places)?, b.operand(&weights)?];
            let outputs = vec![b.operand(&output)?];
            b.push(OpKind::Resample, &record, &[], inputs, outputs, vec![], "weighted sums along an axis");
            Ok(())
        }
        Op::Softmax { axis, log } => {
            let (view, order, [outer, len, inner]) = beside(b, x, &[axis])?;
            let output = b.output(out, &order, false)?;
            let record = program::Softmax { outer: word(outer)?, len: word(len)?, inner: word(inner)?, log: log as u32 };
            write(b, OpKind::Softmax, &record, &[view], &output, "softmax")
        }
        Op::ArgReduce { axis, min, last } => {
            let (view, order, [outer, len, inner]) = beside(b, x, &[axis])?;
            let output = b.output(out, &order, false)?;
            let (outer, len, inner) = (word(outer)?, word(len)?, word(inner)?);
            let record = program::ArgReduce { outer, len, inner, min: min as u32, last: last as u32 };
            let (inputs, outputs) = (vec![b.operand(&view)?], vec![b.operand(&output)?]);
            b.push(OpKind::ArgReduce, &record, &[], inputs, outputs, vec![], "the place of the largest");
            Ok(())
        }
        Op::TopK { axis, min } => {
            let (view, order, [outer, len, inner]) = beside(b, x, &[axis])?;
            let k = b.net.dims(out)[axis];
            let values = b.output(out, &order, false)?;
            let indices = match node.outputs.get(1).copied().flatten() {
                Some(v) => b.output(v, &order, false)?,
                None => {
                    let dims = b.net.dims(out).to_vec();
                    b.buffer("indices", DType::I64, &dims, &order)?
                }
            };
            let (outer, len, inner) = (word(outer)?, word(len)?, word(inner)?);
            let record = program::TopK { outer, len, inner, k: word(k)?, min: min as u32 };
            let inputs = vec![b.operand(&view)?];
            let outputs = vec![b.operand(&values)?, b.operand(&indices)?];
            b.push(OpKind::TopK, &record, &[], inputs, outputs, vec![], "the largest, in order");
            Ok(())
        }
        _ => Err("it has no native form".into()),
    }
}

fn write<R: Record>(
    b: &mut Builder<'_>,
    kind: OpKind,
    record: &R,
    inputs: &[View],
    output: &View,
    why: &str,
) -> Result<(), String> {
    let in_place = if b.is_whole(&inputs[0]) && b.is_whole(output) { vec![0] } else { vec![] };
    let inputs = inputs.iter().map(|v| b.operand(v)).collect::<Result<_, _>>()?;
    let outputs = vec![b.operand(output)?];
    b.push(kind, record, &[], inputs, outputs, in_place, why);
    Ok(())
}

fn norm(b: &mut Builder<'_>, node: &Node, x: ValueId, out: ValueId) -> Result<(), String> {
    if b.net.dtype(x) != DType::F32 {
        return Err(format!("a norm of {} has no native form", b.net.dtype(x)));
    }
    let dims = b.net.dims(x).to_vec();
    let parameter = |slot: usize| node.inputs.get(slot).copied().flatten();
    // What a row is, and how often the parameters repeat.
    let (rows, len, per_row, order, record_rms, epsilon) = match node.op {
        Op::LayerNorm { axis, epsilon, rms } => {
            let len: usize = dims[axis..].iter().product();
            let mut order = if b.is_bound(x) { b.view(x)?.layout.order() } else { (0..dims.len()).collect() };
            order.retain(|a| *a < axis);
            order.extend(axis..dims.len());
            for slot in 1..3 {
                if let Some(p) = parameter(slot)
                    && b.net.dims(p).iter().product::<usize>() != len
                {
                    return Err("its scale or bias is broadcast".into());
                }
            }
            (dims[..axis].iter().product::<usize>(), len, 0, order, rms, epsilon)
        }
        Op::GroupNorm { groups, epsilon } => {
            if groups != dims[1] {
                return Err("it was not taken apart".into());
            }
            let len: usize = dims[2..].iter().product();
            (dims[0] * dims[1], len, groups, (0..dims.len()).collect(), false, epsilon)
        }
        _ => return Err("no norm".into()),
    };
    let mut views = vec![b.ordered(x, &order)?];
    let mut absent = vec![];
    for slot in 1..3 {
        match parameter(slot) {
            Some(v) => views.push(b.row_major(v)?),
            None => absent.push(slot),
        }
    }
    let output = b.output(out, &order, false)?;
    let record = program::Norm { rows: word(rows)?, len: word(len)?, rms: record_rms as u32, per_row: word(per_row)?, epsilon };
    let in_place = if b.is_whole(&views[0]) && b.is_whole(&output) { vec![0] } else { vec![] };
    let mut inputs = views.iter().map(|v| b.operand(v)).collect::<Result<Vec<_>, _>>()?;
    for slot in absent {
        inputs.insert(slot, None);
    }
    let outputs = vec![b.operand(&output)?];
    b.push(OpKind::Norm, &record, &[], inputs, outputs, in_place, "a norm");
    Ok(())
}

/// Group norms with several channels to a group: a norm over each group without parameters, then factor and sum per
/// channel, which are element-wise.
pub(super) fn split_group_norms(net: &mut super::net::Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        i += 1;
        let (Op::GroupNorm { groups, epsilon }, Some(Some(out)), Some(Some(x))) =
            (&node.op, node.outputs.first(), node.inputs.first())
        else {
            continue;
        };
        let dims = net.dims(*x).to_vec();
        if *groups == 0 || dims.len() < 2 || *groups == dims[1] || !dims[1].is_multiple_of(*groups) {
            continue;
        }
        let rest: usize = dims[1..].iter().product::<usize>() / groups;
        let name = net.name(*out).to_string();
        let flat = net.value(&name, DType::F32, &[dims[0], *groups, rest]);
        let normed = net.value(&name, DType::F32, &[dims[0], *groups, rest]);
        let back = net.value(&name, DType::F32, &dims);
        let mut made_nodes = vec![
            made(&node, Op::Reshape, &[*x], flat),
            made(&node, Op::LayerNorm { axis: 2, epsilon: *epsilon, rms: false }, &[flat], normed),
            made(&node, Op::Reshape, &[normed], back),
        ];
        let mut shape = vec![1; dims.len() - 1];
        shape[0] = dims[1];
        let mut last = back;
        for (slot, f) in [(1, program::Binary::Mul), (2, program::Binary::Add)] {
            let Some(Some(p)) = node.inputs.get(slot) else { continue };
            let column = net.value(net.name(*p).to_string(), DType::F32, &shape);
            made_nodes.push(made(&node, Op::Reshape, &[*p], column));
            let next = net.value(&name, DType::F32, &dims);
            made_nodes.push(made(&node, Op::Binary(f), &[last, column], next));
            last = next;
        }
        if let Some(end) = made_nodes.last_mut() {
            end.outputs = vec![Some(*out)];
        }
        net.graph.nodes[i - 1] = made_nodes.remove(0);
        let count = made_nodes.len();
        net.insert(i, made_nodes);
        i += count;
    }
    net.tidy();
}
