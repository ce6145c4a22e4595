//! Recurrent cells: one matrix product over all steps, then the steps of each direction.
//!
//! The gates' weights are interleaved by panels of 16 units (see [`Lstm`](crate::program::Lstm)), so a step's product ends
//! with all gates of 16 units in registers. Y is written straight into its tensor by strides, with the axes of time, batch,
//! direction and unit one after another in memory: the transpose and reshape that usually follow are then views.

use super::builder::{Builder, View, word};
use super::constant::Constant;
use super::layout::Layout;
use super::pack;
use crate::graph::{Node, Op, Recurrent};
use crate::plan::draft::{self, Storage};
use crate::program::{Gemm, Gru, Lstm, OpKind, PANEL, Steps, Unary, packed_len};
use crate::tensor::DType;

/// Time, batch and the rest among the axes of X (`batch_first`: batch, time).
fn canonical(layout: &Layout, batch_first: bool) -> Layout {
    if batch_first { layout.transpose(&[1, 0, 2]) } else { layout.clone() }
}

/// For each column of interleaved gates, the row of the weights that it is; `None` for padding.
fn columns(hidden: usize, gates: usize) -> Vec<Option<usize>> {
    let panel = PANEL as usize;
    let mut all = vec![];
    for block in 0..hidden.div_ceil(panel) {
        for gate in 0..gates {
            for lane in 0..panel {
                let unit = block * panel + lane;
                all.push((unit < hidden).then_some(gate * hidden + unit));
            }
        }
    }
    all
}

struct Cell<'a> {
    r: &'a Recurrent,
    gates: usize,
    steps: usize,
    batch: usize,
}

