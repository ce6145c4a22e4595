//! Models in bfloat16, which tract does not have: they are computed in `f32`, and converted where they meet the world.
//!
//! Large weights stay in the map as they are and are widened when they are packed; small ones, and constants within nodes,
//! are widened here. What the file says to be bfloat16 in between is `f32`, which is as exact and more.

use super::skeleton;
use crate::tensor::DType;
use tract_onnx::pb::{GraphProto, TensorProto, type_proto};

/// ONNX's numbers of the two types.
const BFLOAT16: i32 = 16;
const FLOAT: i32 = 1;

/// Which inputs and outputs are of bfloat16.
#[derive(Debug, Default)]
pub(super) struct Borders {
    pub inputs: Vec<bool>,
    pub outputs: Vec<bool>,
}

/// Widens a graph; says which of its inputs and outputs are to be converted.
pub(super) fn widen(graph: &mut GraphProto) -> Borders {
    let mut narrow = |info: &mut tract_onnx::pb::ValueInfoProto| match info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        Some(type_proto::Value::TensorType(tensor)) if tensor.elem_type == BFLOAT16 => {
            tensor.elem_type = FLOAT;
            true
        }
        _ => false,
    };
    let borders = Borders {
        inputs: graph.input.iter_mut().map(&mut narrow).collect(),
        outputs: graph.output.iter_mut().map(&mut narrow).collect(),
    };
    graph.initializer.iter_mut().for_each(tensor);
    for node in &mut graph.node {
        let cast = node.op_type != "BitCast";
        for attribute in &mut node.attribute {
            attribute.t.iter_mut().for_each(tensor);
            attribute.g.iter_mut().for_each(|g| drop(widen(g)));
            let names_a_type = matches!(&*attribute.name, "to" | "dtype" | "output_dtype");
            if cast && names_a_type && attribute.i == BFLOAT16 as i64 {
                attribute.i = FLOAT as i64;
            }
        }
    }
    borders
}

fn tensor(tensor: &mut TensorProto) {
    if tensor.data_type != BFLOAT16 {
        return;
    }
    let wide = |half: u16| ((half as u32) << 16).to_le_bytes();
    tensor.raw_data = if tensor.raw_data.is_empty() {
        tensor.int32_data.iter().flat_map(|&v| wide(v as u16)).collect()
    } else {
        tensor.raw_data.chunks_exact(2).flat_map(|b| wide(u16::from_le_bytes([b[0], b[1]]))).collect()
    };
    tensor.int32_data.clear();
    tensor.data_type = FLOAT;
}

/// The type that tract sees of a weight that stays in the map.
pub(super) fn seen(dtype: DType) -> i32 {
    if dtype == DType::BF16 { FLOAT } else { skeleton::dtype_number(dtype) }
}
