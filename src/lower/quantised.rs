//! Quantisation and its reverse, where no kernel takes them in: as element-wise arithmetic in `f32`.
//!
//! The quotient is a true one, since the product with the reciprocal of the scale rounds otherwise at ties: so this runs
//! after the rewriting of divisions. Blocked scales are left to the host.

use super::net::{Net, made};
use crate::graph::{Op, ValueId};
use crate::program::{Binary, Unary};
use crate::tensor::DType;

/// Rewrites all nodes that quantise or dequantise.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        i += written_out(net, i).unwrap_or(1);
    }
    net.tidy();
}

/// The integers of a type, as `f32`; none for those that `f32` does not hold.
fn range(dtype: DType) -> Option<[f32; 2]> {
    match dtype {
        DType::I8 => Some([-128.0, 127.0]),
        DType::U8 => Some([0.0, 255.0]),
        DType::I16 => Some([-32768.0, 32767.0]),
        DType::U16 => Some([0.0, 65535.0]),
        _ => None,
    }
}

/// Rewrites node `i`; gives how many nodes there are instead.
fn written_out(net: &mut Net, i: usize) -> Option<usize> {
    let node = net.graph.nodes[i].clone();
    let (quantise, axis) = match node.op {
        Op::Quantize { axis, block: 0 } => (true, axis),
        Op::Dequantize { axis, block: 0 } => (false, axis),
        _ => return None,
    };
    let input = |slot: usize| node.inputs.get(slot).copied().flatten();
    let (x, scale, out) = (input(0)?, input(1)?, node.outputs[0]?);
    let dims = net.dims(x).to_vec();
    let float = |d: DType| matches!(d, DType::F32 | DType::F16);
    let [from, to, of] = [x, out, scale].map(|v| net.dtype(v));
    let fits = if quantise { float(from) && range(to).is_some() } else { range(from).is_some() || from == DType::I32 };
    if !fits || !float(of) || !quantise && !float(to) {
        return None;
    }
    // One number, or one per index of the axis.
    let mut shape = vec![1; dims.len()];
    let count: usize = net.dims(scale).iter().product();
    if count != 1 {
        (*dims.get(axis)? == count).then(|| shape[axis] = count)?;
    }
    let mut nodes = vec![];
    let mut add = |net: &mut Net, op: Op, inputs: &[ValueId], dtype: DType, dims: &[usize]| {
        let v = net.value(node.name.clone(), dtype, dims);
        nodes.push(made(&node, op, inputs, v));
        v
    };
    let mut parameter = |net: &mut Net, v: ValueId| {
        let own = net.dims(v).to_vec();
        let wide = add(net, Op::Cast, &[v], DType::F32, &own);
        add(net, Op::Reshape, &[wide], DType::F32, &shape)
    };
    let factor = parameter(net, scale);
    let zero = match input(2) {
        Some(zero) if net.dims(zero).iter().product::<usize>() == count => Some(parameter(net, zero)),
        Some(_) => return None,
        None => None,
    };
    let mut y = add(net, Op::Cast, &[x], DType::F32, &dims);
    if quantise {
        y = add(net, Op::Binary(Binary::Div), &[y, factor], DType::F32, &dims);
        y = add(net, Op::Unary(Unary::Round, [0.0; 2]), &[y], DType::F32, &dims);
        if let Some(zero) = zero {
            y = add(net, Op::Binary(Binary::Add), &[y, zero], DType::F32, &dims);
        }
        y = add(net, Op::Unary(Unary::Clip, range(to)?), &[y], DType::F32, &dims);
    } else {
        if let Some(zero) = zero {
            y = add(net, Op::Binary(Binary::Sub), &[y, zero], DType::F32, &dims);
        }
        y = add(net, Op::Binary(Binary::Mul), &[y, factor], DType::F32, &dims);
    }
    add(net, Op::Cast, &[y], to, &dims);
    nodes.last_mut()?.outputs = vec![Some(out)];
    let count = nodes.len();
    net.graph.nodes.splice(i..i + 1, nodes);
    net.index();
    Some(count)
}
