//! Streams.

use super::{Context, Entry, Op, Units};
use crate::error::Result;
use crate::kernels::copy;
use crate::program::{OpKind, Rules, Window};

/// [`Window`](OpKind::Window).
pub const fn window() -> Entry {
    Entry { kind: OpKind::Window, rules: Rules::of::<Window>(), eval: eval_window }
}

fn eval_window(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (w, _) = op.record::<Window>()?;
    if context.units(1).is_empty() {
        return Ok(Units::ONE);
    }
    let (new, state) = (context.src_bytes(op.needed_input(0)?), context.src_bytes(op.needed_input(1)?));
    let out = context.dst_bytes(op.needed_output(0)?);
    let bytes = |rows: u32| rows as usize * w.row_bytes as usize;
    let kept = bytes(w.keep - w.new);
    copy::bytes(state.from(bytes(w.new)), out, kept);
    copy::bytes(new, out.from(kept), bytes(w.new));
    Ok(Units::ONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, blank, tensor};

    #[test]
    fn a_window_keeps_the_last_rows() {
        let record = Window { new: 2, keep: 5, row_bytes: 4 };
        let inputs = vec![tensor(&[6f32, 7.0]), tensor(&[1f32, 2.0, 3.0, 4.0, 5.0])];
        let mut case = Case::new(&record, inputs, vec![blank::<f32>(5)]);
        case.shared = vec![Some(1)];
        assert_eq!(case.run(window()).unwrap()[0].to::<f32>(), [3.0, 4.0, 5.0, 6.0, 7.0]);
        let all = Window { new: 2, keep: 2, row_bytes: 4 };
        let case = Case::new(&all, vec![tensor(&[6f32, 7.0]), tensor(&[1f32, 2.0])], vec![blank::<f32>(2)]);
        assert_eq!(case.run(window()).unwrap()[0].to::<f32>(), [6.0, 7.0]);
    }
}
