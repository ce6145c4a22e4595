//! Nodes that are left to the host.

use super::ExternNode;
use super::builder::{Builder, word};
use crate::ModelError;
use crate::graph::Node;
use crate::program::{Extern, OpKind};

/// Leaves a node to the host. What goes in and comes out is row-major, as the importer's recipe expects.
///
/// # Errors
/// [`ModelError::Node`] when there is no recipe: lowering made the node, or changed it.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node, reason: &str) -> Result<(), ModelError> {
    let fail = |what: String| ModelError::node(&node.name, &node.op_type, what);
    let Some(recipe) = node.recipe else {
        return Err(fail(format!("{reason}; and it can't be left to the host, since it was changed before")));
    };
    let mut inputs = vec![];
    for &v in node.inputs.iter().flatten() {
        if !b.net.was_constant(v) {
            let view = b.row_major(v).map_err(fail)?;
            inputs.push(b.operand(&view).map_err(fail)?);
        }
    }
    let mut outputs = vec![];
    for &v in node.outputs.iter().flatten() {
        let order: Vec<usize> = (0..b.net.dims(v).len()).collect();
        let view = b.output(v, &order, false).map_err(fail)?;
        word(view.layout.elements()).map_err(fail)?;
        outputs.push(b.operand(&view).map_err(fail)?);
    }
    b.externs.push(ExternNode { name: node.name.clone(), op: node.op_type.clone(), reason: reason.into() });
    b.push(OpKind::Extern, &Extern { index: recipe }, &[], inputs, outputs, vec![], reason);
    Ok(())
}