/// Writes the ops of an LSTM or GRU.
pub(super) fn emit(b: &mut Builder<'_>, node: &Node) -> Result<(), String> {
    let net = b.net;
    let (r, gates) = match &node.op {
        Op::Lstm(r) => (r, 4),
        Op::Gru(r) => (r, 3),
        _ => return Err("this recurrent cell has no native form yet".into()),
    };
    let input = |slot: usize| node.inputs.get(slot).copied().flatten();
    let output = |slot: usize| node.outputs.get(slot).copied().flatten().filter(|&v| net.is_wanted(v));
    let weight = |slot: usize, what: &str| match input(slot) {
        Some(v) => net.constant(v).map(|c| Some((v, c.clone()))).ok_or(format!("its {what} are computed at run time")),
        None => Ok(None),
    };
    let x = input(0).ok_or("no input")?;
    if net.dtype(x) != DType::F32 {
        return Err(format!("a recurrent cell of {} has no native form", net.dtype(x)));
    }
    let x_view = b.view(x)?;
    let x_layout = canonical(&x_view.layout, r.batch_first);
    let (steps, batch, features) = (x_layout.dims[0], x_layout.dims[1], x_layout.dims[2]);
    if let Some(lengths) = input(4) {
        let full = net.constant(lengths).is_some_and(|c| c.i64s().iter().all(|&n| n == steps as i64));
        if !full {
            return Err("sequence lengths that are not constant have no native form".into());
        }
    }
    let (w_id, w) = weight(1, "weights")?.ok_or("no weights")?;
    let (r_id, recurrence) = weight(2, "recurrent weights")?.ok_or("no recurrent weights")?;
    let bias = weight(3, "biases")?.map(|(_, c)| c.f32s());
    let peepholes = weight(7, "peepholes")?.map(|(_, c)| c.f32s());
    let directions = r.directions.len();
    let hidden = r.hidden;
    let cell = Cell { r, gates, steps, batch };
    let columns = columns(hidden, gates);

    // Y is [T, D, B, H] or, batch first, [B, T, D, H].
    let y = match output(0) {
        Some(v) => {
            let order = if r.batch_first { [0, 1, 2, 3] } else { [0, 2, 1, 3] };
            let view = b.output(v, &order, false)?;
            let layout = view.layout.transpose(if r.batch_first { &[1, 2, 0, 3] } else { &[0, 1, 2, 3] });
            Some(view.with_layout(layout))
        }
        None => None,
    };
    // States are [D, B, H] or [B, D, H]; in memory always by direction.
    let order = if r.batch_first { [1, 0, 2] } else { [0, 1, 2] };
    let slots = if gates == 4 { &[5, 6][..] } else { &[5][..] };
    let mut initial = vec![];
    let mut last = vec![];
    for (i, &slot) in slots.iter().enumerate() {
        if net.streamed && steps == 1 {
            // What one run leaves, the next one starts from.
            let name = format!("{} {}", node.name, ["h", "c"][i]);
            let kept = b.buffer(&name, DType::F32, &[directions, batch, hidden], &[0, 1, 2])?;
            b.draft.values[kept.root.0 as usize].storage = Storage::State;
            if let Some(v) = output(i + 1) {
                let layout = if r.batch_first { kept.layout.transpose(&[1, 0, 2]) } else { kept.layout.clone() };
                b.bind(v, kept.with_layout(layout));
            }
            initial.push(Some(kept.clone()));
            last.push(Some(kept));
            continue;
        }
        initial.push(match input(slot) {
            Some(v) if net.constant(v).is_some_and(|c| c.uniform().is_some_and(|u| u.to_bits() == 0)) => None,
            Some(v) => Some(by_direction(b.ordered(v, &order)?, r.batch_first)),
            None => None,
        });
        last.push(match output(i + 1) {
            Some(v) => Some(by_direction(b.output(v, &order, false)?, r.batch_first)),
            None => None,
        });
    }

    for d in 0..directions {
        let name = net.name(w_id).to_string();
        let wide = columns.len();
        // Rows of pre-activations in the order in which X lies.
        let time_first = x_layout.strides[0] >= x_layout.strides[1] || batch == 1;
        let pre = b.buffer(&name, DType::F32, &[steps, batch, wide], if time_first { &[0, 1, 2] } else { &[1, 0, 2] })?;
        let packed = pack(b, &w, &format!("{} {gates} input {d}", w_id.0), &name, d, &columns)?;
        let sums = bias.as_ref().map(|bias| column_biases(bias, d, hidden, gates, r, &columns));
        let sums = match sums {
            Some(sums) => Some(b.weight_f32(&format!("{name} bias"), sums)?),
            None => None,
        };
        let mut gemm = Gemm::dense(word(steps * batch)?, word(wide)?, word(features)?);
        let mut rows = [(steps, x_layout.strides[0], pre.layout.strides[0]), (batch, x_layout.strides[1], pre.layout.strides[1])];
        if !time_first {
            rows.swap(0, 1);
        }
        gemm.a_col = word(if features == 1 { 1 } else { x_layout.strides[2] })?;
        match super::layout::merge(&rows.map(|(n, a, _)| (n, a))) {
            Some((_, stride)) => gemm.a_row = word(stride)?,
            None => {
                let [(outer, a, c), (inner, a_row, c_row)] = rows;
                gemm.m = word(inner)?;
                (gemm.a_row, gemm.c_row) = (word(a_row)?, word(c_row)?);
                (gemm.batch[2], gemm.a_batch[2], gemm.c_batch[2]) = (word(outer)?, word(a)?, word(c)?);
            }
        }
        gemm.epilogue.bias = sums.is_some() as u32;
        let operands = vec![b.operand(&x_view)?, Some(packed), sums, None];
        let target = vec![b.operand(&pre)?];
        b.push(OpKind::Gemm, &gemm, &[], operands, target, vec![], "all steps' products with the input, at once");

        let recurrent = pack(b, &recurrence, &format!("{} {gates} recurrent {d}", r_id.0), net.name(r_id), d, &columns)?;
        let mut operands = vec![b.operand(&pre)?, Some(recurrent)];
        for state in &initial {
            operands.push(match state {
                Some(view) => b.operand(&view.with_layout(view.layout.slice(0, d, 1, 1)))?,
                None => None,
            });
        }
        if gates == 4 {
            operands.push(match &peepholes {
                Some(p) => Some(b.weight_f32(&format!("{name} peepholes"), p[3 * hidden * d..3 * hidden * (d + 1)].to_vec())?),
                None => None,
            });
        } else {
            let sum = bias.as_ref().filter(|_| r.linear_before_reset).map(|bias| {
                let start = (d * 2 * gates + gates + 2) * hidden;
                bias[start..start + hidden].to_vec()
            });
            operands.push(match sum {
                Some(sum) => Some(b.weight_f32(&format!("{name} recurrent bias"), sum)?),
                None => None,
            });
        }
        let (y_operand, y_step, y_batch) = match &y {
            Some(view) => {
                let part = view.with_layout(view.layout.slice(1, d, 1, 1));
                (b.operand(&part)?, view.layout.strides[0], view.layout.strides[2])
            }
            None => (None, 0, 0),
        };
        let mut results = vec![y_operand];
        for state in &last {
            results.push(match state {
                Some(view) => b.operand(&view.with_layout(view.layout.slice(0, d, 1, 1)))?,
                None => {
                    let own = b.buffer(&format!("{} state", node.name), DType::F32, &[batch, hidden], &[0, 1])?;
                    b.operand(&own)?
                }
            });
        }
        cell.push(b, d, &pre, [y_step, y_batch], operands, results)?;
    }
    Ok(())
}

