//! Ops that choose: what they find, and how many.

use super::builder::{Builder, word};
use crate::graph::{Node, Op, ValueId};
use crate::plan::draft;
use crate::program::{self, OpKind};
use crate::tensor::DType;

/// Writes the op of a node that chooses.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<(), String> {
    match node.op {
        Op::NonZero => {
            let ([len], [bound]) = (dims(b, node, 0), b.net.dims(out)) else { return Err("its mask is no row".into()) };
            let record = program::NonZero { len: word(*len)?, bound: word(*bound)? };
            let inputs = vec![operand(b, node, 0, DType::Bool)?];
            let outputs = outputs(b, node, out)?;
            b.push(OpKind::NonZero, &record, &[], inputs, outputs, vec![], "indices of what is true");
        }
        Op::NonMaxSuppression { centred } => {
            let types = [DType::F32, DType::F32, DType::I64, DType::F32, DType::F32];
            let ([batch, boxes, 4], [pictures, classes, each], [bound, 3]) =
                (dims(b, node, 0), dims(b, node, 1), b.net.dims(out))
            else {
                return Err("its boxes, scores or rows are of no shape that it knows".into());
            };
            if pictures != batch || each != boxes {
                return Err(format!("there are {batch} times {boxes} boxes, but scores of {pictures} times {each}"));
            }
            let [batch, classes, boxes, bound] = [word(*batch)?, word(*classes)?, word(*boxes)?, word(*bound)?];
            let record = program::NonMaxSuppression { batch, classes, boxes, bound, centred: centred as u32 };
            let inputs = (0..).zip(types).map(|(slot, of)| operand(b, node, slot, of)).collect::<Result<_, _>>()?;
            let outputs = outputs(b, node, out)?;
            b.push(OpKind::NonMaxSuppression, &record, &[], inputs, outputs, vec![], "boxes that stand for others");
        }
        _ => return Err("it has no native form".into()),
    }
    Ok(())
}

fn dims<'n>(b: &Builder<'n>, node: &Node, slot: usize) -> &'n [usize] {
    node.inputs.get(slot).copied().flatten().map_or(&[], |v| b.net.dims(v))
}

/// An input, row-major, if it is there: a constant or not.
fn operand(b: &mut Builder<'_>, node: &Node, slot: usize, dtype: DType) -> Result<Option<draft::ValueId>, String> {
    let Some(v) = node.inputs.get(slot).copied().flatten() else { return Ok(None) };
    if b.net.dtype(v) != dtype {
        return Err(format!("{} with an input of {} has no native form", node.op_type, b.net.dtype(v)));
    }
    let view = b.row_major(v)?;
    b.operand(&view)
}

/// What is found, and how many: a record counts even where nobody asks.
fn outputs(b: &mut Builder<'_>, node: &Node, out: ValueId) -> Result<Vec<Option<draft::ValueId>>, String> {
    let order: Vec<usize> = (0..b.net.dims(out).len()).collect();
    let found = b.output(out, &order, false)?;
    let count = match node.outputs.get(1).copied().flatten() {
        Some(v) => b.output(v, &[0], false)?,
        None => b.buffer("count", DType::I64, &[1], &[0])?,
    };
    Ok(vec![b.operand(&found)?, b.operand(&count)?])
}

#[cfg(test)]
mod tests {
    use crate::aligned::AlignedBytes;
    use crate::exec::Session;
    use crate::graph::{Bytes, Graph, Node, Op, Value, ValueId};
    use crate::kernels::Isa;
    use crate::lower::{Options, lower};
    use crate::tensor::DType;
    use crate::{Image, ops, plan};

    fn value(name: &str, dtype: DType, dims: &[usize]) -> Value {
        Value { name: name.into(), dtype, dims: dims.to_vec(), constant: None }
    }

    fn node(op: Op, inputs: &[Option<usize>], outputs: &[Option<usize>]) -> Node {
        let ids = |of: &[Option<usize>]| of.iter().map(|v| v.map(ValueId)).collect();
        Node { name: "n".into(), op_type: "N".into(), op, inputs: ids(inputs), outputs: ids(outputs), recipe: None }
    }

    /// A mask and boxes whose limits are one of the run, one a constant, one absent; nobody asks how many are true.
    fn graph() -> Graph {
        let mut values = vec![
            value("mask", DType::Bool, &[12]),
            value("boxes", DType::F32, &[1, 3, 4]),
            value("scores", DType::F32, &[1, 2, 3]),
            value("most", DType::I64, &[1]),
            value("share", DType::F32, &[1]),
            value("places", DType::I64, &[4]),
            value("rows", DType::I64, &[6, 3]),
            value("found", DType::I64, &[1]),
        ];
        values[4].constant = Some(Bytes::Owned(0.5f32.to_le_bytes().to_vec().into()));
        let nodes = vec![
            node(Op::NonZero, &[Some(0)], &[Some(5), None]),
            node(Op::NonMaxSuppression { centred: false }, &[Some(1), Some(2), Some(3), Some(4), None], &[Some(6), Some(7)]),
        ];
        let inputs = [0, 1, 2, 3].map(ValueId).to_vec();
        Graph { values, nodes, inputs, outputs: [5, 6, 7].map(ValueId).to_vec(), ..Graph::default() }
    }

    #[test]
    fn what_is_chosen() {
        let lowered = lower(graph(), &Options::default()).unwrap();
        assert!(lowered.externs.is_empty());
        let built = plan::build(lowered.model, &plan::Options::default()).unwrap();
        let image = Image::new(&built.image).unwrap();
        let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), 64);
        let mut session = Session::new(&image, ops::set(Isa::detect()).unwrap(), &mut arena).unwrap();
        for (most, rows) in [(1, vec![0i64, 0, 1, 0, 1, 2]), (9, vec![0, 0, 1, 0, 0, 2, 0, 1, 2, 0, 1, 0])] {
            session.input_bytes(0).unwrap().copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
            let boxes = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.9, 5.0, 5.0, 6.0, 6.0];
            session.input::<f32>(1).unwrap().copy_from_slice(&boxes);
            session.input::<f32>(2).unwrap().copy_from_slice(&[0.1, 0.2, 0.0, 0.7, 0.6, 0.8]);
            session.input::<i64>(3).unwrap()[0] = most;
            session.run().unwrap();
            assert_eq!(session.output::<i64>(0).unwrap(), [1, 9, 10, 10]);
            assert_eq!(session.output::<i64>(2).unwrap(), [rows.len() as i64 / 3]);
            let got = session.output::<i64>(1).unwrap();
            let (found, behind) = got.split_at(rows.len());
            assert_eq!(found, rows);
            assert!(behind.chunks(3).all(|row| row == &rows[rows.len() - 3..]), "{behind:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |change: fn(&mut Graph)| {
            let mut graph = graph();
            change(&mut graph);
            lower(graph, &Options::default()).err().expect("it does not fit").to_string()
        };
        let said = message(|graph| graph.values[2].dims = vec![1, 2, 4]);
        assert!(said.contains("1 times 3 boxes, but scores of 1 times 4"), "{said}");
        let said = message(|graph| graph.values[0].dtype = DType::U8);
        assert!(said.contains("an input of uint8"), "{said}");
        let said = message(|graph| graph.values[1].dims = vec![3, 4]);
        assert!(said.contains("boxes, scores or rows"), "{said}");
    }
}
