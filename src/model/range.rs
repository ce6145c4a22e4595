//! Symbols that may stand for a range of sizes: what inputs settle, and the points for which programs are compiled.

use super::{Dim, Given, Port, Sizes};
use crate::ModelError;
use std::collections::BTreeMap;

/// The most programs that ranges may ask for.
const MOST_PROGRAMS: usize = 4096;

/// One size for each symbol that is known.
pub(super) type Point = BTreeMap<String, i64>;

/// The symbols' sizes, those of `options` and of inputs that are given, and the ranges that are still open then.
///
/// # Errors
/// [`ModelError::Call`] for an input whose size is not in its symbol's range.
pub(super) fn settle(
    symbols: &BTreeMap<String, Sizes>,
    inputs: &[Port],
    given: &[Given],
) -> Result<(Point, Vec<(String, Sizes)>), ModelError> {
    let (mut point, mut open) = (Point::new(), Vec::new());
    for (symbol, &sizes) in symbols {
        if let Some(size) = sizes.one() {
            point.insert(symbol.clone(), size as i64);
            continue;
        }
        let places = given.iter().filter_map(|g| Some((g, inputs.iter().find(|p| p.name == g.name)?.dims.as_ref()?)));
        let places = places.flat_map(|(g, dims)| dims.iter().zip(&g.dims).enumerate().map(move |place| (g, place)));
        let mut found = places.filter(|(_, (_, (dim, _)))| matches!(dim, Dim::Symbol(name) if name == symbol));
        // Where it has another size in another place, the import says so.
        match found.next() {
            Some((input, (axis, (_, &size)))) => {
                if !sizes.contains(size) {
                    return Err(ModelError::Call(format!(
                        "axis {axis} of the input \"{}\" is {size}, but its name, {symbol}, stands for {sizes}",
                        input.name
                    )));
                }
                point.insert(symbol.clone(), size as i64);
            }
            None => open.push((symbol.clone(), sizes)),
        }
    }
    Ok((point, open))
}

/// All points of open ranges, each with what is settled; the largest sizes first. The last symbol changes fastest.
///
/// # Errors
/// [`ModelError::Call`] for more than [`MOST_PROGRAMS`].
pub(super) fn points(settled: &Point, open: &[(String, Sizes)]) -> Result<Vec<Point>, ModelError> {
    let count = open.iter().try_fold(1usize, |n, (_, sizes)| n.checked_mul(sizes.count()));
    if count.is_none_or(|n| n > MOST_PROGRAMS) {
        let ranges: Vec<String> = open.iter().map(|(symbol, sizes)| format!("{symbol}={sizes}")).collect();
        return Err(ModelError::Call(format!(
            "{} ask for a program of each size, more than {MOST_PROGRAMS} in all: take larger steps ({}=FROM..TO:STEP)",
            ranges.join(" and "),
            open[0].0
        )));
    }
    let mut points = vec![settled.clone()];
    for (symbol, sizes) in open {
        let with = |point: Point| {
            sizes.descending().map(move |size| {
                let mut point = point.clone();
                point.insert(symbol.clone(), size as i64);
                point
            })
        };
        points = points.into_iter().flat_map(with).collect();
    }
    Ok(points)
}

/// The name of a program for a point: `seq=37`, `batch=2,seq=37`.
pub(super) fn name(point: &Point, open: &[(String, Sizes)]) -> String {
    let sizes: Vec<String> = open.iter().filter_map(|(symbol, _)| Some(format!("{symbol}={}", point.get(symbol)?))).collect();
    sizes.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn sizes(text: &str) -> Sizes {
        text.parse().unwrap()
    }

    #[test]
    fn inputs_settle_ranges() {
        let symbols = BTreeMap::from([("batch".into(), sizes("2")), ("seq".into(), sizes("1..8"))]);
        let dims = Some(vec![Dim::Symbol("batch".into()), Dim::Symbol("seq".into())]);
        let inputs = [Port { name: "x".into(), dtype: Some(DType::F32), dims }];
        let given = |seq| Given { name: "x".into(), dtype: DType::F32, dims: vec![2, seq], bytes: None };
        let (point, open) = settle(&symbols, &inputs, &[]).unwrap();
        assert_eq!((point, open), (Point::from([("batch".into(), 2)]), vec![("seq".into(), sizes("1..8"))]));
        let (point, open) = settle(&symbols, &inputs, &[given(5)]).unwrap();
        assert!(open.is_empty() && point["seq"] == 5);
        let error = settle(&symbols, &inputs, &[given(9)]).unwrap_err().to_string();
        assert_eq!(error, "axis 1 of the input \"x\" is 9, but its name, seq, stands for 1..8");
    }

    #[test]
    fn points_go_from_the_largest_down() {
        let open = [("b".to_string(), sizes("1..2")), ("s".to_string(), sizes("16..32:16"))];
        let all = points(&Point::from([("fixed".into(), 7)]), &open).unwrap();
        let names: Vec<String> = all.iter().map(|point| name(point, &open)).collect();
        assert_eq!(names, ["b=2,s=32", "b=2,s=16", "b=1,s=32", "b=1,s=16"]);
        assert!(all.iter().all(|point| point["fixed"] == 7));
        let many = [("b".to_string(), sizes("1..100")), ("s".to_string(), sizes("1..100"))];
        assert!(points(&Point::new(), &many).unwrap_err().to_string().starts_with("b=1..100 and s=1..100 ask for"));
    }
}