/// `[B, D, H]` as `[D, B, H]`.
fn by_direction(view: View, batch_first: bool) -> View {
    let layout = canonical(&view.layout, batch_first);
    view.with_layout(layout)
}

impl Cell<'_> {
    fn push(
        &self,
        b: &mut Builder<'_>,
        d: usize,
        pre: &View,
        y: [usize; 2],
        operands: Vec<Option<draft::ValueId>>,
        results: Vec<Option<draft::ValueId>>,
    ) -> Result<(), String> {
        let r = self.r;
        let activation = |i: usize| {
            let given = r.activations.get(d * (self.gates - 1) + i).copied();
            given.unwrap_or((if i == 0 { Unary::Sigmoid } else { Unary::Tanh }, [0.0; 2]))
        };
        let (steps, batch, hidden) = (word(self.steps)?, word(self.batch)?, word(r.hidden)?);
        let reverse = r.directions[d] as u32;
        let (pre_step, pre_batch) = (word(pre.layout.strides[0])?, word(pre.layout.strides[1])?);
        let (y_step, y_batch) = (word(y[0])?, word(y[1])?);
        let clip = r.clip.unwrap_or(0.0);
        let at = Steps { steps, batch, hidden, reverse, pre_step, pre_batch, y_step, y_batch, clip };
        let why = if reverse == 1 { "steps from the last to the first" } else { "steps from the first to the last" };
        if self.gates == 4 {
            let f = [activation(0), activation(1), activation(2)];
            let (coupled, activations, p) = (r.coupled as u32, f.map(|f| f.0 as u32), f.map(|f| f.1));
            let record = Lstm { at, coupled, activations, p };
            b.push(OpKind::Lstm, &record, &[], operands, results, vec![], why);
        } else {
            let f = [activation(0), activation(1)];
            let (activations, p) = (f.map(|f| f.0 as u32), f.map(|f| f.1));
            let record = Gru { at, linear_before_reset: r.linear_before_reset as u32, activations, p };
            b.push(OpKind::Gru, &record, &[], operands, results, vec![], why);
        }
        Ok(())
    }
}

/// The biases of the pre-activations: of the input and, except where it belongs inside the reset gate, of the recurrence.
fn column_biases(bias: &[f32], d: usize, hidden: usize, gates: usize, r: &Recurrent, columns: &[Option<usize>]) -> Vec<f32> {
    let start = d * 2 * gates * hidden;
    let one = |c: &Option<usize>| match *c {
        Some(row) => {
            let inside = gates == 3 && r.linear_before_reset && row >= 2 * hidden;
            bias[start + row] + if inside { 0.0 } else { bias[start + gates * hidden + row] }
        }
        None => 0.0,
    };
    columns.iter().map(one).collect()
}

/// Packs `[D, gates * hidden, depth]` of one direction into panels of interleaved gates.
fn pack(
    b: &mut Builder<'_>,
    constant: &Constant,
    key: &str,
    name: &str,
    d: usize,
    columns: &[Option<usize>],
) -> Result<draft::ValueId, String> {
    let l = &constant.layout;
    let rows: Vec<usize> = (0..l.dims[2]).map(|k| k * l.strides[2]).collect();
    let columns: Vec<Option<usize>> = columns.iter().map(|c| c.map(|row| row * l.strides[1])).collect();
    let start = l.offset + d * l.strides[0];
    let n = packed_len(rows.len() as u64, columns.len() as u64);
    let constant = constant.clone();
    Ok(b.weight(key, name, DType::F32, vec![word(n as usize)?], 4 * n, move |to| {
        constant.elements(start, |from| pack::panels(to, &rows, &columns, from, None));
        Ok(())
    }))
}
