//! Functions that exporters spell out in small nodes, put back together.
//!
//! Everything here looks backwards from a node at what made its operands and replaces that one node; what it no longer reads
//! disappears. Arithmetic with one constant number becomes an affine or clip function first, so that the patterns have few
//! spellings: the patterns themselves are equations over `a * x + b`.

use super::constant::is_float;
use super::net::{Net, made};
use crate::graph::{Node, Op, ValueId};
use crate::program::{Binary, ReduceKind, Unary};
use crate::tensor::DType;

const SQRT_2: f32 = std::f32::consts::SQRT_2;

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs().max(1e-30)
}

/// Rewrites the whole graph.
pub(super) fn run(net: &mut Net) {
    batch_norms(net);
    masks(net);
    for i in 0..net.graph.nodes.len() {
        let node = &net.graph.nodes[i];
        let Some(Some(out)) = node.outputs.first().copied() else { continue };
        if net.dtype(out) != DType::F32 {
            continue;
        }
        let found = with_number(net, node, out)
            .or_else(|| clip_of_clip(net, node))
            .or_else(|| hard_sigmoid(net, node))
            .or_else(|| gated(net, node))
            .or_else(|| gelu(net, node))
            .or_else(|| mean(net, node));
        if let Some((op, inputs)) = found {
            net.replace(i, op, &inputs);
            // What has become a function may be part of a larger one.
            let node = &net.graph.nodes[i];
            let again = clip_of_clip(net, node)
                .or_else(|| hard_sigmoid(net, node))
                .or_else(|| scaled_gate(net, node))
                .or_else(|| gelu(net, node))
                .or_else(|| mean(net, node));
            if let Some((op, inputs)) = again {
                net.replace(i, op, &inputs);
            }
        }
    }
    net.tidy();
}

type Found = Option<(Op, Vec<ValueId>)>;

fn one(f: Unary, p: [f32; 2], x: ValueId) -> Found {
    Some((Op::Unary(f, p), vec![x]))
}

/// Arithmetic with one number.
fn with_number(net: &Net, node: &Node, out: ValueId) -> Found {
    let (Op::Binary(f), [Some(a), Some(b)]) = (&node.op, &node.inputs[..]) else { return None };
    let (x, c, flipped) = match (net.uniform(*a), net.uniform(*b)) {
        (None, Some(c)) => (*a, c, false),
        (Some(c), None) => (*b, c, true),
        _ => return None,
    };
    if net.dims(x) != net.dims(out) || net.dtype(x) != DType::F32 {
        return None;
    }
    match (f, flipped) {
        (Binary::Add, _) => one(Unary::Affine, [1.0, c], x),
        (Binary::Sub, false) => one(Unary::Affine, [1.0, -c], x),
        (Binary::Sub, true) => one(Unary::Affine, [-1.0, c], x),
        (Binary::Mul, _) => one(Unary::Affine, [c, 0.0], x),
        // Only where the reciprocal loses nothing that matters.
        (Binary::Div, false) if c.is_normal() && (1.0 / c).is_normal() => one(Unary::Affine, [1.0 / c, 0.0], x),
        (Binary::Max, _) if !c.is_nan() => one(Unary::Clip, [c, f32::INFINITY], x),
        (Binary::Min, _) if !c.is_nan() => one(Unary::Clip, [f32::NEG_INFINITY, c], x),
        (Binary::Pow, false) if c == 2.0 => one(Unary::Square, [0.0; 2], x),
        (Binary::Pow, false) if c == 0.5 => one(Unary::Sqrt, [0.0; 2], x),
        (Binary::Pow, false) => one(Unary::PowConst, [c, 0.0], x),
        (Binary::Prelu, false) => one(Unary::LeakyRelu, [c, 0.0], x),
        _ => None,
    }
}

