//! Which inputs of a model decide sizes, as far as the file says so before anything is imported.
//!
//! Such an input is best given as a value at once: an import that finds a size open in its middle is an import for nothing.

use super::hash::HashSet;
use super::wire::{Damaged, Field};

/// The names in a node's fields with this number: 1 for inputs, 2 for outputs. That they are text is looked at when they are used.
fn names<'a>(node: &Field<'a>, number: u32) -> Result<impl Iterator<Item = Result<&'a [u8], Damaged>>, Damaged> {
    let wanted = move |field: &Result<Field<'a>, Damaged>| field.as_ref().map_or(true, |field| field.number == number);
    Ok(node.fields()?.filter(wanted).map(|field| field?.bytes()))
}

/// The operator of a node.
fn operator<'a>(node: &Field<'a>) -> Result<&'a [u8], Damaged> {
    names(node, 4)?.last().unwrap_or(Ok(b""))
}

/// Names of tensors whose values decide sizes: those that a node takes for axes, sizes, counts or the like, and those out of which
/// the size of something new is computed, element by element. Of the nodes of a graph, in their order.
///
/// # Errors
/// A node is damaged.
pub(super) fn deciding<'a>(nodes: &[Field<'a>]) -> Result<HashSet<&'a [u8]>, Damaged> {
    let mut deciding = HashSet::default();
    let mut last = 0;
    let operators = nodes.iter().map(operator).collect::<Result<Vec<_>, _>>()?;
    for (i, (node, op)) in nodes.iter().zip(&operators).enumerate() {
        if let Some(first) = sized_by(op) {
            for name in names(node, 1)?.skip(first) {
                deciding.insert(name?);
            }
        }
        if makes(op) {
            last = i + 1;
        }
    }
    // What is still looked for as the walk goes to the first node. It ends at sizes and at constants, mostly soon.
    let mut wanted: HashSet<&[u8]> = HashSet::default();
    for (node, op) in nodes[..last].iter().zip(&operators).rev() {
        let mut follows = makes(op);
        for name in names(node, 2)? {
            follows |= wanted.remove(name?) && carries(op);
        }
        if follows {
            for name in names(node, 1)? {
                wanted.insert(name?);
            }
        }
    }
    deciding.extend(wanted);
    Ok(deciding)
}

/// Whether an operator makes something new of a computed size. The import bounds how many elements of a mask are true, but has no value
/// for anything else that is computed of data: its output would stay open.
fn makes(op: &[u8]) -> bool {
    matches!(op, b"ConstantOfShape" | b"Range")
}

/// From which of its inputs on an operator takes values for axes, sizes, counts or the like.
fn sized_by(op: &[u8]) -> Option<usize> {
    Some(match std::str::from_utf8(op).ok()? {
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
fn carries(op: &[u8]) -> bool {
    matches!(
        std::str::from_utf8(op).unwrap_or_default(),
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
