//! Matrix products: batches, and operands that are packed when the op runs.

use super::{Context, Entry, Op, Units};
use crate::error::{Error, Kind, Result};
use crate::kernels::epilogue::Epilogue;
use crate::kernels::gemm::{Product, Right, tile_of};
use crate::kernels::pack::{self, Strided};
use crate::kernels::slabs;
use crate::kernels::{Backend, Dst, HOST, Src, clamp};
use crate::program::gemm::Row;
use crate::program::{Cut, Gemm, OpKind, Rules, packed_len};
use core::ops::Range;

/// [`Gemm`](OpKind::Gemm).
pub const fn entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Gemm, rules: Rules::of::<Gemm>(), eval: eval::<B> }
}

/// [`Gemm`](OpKind::Gemm) for images whose products are all of one row and packed weights ([`Gemm::is_row`]), as a network's last
/// layers are: an image with another is refused. It takes a third of the code.
pub const fn row_entry<B: Backend>() -> Entry {
    Entry { kind: OpKind::Gemm, rules: Rules::of::<Row>(), eval: eval_row::<B> }
}

fn eval_row<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (&Row(Gemm { n, k, alpha, ref epilogue, .. }), _) = op.record()?;
    let made = epilogue_of::<B>(context, op, epilogue, alpha);
    let epilogue = made.as_ref().map_err(|&e| e)?; // in place: no second one on the stack
    let (a, b, c) = (context.input(op, 0), context.input(op, 1), context.output(op, 0));
    let (n, k) = (n as usize, k as usize);
    let product = Product { m: 1, n, k, a, a_row: k, b: Right::Packed(b), c, c_row: n, epilogue };
    let cut = product.cut::<B>();
    product.units::<B>(&cut, context.units(cut.units()));
    Ok(Units::any(cut.units()))
}

fn eval<B: Backend>(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (record, _) = op.record::<Gemm>()?;
    let epilogue = epilogue_of::<B>(context, op, &record.epilogue, record.alpha)?;
    let (a, b, c) = (context.input(op, 0), context.input(op, 1), context.output(op, 0));
    if HOST && record.b_packed == 2 {
        let row = slabs::Row { n: record.n as usize, k: record.k as usize, a, b, c, epilogue: &epilogue };
        row.units::<B>(context.units(row.count()));
        return Ok(Units::any(row.count()));
    }
    Ok(Units::any(gemm::<B>(record, a, b, c, epilogue, context.scratch(), context.range(), context.resumes())))
}

/// An op's epilogue, with its operands: input 2 is the bias, input 3 the residual.
pub(super) fn epilogue_of<'m, B: Backend>(
    context: &Context<'m>,
    op: &Op<'_>,
    record: &crate::program::Epilogue,
    alpha: f32,
) -> Result<Epilogue<'m>> {
    let bias = if record.bias == 1 { Some(context.input(op, 2)) } else { None };
    let residual = if record.residual != 0 { Some(context.input(op, 3)) } else { None };
    let epilogue = Epilogue::of(record, alpha, bias, residual);
    if B::CLAMPS && !epilogue.in_registers() {
        return Err(Error::new(Kind::MissingOp, "the op set has no activations but clamps, and this op has another"));
    }
    Ok(epilogue)
}

/// An unpacked B whose rows are contiguous is used in place where packing would not pay: for few rows, or up to this depth.
const IN_PLACE: usize = 256;

/// Where A, B and C of a product of the batch start.
#[inline(never)] // called twice, and firmware is to be small
fn place(g: &Gemm, batch: [usize; 3], product: usize) -> [usize; 3] {
    let at = [product / batch[2] / batch[1], product / batch[2] % batch[1], product % batch[2]];
    [g.a_batch, g.b_batch, g.c_batch].map(|strides| (0..3).map(|i| strides[i] as usize * at[i]).sum())
}

/// These of the units of all products of a record; gives how many there are. Units are those of each product, one product
/// after another. `resumes`: scratch memory is as the unit before them left it.
pub(crate) fn gemm<B: Backend>(
    g: &Gemm,
    a: Src<'_, f32>,
    b: Src<'_, f32>,
    c: Dst<'_, f32>,
    epilogue: Epilogue<'_>,
    scratch: Dst<'_, f32>,
    units: Range<usize>,
    resumes: bool,
) -> usize {
    let (n, k) = (g.n as usize, g.k as usize);
    let (m, batch) = g.merged();
    let cut = Cut::of(m, n, k, tile_of::<B>());
    let each = cut.units();
    let count = batch.iter().product::<usize>() * each;
    let units = clamp(units, count);
    if units.is_empty() {
        return count;
    }
    let place = |product| place(g, batch, product);
    let in_place = g.b_packed == 0 && g.b_col == 1 && (m <= 16 || k <= IN_PLACE);
    let packed_b = if g.b_packed == 0 { (packed_len(k as u64, n as u64) as usize).next_multiple_of(16) } else { 0 };
    // Which operands lie packed in scratch memory.
    let before = if resumes { Some(place((units.start - 1) / each)) } else { None };
    let (mut copied, mut packed) = (before.map(|at| at[0]), before.map(|at| at[1]));
    for product in units.start / each..units.end.div_ceil(each) {
        let first = product * each;
        let units = units.start.max(first) - first..units.end.min(first + each) - first;
        let [a_at, b_at, c_at] = place(product);
        let (mut a_part, mut a_row, mut b_part) = (a, g.a_row as usize, b);
        if k > 0 {
            (a_part, b_part) = (a.from(a_at), b.from(b_at));
        }
        let right = if g.b_packed == 1 {
            Right::Packed(b_part)
        } else if in_place {
            Right::InPlace(b_part, g.b_row as usize)
        } else {
            if packed != Some(b_at) {
                let from = Strided { data: b_part, row: g.b_row as usize, column: g.b_col as usize };
                pack::panels::<B>(from, k, n, scratch);
                packed = Some(b_at);
            }
            Right::Packed(scratch.src())
        };
        if g.a_col != 1 && k > 0 {
            let to = scratch.from(packed_b);
            if copied != Some(a_at) {
                let from = Strided { data: a_part, row: a_row, column: g.a_col as usize };
                pack::rows::<B>(from, m, k, to);
                copied = Some(a_at);
            }
            (a_part, a_row) = (to.src(), k);
        }
        let epilogue = Epilogue { residual: epilogue.residual.map(|r| r.from(c_at)), ..epilogue };
        let (c, c_row) = (c.from(c_at), g.c_row as usize);
        Product { m, n, k, a: a_part, a_row, b: right, c, c_row, epilogue: &epilogue }.units::<B>(&cut, units);
    }
    count
}
