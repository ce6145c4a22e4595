//! The programs of an image: one network, perhaps at several sizes.

use super::{Compiled, Dim, Given, Port};
use crate::exec::owned::OwnedImage;
use crate::image::{Image, Program, Tensor};
use crate::{ModelError, plan};
use std::sync::Arc;

/// Inputs or outputs of an image: those of its programs, which differ in sizes alone where it was made for a range, else those of
/// the first.
pub(super) fn ports(image: &Image<'_>, outputs: bool) -> Vec<Port> {
    fn of<'a>(p: Program<'a>, outputs: bool, i: usize) -> Option<Tensor<'a>> {
        if outputs { p.outputs().nth(i) } else { p.inputs().nth(i) }
    }
    let main = image.main();
    let count = if outputs { main.outputs().len() } else { main.inputs().len() };
    let port = |(i, t): (usize, Tensor<'_>)| {
        let same =
            |other: &Tensor<'_>| (other.name(), other.dtype(), other.dims().len()) == (t.name(), t.dtype(), t.dims().len());
        let all = || image.programs().filter_map(|p| Some((p.name(), of(p, outputs, i).filter(same)?)));
        let alike = all().count() == image.programs().len();
        let size = |axis: usize| match alike {
            true => axis_of(all().map(move |(name, t)| (name, t.dims()[axis])).collect::<Vec<_>>().into_iter()),
            false => Dim::Fixed(t.dims()[axis] as usize),
        };
        // No file says how long such an axis is, either.
        let dim = |axis: usize| match size(axis) {
            most if t.is_bounded(axis) => Dim::Symbol(format!("<={most}")),
            size => size,
        };
        Port { name: t.name().into(), dtype: Some(t.dtype()), dims: Some((0..t.dims().len()).map(dim).collect()) }
    };
    (0..count).filter_map(|i| of(main, outputs, i)).enumerate().map(port).collect()
}

/// An image, with the first of its programs that takes these inputs.
pub(super) fn compiled(image: &Arc<OwnedImage>, given: &[Given]) -> Result<Compiled, ModelError> {
    let view = image.image();
    let inputs: Vec<(&str, &[usize])> = given.iter().map(|g| (&*g.name, &*g.dims)).collect();
    let Some(program) = view.programs().position(|p| p.takes(&inputs)) else {
        let shapes: Vec<String> = given.iter().map(|g| format!("\"{}\" of {:?}", g.name, g.dims)).collect();
        let (first, last) = (view.main().name(), view.programs().last().map_or("", |p| p.name()));
        return Err(ModelError::Call(format!(
            "the image has no program for the inputs {}; its {} programs go from \"{first}\" to \"{last}\"",
            shapes.join(", "),
            view.programs().len()
        )));
    };
    // Of the others there is nothing to tell, and it would take time.
    let report = if given.is_empty() { plan::report_of(&view) } else { plan::report_of_program(&view, program) };
    Ok(Compiled { image: image.clone(), report, how: Vec::new(), externs: Vec::new(), fixed: Vec::new(), program })
}

/// The sizes of an axis in several programs, each with its name: one number, or the symbol that the names say it follows.
fn axis_of<'a>(programs: impl Iterator<Item = (&'a str, u32)> + Clone) -> Dim {
    let Some((first, size)) = programs.clone().next() else { return Dim::Symbol("?".into()) };
    if programs.clone().all(|(_, other)| other == size) {
        return Dim::Fixed(size as usize);
    }
    let of = |name: &'a str, symbol: &str| {
        let values = name.split(',').filter_map(|part| part.rsplit_once('='));
        values.into_iter().find(|(s, _)| *s == symbol).and_then(|(_, n)| n.parse::<u32>().ok())
    };
    let symbols = first.split(',').filter_map(|part| part.rsplit_once('=')).map(|(symbol, _)| symbol);
    let follows = |symbol: &&str| programs.clone().all(|(name, size)| of(name, symbol) == Some(size));
    Dim::Symbol(symbols.into_iter().find(follows).unwrap_or("?").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_programs_say_what_an_axis_follows() {
        let of = |sizes: [u32; 3]| axis_of(["b=2,s=3", "b=2,s=2", "b=2,s=1"].into_iter().zip(sizes));
        assert_eq!(of([2, 2, 2]), Dim::Fixed(2));
        assert_eq!(of([3, 2, 1]), Dim::Symbol("s".into()));
        assert_eq!(of([6, 4, 2]), Dim::Symbol("?".into()));
    }
}