/// `clip(clip(x))`.
fn clip_of_clip(net: &Net, node: &Node) -> Found {
    let (Op::Unary(Unary::Clip, [low, high]), [Some(v)]) = (&node.op, &node.inputs[..]) else { return None };
    let (Unary::Clip, [inner_low, inner_high], x) = net.unary(*v)? else { return None };
    // As one: min(max(x, l), h) for both, of which the outer has the last word.
    let bound = |v: f32| {
        if v < *low {
            *low
        } else if v > *high {
            *high
        } else {
            v
        }
    };
    one(Unary::Clip, [bound(inner_low), bound(inner_high)], x)
}

/// `clip(a x + b, 0, 1)`, also as `clip(a x + b, 0, h) / h`.
fn hard_sigmoid(net: &Net, node: &Node) -> Found {
    let [Some(v)] = &node.inputs[..] else { return None };
    match node.op {
        Op::Unary(Unary::Clip, [0.0, 1.0]) => {
            let (Unary::Affine, p, x) = net.unary(*v)? else { return None };
            one(Unary::HardSigmoid, p, x)
        }
        Op::Unary(Unary::Affine, [s, 0.0]) => {
            let (Unary::Clip, [0.0, high], inner) = net.unary(*v)? else { return None };
            let (Unary::Affine, p, x) = net.unary(inner)? else { return None };
            near(s * high, 1.0).then_some(())?;
            one(Unary::HardSigmoid, [p[0] / high, p[1] / high], x)
        }
        _ => None,
    }
}

/// `x * sigmoid(x)` and `x * hard_sigmoid(x)`.
fn gated(net: &Net, node: &Node) -> Found {
    let (Op::Binary(Binary::Mul), [Some(a), Some(b)]) = (&node.op, &node.inputs[..]) else { return None };
    for (x, gate) in [(*a, *b), (*b, *a)] {
        match net.unary(gate) {
            Some((Unary::Sigmoid, _, inner)) if inner == x => return one(Unary::Silu, [0.0; 2], x),
            Some((Unary::HardSigmoid, p, inner)) if inner == x => return one(Unary::HardSwish, p, x),
            _ => {}
        }
    }
    None
}

/// `x * clip(a x + b, 0, h) / h`.
fn scaled_gate(net: &Net, node: &Node) -> Found {
    let (Op::Unary(Unary::Affine, [s, 0.0]), [Some(v)]) = (&node.op, &node.inputs[..]) else { return None };
    let [a, b] = net.binary(*v, Binary::Mul)?;
    for (x, gate) in [(a, b), (b, a)] {
        if let Some((Unary::Clip, [0.0, high], inner)) = net.unary(gate)
            && let Some((Unary::Affine, p, origin)) = net.unary(inner)
            && origin == x
            && near(s * high, 1.0)
        {
            return one(Unary::HardSwish, [p[0] / high, p[1] / high], x);
        }
    }
    None
}

/// `x / 2 * (1 + erf(x / sqrt(2)))` and the form with tanh, wherever the factors stand.
fn gelu(net: &Net, node: &Node) -> Found {
    // The factor that may come after the product.
    let (product, after) = match (&node.op, &node.inputs[..]) {
        (Op::Binary(Binary::Mul), [Some(a), Some(b)]) => ([*a, *b], 1.0),
        (Op::Unary(Unary::Affine, [s, 0.0]), [Some(v)]) => (net.binary(*v, Binary::Mul)?, *s),
        _ => return None,
    };
    for [left, right] in [product, [product[1], product[0]]] {
        for (x, a, zero) in net.affine(left) {
            for (gate, c, d) in net.affine(right) {
                // a x (c g + d) with c = d and a c after = 1/2.
                if zero != 0.0 || !near(c, d) || !near(a * c * after, 0.5) {
                    continue;
                }
                match net.unary(gate) {
                    Some((Unary::Erf, _, inner))
                        if net.affine(inner).iter().any(|&(y, s, t)| y == x && t == 0.0 && near(s * SQRT_2, 1.0)) =>
                    {
                        return one(Unary::Gelu, [0.0; 2], x);
                    }
                    Some((Unary::Tanh, _, inner)) if tanh_argument(net, inner, x) => {
                        return one(Unary::GeluTanh, [0.0; 2], x);
                    }
                    _ => {}
                }
            }
        }
    }
    None
}

