//! Which inputs of a model decide sizes, as far as the file says so before anything is imported.
//!
//! Such an input is best given as a value at once: an import that finds a size open in its middle is an import for nothing.

use super::wire::{Damaged, Field};
use std::collections::HashSet;

/// What is read of a node.
#[derive(Default)]
struct Node<'a> {
    op: &'a str,
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
}

impl<'a> Node<'a> {
    /// Reads another into this one, whose memory it takes.
    fn read(&mut self, node: &Field<'a>) -> Result<(), Damaged> {
        self.op = "";
        self.inputs.clear();
        self.outputs.clear();
        for field in node.fields()? {
            let field = field?;
            match field.number {
                1 => self.inputs.push(field.text()?),
                2 => self.outputs.push(field.text()?),
                4 => self.op = field.text()?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Names of tensors whose values decide sizes: those that a node takes for axes, sizes, counts or the like, and those out of which
/// the size of something new is computed, element by element. Of the nodes of a graph, in their order.
///
/// # Errors
/// A node is damaged.
pub(super) fn deciding<'a>(nodes: &[Field<'a>]) -> Result<HashSet<&'a str>, Damaged> {
    let (mut names, mut node) = (HashSet::new(), Node::default());
    let mut last = 0;
    for (i, field) in nodes.iter().enumerate() {
        node.read(field)?;
        if let Some(first) = sized_by(node.op) {
            names.extend(node.inputs.iter().skip(first).filter(|name| !name.is_empty()));
        }
        if makes(node.op) {
            last = i + 1;
        }
    }
    // What is still looked for as the walk goes to the first node. It ends at sizes and at constants, mostly soon.
    let mut wanted: HashSet<&str> = HashSet::new();
    for field in nodes[..last].iter().rev() {
        node.read(field)?;
        let found = node.outputs.iter().filter(|name| wanted.remove(**name)).count() > 0;
        if makes(node.op) || (found && carries(node.op)) {
            wanted.extend(node.inputs.iter().filter(|name| !name.is_empty()));
        }
    }
    names.extend(wanted);
    Ok(names)
}

/// Whether an operator makes something new of a computed size. The import bounds how many elements of a mask are true, but has no value
/// for anything else that is computed of data: its output would stay open.
fn makes(op: &str) -> bool {
    matches!(op, "ConstantOfShape" | "Range")
}

/// From which of its inputs on an operator takes values for axes, sizes, counts or the like.
fn sized_by(op: &str) -> Option<usize> {
    Some(match op {
        "BlackmanWindow" | "ConstantOfShape" | "HammingWindow" | "HannWindow" | "If" | "MelWeightMatrix" | "Range" => 0,
        "AffineGrid" | "CenterCropPad" | "Col2Im" | "CumProd" | "CumSum" | "DFT" | "Expand" | "OneHot" | "Pad" | "Resize"
        | "Reshape" | "STFT" | "SequenceAt" | "Slice" | "Split" | "SplitToSequence" | "Squeeze" | "Tile" | "TopK" | "Trilu"
        | "Unsqueeze" | "Upsample" => 1,
        "MaxUnpool" => 2,
        reduction if reduction.starts_with("Reduce") => 1,
        _ => return None,
    })
}

/// Whether the values of an operator's outputs hang on those of its inputs, and are found by the import where those are known. Networks
/// are not: of what hangs on weights nothing is known.
fn carries(op: &str) -> bool {
    matches!(
        op,
        "Abs"
            | "Add"
            | "And"
            | "ArgMax"
            | "ArgMin"
            | "Cast"
            | "Ceil"
            | "Clip"
            | "Concat"
            | "CumSum"
            | "Div"
            | "Equal"
            | "Expand"
            | "Flatten"
            | "Floor"
            | "Gather"
            | "Greater"
            | "GreaterOrEqual"
            | "Identity"
            | "Less"
            | "LessOrEqual"
            | "Max"
            | "Min"
            | "Mod"
            | "Mul"
            | "Neg"
            | "Not"
            | "Or"
            | "ReduceMax"
            | "ReduceMin"
            | "ReduceProd"
            | "ReduceSum"
            | "Reshape"
            | "Slice"
            | "Squeeze"
            | "Sub"
            | "Transpose"
            | "Unsqueeze"
            | "Where"
    )
}

#[cfg(test)]
mod tests {
    use super::super::externs::declare;
    use super::super::skeleton;
    use super::super::tests::{model, node};
    use prost::Message;

    #[test]
    fn an_input_decides_the_size_of_what_is_made_of_its_values() {
        let plain = |op: &str, inputs: &[&str], output: &str| node(op, inputs, &[output], vec![]);
        let mut model = model(
            17,
            &[4],
            vec![
                plain("Mul", &["mask", "also"], "both"),
                plain("ReduceMax", &["both"], "most"),
                plain("ConstantOfShape", &["most"], "zeros"),
                plain("Cast", &["x"], "integers"),
                plain("Shape", &["integers"], "sizes"),
                plain("ConstantOfShape", &["sizes"], "ones"),
                plain("NonZero", &["counted"], "places"),
                plain("Shape", &["places"], "count"),
                plain("Range", &["start", "count", "step"], "numbers"),
                plain("MatMul", &["data", "weights"], "product"),
                plain("Cast", &["product"], "length"),
                plain("Range", &["start", "length", "step"], "y"),
                plain("Reshape", &["x", "direct"], "shaped"),
                plain("Add", &["after", "zeros"], "sum"),
            ],
        );
        let graph = model.graph.as_mut().expect("it has a graph");
        let names = ["mask", "also", "counted", "data", "direct", "after"];
        graph.input.extend(names.iter().map(|name| declare(name, 7, Some(&[4]))));
        let signature = skeleton::signature(&model.encode_to_vec()).expect("it is whole");
        let deciding: Vec<&str> = signature.inputs.iter().filter(|i| i.decides).map(|i| &*i.name).collect();
        assert_eq!(deciding, ["mask", "also", "direct"]);
    }
}
