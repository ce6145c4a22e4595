//! Element-wise expressions as one op.
//!
//! The index space is walked in the order in which the inputs lie in memory, so that a channels-last map stays one.

use super::builder::{Builder, View, word};
use super::expr::Expr;
use super::layout::join;
use crate::graph::ValueId;
use crate::program::map::MAP_RANK;
use crate::program::{Domain, Map, OpKind};
use crate::tensor::DType;
use zerocopy::IntoBytes;

/// Writes the op of an expression whose value is `out`.
pub(super) fn emit(b: &mut Builder<'_>, expr: &Expr, out: ValueId) -> Result<(), String> {
    let dims = b.net.dims(out).to_vec();
    let mut views = Vec::with_capacity(expr.inputs.len());
    // Constants wait until the order of axes is known.
    for &v in &expr.inputs {
        views.push(if b.net.constant(v).is_some() { None } else { Some(b.view(v)?) });
    }
    let full = |v: &&View| v.layout.dims == dims && !v.layout.dims.iter().zip(&v.layout.strides).any(|(d, s)| *d > 1 && *s == 0);
    let order = views.iter().flatten().find(full).map_or_else(|| (0..dims.len()).collect(), |v| v.layout.order());
    for (view, &v) in views.iter_mut().zip(&expr.inputs) {
        if view.is_none() {
            // The same order among the axes that the constant has.
            let missing = dims.len() - b.net.dims(v).len();
            let order: Vec<usize> = order.iter().filter_map(|a| a.checked_sub(missing)).collect();
            *view = Some(b.ordered(v, &order)?);
        }
    }
    let mut views: Vec<View> = views.into_iter().flatten().collect();
    let output = b.output(out, &order, false)?;

    let walk = |views: &[View]| {
        let strides: Vec<Vec<usize>> = views.iter().map(|v| v.layout.broadcast(&dims).strides).collect();
        let axis = |&a: &usize| {
            let mut all: Vec<usize> = strides.iter().map(|s| s[a]).collect();
            all.push(output.layout.strides[a]);
            (dims[a], all)
        };
        join(order.iter().map(axis).collect())
    };
    let mut axes = walk(&views);
    if axes.len() > MAP_RANK {
        for (view, &v) in views.iter_mut().zip(&expr.inputs) {
            if view.layout.dims == dims {
                *view = b.dense(view, &order, b.net.name(v))?;
            }
        }
        axes = walk(&views);
    }
    if axes.len() > MAP_RANK {
        return Err(format!("an element-wise op over {} axes that can't be joined", axes.len()));
    }
    let (mut instructions, registers, mut result) = expr.instructions().ok_or("an element-wise op needs too many registers")?;
    // Inputs that are read where they lie come first: these need no memory as registers.
    let domain = expr.domain.unwrap_or(Domain::F32);
    let reads = |i: &usize| {
        let innermost = axes.last().map_or(0, |(_, strides)| strides[*i]);
        domain == Domain::F32 && views[*i].dtype == DType::F32 && innermost <= 1
    };
    let (first, rest): (Vec<usize>, Vec<usize>) = (0..views.len()).partition(reads);
    let from = [&first[..], &rest].concat();
    let renumber = |register: &mut u8| {
        if let Some(to) = from.iter().position(|&i| i == *register as usize) {
            *register = to as u8;
        }
    };
    for step in &mut instructions {
        let used = step.class as usize;
        [&mut step.a, &mut step.b, &mut step.c].into_iter().take(used).for_each(renumber);
    }
    renumber(&mut result);
    let views: Vec<View> = from.iter().map(|&i| views[i].clone()).collect();
    let mut record = Map {
        domain: domain as u32,
        rank: axes.len().max(1) as u32,
        dims: [1; MAP_RANK],
        inputs: views.len() as u32,
        registers: registers as u32,
        instructions: instructions.len() as u32,
        result: result as u16,
        direct: first.len() as u16,
    };
    let mut strides = vec![[0i32; MAP_RANK]; views.len()];
    for (i, (size, steps)) in axes.iter().enumerate() {
        record.dims[i] = word(*size)?;
        for (strides, &input) in strides.iter_mut().zip(&from) {
            strides[i] = i32::try_from(steps[input]).map_err(|_| "a stride is too large")?;
        }
    }
    let mut tail: Vec<u8> = strides.iter().flat_map(|s| s.as_bytes().to_vec()).collect();
    tail.extend(instructions.iter().flat_map(|i| i.as_bytes().to_vec()));
    let whole = b.is_whole(&output);
    let shared = |v: &View| {
        whole && b.is_whole(v) && v.layout.dims == dims && v.layout.is_dense(&order) && v.dtype.size() == output.dtype.size()
    };
    let in_place = (0..views.len()).filter(|&i| shared(&views[i])).collect();
    let inputs = views.iter().map(|v| b.operand(v)).collect::<Result<_, _>>()?;
    let outputs = vec![b.operand(&output)?];
    b.push(OpKind::Map, &record, &tail, inputs, outputs, in_place, "element-wise");
    Ok(())
}