/// Whether a value is `sqrt(2 / pi) * (x + 0.044715 * x^3)`.
fn tanh_argument(net: &Net, v: ValueId, x: ValueId) -> bool {
    let cube = |v: ValueId| match net.unary(v) {
        Some((Unary::PowConst, [3.0, _], y)) => y == x,
        _ => net.binary(v, Binary::Mul).is_some_and(|[a, b]| {
            let square = |v: ValueId| match net.unary(v) {
                Some((Unary::Square, _, y)) => y == x,
                _ => net.binary(v, Binary::Mul) == Some([x, x]),
            };
            a == x && square(b) || b == x && square(a)
        }),
    };
    net.affine(v).iter().any(|&(sum, s, zero)| {
        let Some([a, b]) = net.binary(sum, Binary::Add) else { return false };
        let small = |v: ValueId| net.affine(v).iter().any(|&(y, c, z)| z == 0.0 && near(c, 0.044715) && cube(y));
        zero == 0.0 && near(s, (2.0 / std::f32::consts::PI).sqrt()) && (a == x && small(b) || b == x && small(a))
    })
}

/// A sum over axes times one over their size.
fn mean(net: &Net, node: &Node) -> Found {
    let (Op::Unary(Unary::Affine, [s, 0.0]), [Some(v)]) = (&node.op, &node.inputs[..]) else { return None };
    let sum = net.node_of(*v)?;
    let (Op::Reduce { kind, axes }, [Some(x)]) = (&sum.op, &sum.inputs[..]) else { return None };
    let n: usize = axes.iter().map(|&a| net.dims(*x)[a]).product();
    let kind = match kind {
        ReduceKind::Sum => ReduceKind::Mean,
        ReduceKind::SumSquare => ReduceKind::MeanSquare,
        _ => return None,
    };
    near(s * n as f32, 1.0).then(|| (Op::Reduce { kind, axes: axes.clone() }, vec![*x]))
}

/// Zeros that are put around a map before a convolution: they become its padding.
pub(super) fn pads(net: &mut Net) {
    for i in 0..net.graph.nodes.len() {
        let node = &net.graph.nodes[i];
        let (Op::Conv { window, groups }, Some(Some(padded))) = (&node.op, node.inputs.first()) else { continue };
        let Some(Node { op: Op::Pad { before, value }, inputs, .. }) = net.node_of(*padded) else { continue };
        let Some(Some(x)) = inputs.first() else { continue };
        let (inner, outer) = (net.dims(*x), net.dims(*padded));
        let first = inner.len().saturating_sub(window.kernel.len());
        if value.iter().any(|&b| b != 0) || inner[..first] != outer[..first] {
            continue;
        }
        let mut window = window.clone();
        for k in 0..window.kernel.len() {
            let a = first + k;
            window.before[k] += before[a];
            window.after[k] += outer[a] - inner[a] - before[a];
        }
        let mut inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        inputs[0] = *x;
        let op = Op::Conv { window, groups: *groups };
        net.replace(i, op, &inputs);
    }
    net.tidy();
}

/// Batch norms with constant parameters: a factor and a sum per channel, which the product before takes in.
fn batch_norms(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        i += 1;
        let (Op::BatchNorm { epsilon }, [Some(x), rest @ ..], [Some(out), ..]) = (&node.op, &node.inputs[..], &node.outputs[..])
        else {
            continue;
        };
        let parameters: Option<Vec<Vec<f32>>> = rest.iter().map(|v| Some(net.constant((*v)?)?.f32s())).collect();
        let dims = net.dims(*x).to_vec();
        let mut shape = vec![1; dims.len().saturating_sub(1).max(1)];
        let Some([scale, bias, mean, variance]) = parameters.as_deref() else {
            i += computed_batch_norm(net, i - 1, &shape, *epsilon);
            continue;
        };
        shape[0] = scale.len();
        let factor: Vec<f32> = scale.iter().zip(variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let sum: Vec<f32> = (0..factor.len()).map(|c| bias[c] - mean[c] * factor[c]).collect();
        let name = net.name(*out).to_string();
        let factor = net.constant_f32(format!("{name} factor"), &factor, &shape);
        let sum = net.constant_f32(format!("{name} sum"), &sum, &shape);
        let scaled = net.value(name, DType::F32, &dims);
        net.graph.nodes[i - 1] = made(&node, Op::Binary(Binary::Mul), &[*x, factor], scaled);
        net.insert(i, vec![made(&node, Op::Binary(Binary::Add), &[scaled, sum], *out)]);
        i += 1;
    }
    net.index();
}

