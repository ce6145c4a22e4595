//! Sums of products that are no matrix product: written out as one product over all letters, and a sum.
//!
//! Of one operand it is a sum over axes, or a transpose. Of several, of integers, or with letters that only one operand has,
//! the operands are seen in a common space of letters (views), multiplied element by element, and added up along those
//! letters that the output lacks. The space must exist in memory, so it is bounded; a larger one is left to the host.

use super::gemm;
use super::net::{Net, made};
use crate::graph::{Node, Op, ValueId};
use crate::program::{Binary, ReduceKind};
use crate::tensor::DType;

/// Elements of the space of all letters, at the most.
const MOST: usize = 1 << 24;

/// Rewrites all einsums that are no matrix product.
pub(super) fn run(net: &mut Net) {
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let node = net.graph.nodes[i].clone();
        match &node.op {
            Op::EinSum { inputs, output } if gemm::roles(net, &node).is_none() => {
                if let Some(nodes) = written_out(net, &node, inputs, output) {
                    i += nodes.len();
                    net.graph.nodes.splice(i - nodes.len()..i - nodes.len() + 1, nodes);
                    net.index();
                    continue;
                }
            }
            _ => {}
        }
        i += 1;
    }
    net.tidy();
}

fn written_out(net: &mut Net, node: &Node, inputs: &[String], output: &str) -> Option<Vec<Node>> {
    let out = node.outputs[0]?;
    let dtype = net.dtype(out);
    if !matches!(dtype, DType::F32 | DType::F64 | DType::I32 | DType::I64) {
        return None;
    }
    let operands: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    let terms: Vec<Vec<char>> = inputs.iter().map(|s| s.chars().collect()).collect();
    let kept: Vec<char> = output.chars().collect();
    // The output's letters, then those that are summed.
    let mut letters = kept.clone();
    letters.extend(terms.iter().flatten().filter(|c| !kept.contains(c)));
    let mut seen = vec![];
    letters.retain(|c| {
        !seen.contains(c) && {
            seen.push(*c);
            true
        }
    });
    let mut sizes = vec![1; letters.len()];
    for (term, &v) in terms.iter().zip(&operands) {
        if net.dtype(v) != dtype || term.len() != net.dims(v).len() {
            return None;
        }
        for (i, c) in term.iter().enumerate() {
            if term[..i].contains(c) {
                return None;
            }
            let at = letters.iter().position(|l| l == c)?;
            if net.dims(v)[i] != 1 {
                sizes[at] = net.dims(v)[i];
            }
        }
    }
    if sizes.iter().product::<usize>() > MOST || kept.len() != net.dims(out).len() {
        return None;
    }
    let mut nodes = vec![];
    let mut add = |net: &mut Net, op: Op, inputs: &[ValueId], dims: &[usize]| {
        let v = net.value(node.name.clone(), dtype, dims);
        nodes.push(made(node, op, inputs, v));
        v
    };
    let mut product: Option<ValueId> = None;
    for (term, &v) in terms.iter().zip(&operands) {
        let mut perm: Vec<usize> = (0..term.len()).collect();
        perm.sort_by_key(|&a| letters.iter().position(|l| *l == term[a]));
        let dims: Vec<usize> = perm.iter().map(|&a| net.dims(v)[a]).collect();
        let ordered = add(net, Op::Transpose(perm.clone()), &[v], &dims);
        let mut shape = vec![1; letters.len()];
        for (&a, &d) in perm.iter().zip(&dims) {
            shape[letters.iter().position(|l| *l == term[a])?] = d;
        }
        let spread = add(net, Op::Reshape, &[ordered], &shape);
        product = Some(match product {
            None => spread,
            Some(product) => {
                let dims: Vec<usize> = net.dims(product).iter().zip(&shape).map(|(&a, &b)| if a == 1 { b } else { a }).collect();
                add(net, Op::Binary(Binary::Mul), &[product, spread], &dims)
            }
        });
    }
    let mut sum = product?;
    if net.dims(sum) != sizes {
        sum = add(net, Op::Broadcast, &[sum], &sizes.clone());
    }
    let summed: Vec<usize> = (kept.len()..letters.len()).collect();
    if !summed.is_empty() {
        let mut dims = sizes.clone();
        summed.iter().for_each(|&a| dims[a] = 1);
        sum = add(net, Op::Reduce { kind: ReduceKind::Sum, axes: summed }, &[sum], &dims);
    }
    let dims = net.dims(out).to_vec();
    if dims.iter().product::<usize>() != net.dims(sum).iter().product::<usize>() {
        return None;
    }
    add(net, Op::Reshape, &[sum], &dims);
    nodes.last_mut()?.outputs = vec![Some(out)];
    Some(nodes)
}
