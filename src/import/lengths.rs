//! Sizes that depend on data: how many elements of a mask are true, how many boxes are kept.
//!
//! An operator that finds out such a size makes a symbol of tract's for it, and tract computes with that, as it does with any
//! size that is open: `n`, `n + 4`, `min(n, 100)`. The symbol's name ends with the most that it can be. A value is then
//! planned and computed for the most of all its sizes, and what an axis really has is its [`Lengths`]; which ops may see such
//! a value, and how, is said in [`ragged`](super::ragged).

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// Axes, ascending, whose sizes depend on data, and those sizes. Empty where all are settled.
pub(super) type Lengths = Vec<(usize, TDim)>;

/// Before the most that a symbol can be, in its name.
const MOST: &str = "_of_";

/// A symbol for a size of at most `most` elements, the same for the same `base` and `number`.
///
/// An axis is never planned for less than two elements: among shapes, one that may have one or none must not be taken for
/// one that is broadcast.
pub(super) fn symbol(base: &Symbol, number: usize, most: usize) -> TractResult<TDim> {
    let scope = base.scope().context("the scope of symbols is gone")?;
    let name = format!("{base}_{number}{MOST}{}", most.max(2));
    if scope.get(&name).is_none() {
        scope.sym(&name);
        scope.add_assertion(format!("{name} >= 0"))?;
    }
    Ok(scope.sym(&name).into())
}

/// The least and the most that a size can be.
fn range(dim: &TDim) -> TractResult<(i64, i64)> {
    let all = |dims: &[TDim]| dims.iter().map(range).collect::<TractResult<Vec<_>>>();
    let fold = |dims: &[TDim], f: fn(i64, i64) -> i64| {
        let all = all(dims)?;
        let side = |of: fn(&(i64, i64)) -> i64| all.iter().map(of).reduce(f).context("an empty expression");
        TractResult::Ok((side(|r| r.0)?, side(|r| r.1)?))
    };
    let unbounded = || format!("nothing bounds {dim}");
    Ok(match dim {
        TDim::Val(v) => (*v, *v),
        TDim::Sym(symbol) => {
            let name = symbol.to_string();
            let most = name.rsplit_once(MOST).and_then(|(_, most)| most.parse().ok());
            (0, most.with_context(unbounded)?)
        }
        TDim::Add(terms) => fold(terms, |a, b| a.saturating_add(b))?,
        TDim::Mul(terms) => {
            let all = all(terms)?;
            ensure!(all.iter().all(|r| r.0 >= 0), unbounded());
            all.iter().fold((1i64, 1i64), |p, r| (p.0.saturating_mul(r.0), p.1.saturating_mul(r.1)))
        }
        TDim::MulInt(k, of) => {
            let (low, high) = range(of)?;
            let (a, b) = (low.saturating_mul(*k), high.saturating_mul(*k));
            (a.min(b), a.max(b))
        }
        TDim::Div(of, by) => {
            let by = i64::try_from(*by).ok().filter(|&by| by > 0).with_context(unbounded)?;
            let (low, high) = range(of)?;
            (low / by, high / by)
        }
        TDim::Broadcast(dims) | TDim::Max(dims) => fold(dims, i64::max)?,
        TDim::Min(dims) => fold(dims, i64::min)?,
        TDim::Ge(..) | TDim::Eq(..) => (0, 1),
    })
}

/// Whether a bound counts from the end: it is below zero.
///
/// # Errors
/// When that depends on data.
pub(super) fn negative(bound: &TDim) -> TractResult<bool> {
    let (low, high) = range(bound)?;
    ensure!(low >= 0 || high < 0, "whether {bound} is below zero depends on data");
    Ok(high < 0)
}

/// What a size is planned for.
///
/// # Errors
/// When nothing bounds it.
pub(super) fn planned(dim: &TDim) -> TractResult<usize> {
    if let Some(size) = dim.as_i64() {
        return usize::try_from(size).with_context(|| format!("a size of {size}"));
    }
    let (_, most) = range(dim)?;
    Ok(usize::try_from(most).unwrap_or(0).max(2))
}

/// Sizes that a shape is planned for, and those of them that depend on data.
///
/// # Errors
/// When nothing bounds one of them.
pub(super) fn of(shape: &ShapeFact) -> TractResult<(Vec<usize>, Lengths)> {
    if let Some(dims) = shape.as_concrete() {
        return Ok((dims.to_vec(), vec![]));
    }
    let dims = shape.iter().map(planned).collect::<TractResult<_>>()?;
    let open = shape.iter().enumerate().filter(|(_, d)| d.as_i64().is_none());
    Ok((dims, open.map(|(axis, d)| (axis, d.clone())).collect()))
}

/// The shape of these sizes.
pub(super) fn shape(dims: &[usize], lengths: &Lengths) -> ShapeFact {
    let mut shape: TVec<TDim> = dims.iter().map(|&d| d.into()).collect();
    for (axis, length) in lengths {
        shape[*axis] = length.clone();
    }
    ShapeFact::from_dims(shape)
}

/// The length of an axis, if it depends on data.
pub(super) fn along(lengths: &Lengths, axis: usize) -> Option<&TDim> {
    lengths.iter().find(|(a, _)| *a == axis).map(|(_, length)| length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_planned_for_the_most_that_it_can_be() -> TractResult<()> {
        let scope = SymbolScope::default();
        let base = scope.sym("n");
        let (n, m) = (symbol(&base, 0, 35)?, symbol(&base, 1, 7)?);
        assert_eq!(n, symbol(&base, 0, 35)?);
        let min = |a: &TDim, b: i64| TDim::Min(vec![a.clone(), b.into()]).simplify();
        let last_three = n.clone() - TDim::Max(vec![0.into(), n.clone() - 3]).simplify();
        let all: [(TDim, usize); 10] = [
            (5.into(), 5),
            (n.clone(), 35),
            (n.clone() + 4, 39),
            (n.clone() + &m, 42),
            (n.clone() * &m, 245),
            (n.clone() * 4, 140),
            ((n.clone() + 1) / 2, 18),
            (min(&n, 100), 35),
            (min(&n, 10), 10),
            (last_three, 35),
        ];
        for (size, most) in all {
            assert_eq!(planned(&size)?, most, "{size}");
        }
        // One element might be none: that is no axis to broadcast.
        assert_eq!(planned(&symbol(&base, 2, 1)?)?, 2);
        let unbounded = planned(&scope.sym("k").into()).expect_err("nothing says how large k is");
        assert!(unbounded.to_string().contains("nothing bounds k"), "{unbounded}");
        Ok(())
    }

    #[test]
    fn bounds_count_from_the_end_or_they_do_not() -> TractResult<()> {
        let scope = SymbolScope::default();
        let n = symbol(&scope.sym("n"), 0, 35)?;
        assert!(!negative(&n)? && !negative(&0.into())? && negative(&(-3).into())? && negative(&(n.clone() - 36))?);
        assert!(negative(&(n - 3)).is_err());
        Ok(())
    }
}