/// A batch norm whose parameters are computed, in small nodes; gives how many more there are now.
fn computed_batch_norm(net: &mut Net, i: usize, shape: &[usize], epsilon: f32) -> usize {
    let node = net.graph.nodes[i].clone();
    let ([Some(x), Some(scale), Some(bias), Some(mean), Some(variance)], [Some(out), ..]) = (&node.inputs[..], &node.outputs[..])
    else {
        return 0;
    };
    if [x, scale, bias, mean, variance].iter().any(|v| net.dtype(**v) != DType::F32) {
        return 0;
    }
    let dims = net.dims(*x).to_vec();
    let mut shape = shape.to_vec();
    shape[0] = net.dims(*scale).iter().product();
    let mut nodes = vec![];
    let mut add = |net: &mut Net, op: Op, inputs: &[ValueId], dims: &[usize]| {
        let v = net.value(node.name.clone(), DType::F32, dims);
        nodes.push(made(&node, op, inputs, v));
        v
    };
    let [scale, bias, mean, variance] = [scale, bias, mean, variance].map(|v| add(net, Op::Reshape, &[*v], &shape));
    let sum = add(net, Op::Unary(Unary::Affine, [1.0, epsilon]), &[variance], &shape);
    let inverse = add(net, Op::Unary(Unary::Rsqrt, [0.0; 2]), &[sum], &shape);
    let factor = add(net, Op::Binary(Binary::Mul), &[inverse, scale], &shape);
    let centred = add(net, Op::Binary(Binary::Sub), &[*x, mean], &dims);
    let scaled = add(net, Op::Binary(Binary::Mul), &[centred, factor], &dims);
    add(net, Op::Binary(Binary::Add), &[scaled, bias], &dims);
    if let Some(last) = nodes.last_mut() {
        last.outputs = vec![Some(*out)];
    }
    let more = nodes.len() - 1;
    net.graph.nodes.splice(i..i + 1, nodes);
    net.index();
    more
}

/// A mask that selects a very small number instead of a score, before a softmax: it becomes a sum, of the mask's own
/// size, as fused attention takes it.
fn masks(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        i += 1;
        let (Op::Select, [Some(condition), Some(a), Some(b)], [Some(out)]) = (&node.op, &node.inputs[..], &node.outputs[..])
        else {
            continue;
        };
        let to_softmax = net.only_reader(*out).is_some_and(|r| matches!(net.graph.nodes[r].op, Op::Softmax { .. }));
        if !to_softmax || !is_float(net.dtype(*out)) {
            continue;
        }
        let small = |v: ValueId| net.uniform(v).filter(|&c| c <= -1e9);
        let (scores, number, keep) = match (small(*a), small(*b)) {
            (None, Some(c)) => (*a, c, true),
            (Some(c), None) => (*b, c, false),
            _ => continue,
        };
        if net.dims(scores) != net.dims(*out) || net.constant(scores).is_some() {
            continue;
        }
        let ones = vec![1; net.dims(*condition).len()];
        let zero = net.constant_f32("zero", &[0.0], &ones);
        let number = net.constant_f32("masked", &[number], &ones);
        let dims = net.dims(*condition).to_vec();
        let mask = net.value(format!("{} mask", net.name(*out)), DType::F32, &dims);
        let [yes, no] = if keep { [zero, number] } else { [number, zero] };
        net.graph.nodes[i - 1] = made(&node, Op::Select, &[*condition, yes, no], mask);
        net.insert(i, vec![made(&node, Op::Binary(Binary::Add), &[scores, mask], *out)]);
        net.index();
        i += 1;
    }
}
