//! `kiln compare`: a model's answers against those that are expected.

use super::array::{Array, shape};
use super::engine::Engine;
use super::{Failure, IsaArgs, ModelArgs, Result, feed, npz};
use crate::tensor::DType;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Compare a model's answers with expected ones: exit code 0 when all agree, 1 when one differs
#[derive(Args)]
#[command(
    after_help = "An element agrees when |got - want| <= atol + rtol * |want| + mtol * max|want|, the maximum being that of the\n\
    whole output; NaN agrees with NaN.\n\n\
    Examples:\n  \
    kiln compare model.onnx --inputs in.npz --expected out.npz\n  \
    kiln compare model.kiln --inputs in.npz --expected out.npz --rtol 0 --mtol 1e-4 --isa scalar"
)]
pub struct CompareArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    isa: IsaArgs,
    /// Inputs: arrays by tensor name
    #[arg(long, value_name = "FILE.npz")]
    inputs: PathBuf,
    /// Expected outputs: arrays by tensor name
    #[arg(long, value_name = "FILE.npz")]
    expected: PathBuf,
    /// Allowed error, as a share of the expected element
    #[arg(long, default_value_t = 1e-3, value_parser = tolerance, allow_negative_numbers = true)]
    rtol: f64,
    /// Allowed error
    #[arg(long, default_value_t = 1e-6, value_parser = tolerance, allow_negative_numbers = true)]
    atol: f64,
    /// Allowed error, as a share of the output's largest magnitude
    #[arg(long, default_value_t = 1e-4, value_parser = tolerance, allow_negative_numbers = true)]
    mtol: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 => Ok(x),
        _ => Err("it must be a number, 0 or more".into()),
    }
}

/// Runs the command.
pub fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<u8> {
    let inputs = npz::read_npz(&args.inputs)?;
    let expected = npz::read_npz(&args.expected)?;
    if expected.is_empty() {
        return Err(Failure::new(format!("{}: it holds no arrays", args.expected.display())));
    }
    let engine = Engine::open(&args.model, args.isa.isa)?;
    let outputs = engine.outputs();
    if let Some((name, _)) = expected.iter().find(|(name, _)| !outputs.iter().any(|o| o.name == *name)) {
        let names = feed::names(outputs);
        return Err(Failure::new(format!(
            "{}: \"{name}\" is no output of the model; its outputs are {names}",
            args.expected.display()
        )));
    }
    let mut session = engine.session(&inputs)?;
    session.load(&inputs)?;
    session.run()?;
    let (mut all_agree, mut reports) = (true, Vec::new());
    for (name, want) in &expected {
        let got = session.output(name)?;
        let verdict = Verdict::of(&got, want, args.rtol, args.atol, args.mtol);
        all_agree &= verdict.agrees();
        if args.json {
            reports.push(verdict.json(name));
        } else {
            writeln!(out, "{}", verdict.line(name, want))?;
        }
    }
    if args.json {
        writeln!(out, "{}", json!({ "agree": all_agree, "outputs": reports, "extern_nodes": session.externs() }))?;
    }
    Ok(if all_agree { 0 } else { 1 })
}

/// How one output compares.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It has another element type or shape; no elements were compared.
    Other(String),
    /// Its elements were compared.
    Elements {
        /// Number of elements beyond the tolerance.
        differ: usize,
        /// Number of elements.
        of: usize,
        /// Largest absolute error and where.
        absolute: Option<(f64, Vec<usize>)>,
        /// Largest relative error and where.
        relative: Option<(f64, Vec<usize>)>,
    },
}

impl Verdict {
    fn of(got: &Array, want: &Array, rtol: f64, atol: f64, mtol: f64) -> Verdict {
        if got.dtype != want.dtype || got.dims != want.dims {
            return Verdict::Other(format!("it is {got:?}, expected is {want:?}"));
        }
        // An infinite element agrees only with itself, so it must not widen the tolerance of the others.
        let largest = want.values().map(f64::abs).filter(|x| x.is_finite()).fold(0.0, f64::max);
        let (mut differ, mut absolute, mut relative) = (0, None::<(f64, usize)>, None::<(f64, usize)>);
        for i in 0..want.len() {
            let (g, w) = (got.value(i), want.value(i));
            // Equal bytes first: 64-bit integers have more digits than `f64`.
            if got.element(i) == want.element(i) || g == w && !wide(got.dtype) || g.is_nan() && w.is_nan() {
                continue;
            }
            let error = match (g - w).abs() {
                e if e.is_finite() => e.max(if wide(got.dtype) { 1.0 } else { 0.0 }),
                _ => f64::INFINITY,
            };
            let share = error / w.abs(); // of 0: infinite
            let larger = |old: Option<(f64, usize)>, new| if old.is_none_or(|(x, _)| new > x) { Some((new, i)) } else { old };
            absolute = larger(absolute, error);
            relative = larger(relative, if share.is_nan() { f64::INFINITY } else { share });
            if !(error.is_finite() && error <= atol + rtol * w.abs() + mtol * largest) {
                differ += 1;
            }
        }
        let place = |found: Option<(f64, usize)>| found.map(|(x, i)| (x, want.place(i)));
        Verdict::Elements { differ, of: want.len(), absolute: place(absolute), relative: place(relative) }
    }

    fn agrees(&self) -> bool {
        matches!(self, Verdict::Elements { differ: 0, .. })
    }

    fn line(&self, name: &str, want: &Array) -> String {
        match self {
            Verdict::Other(what) => format!("DIFFERS  {name}: {what}"),
            Verdict::Elements { differ, of, absolute, relative } => {
                let word = if *differ == 0 { "agrees " } else { "DIFFERS" };
                let head = format!("{word}  {name} ({} {})", want.dtype, shape(&want.dims));
                let errors = match (absolute, relative) {
                    (Some((a, at)), Some((r, rt))) => format!("largest error {a:.3e} at {at:?}, relative {r:.3e} at {rt:?}"),
                    _ => "equal".to_string(),
                };
                if *differ == 0 { format!("{head}: {errors}") } else { format!("{head}: {differ} of {of} elements; {errors}") }
            }
        }
    }

    fn json(&self, name: &str) -> serde_json::Value {
        match self {
            Verdict::Other(what) => json!({ "name": name, "agree": false, "what": what }),
            Verdict::Elements { differ, of, absolute, relative } => {
                // JSON has no infinity: it becomes null.
                let value = |e: &Option<(f64, Vec<usize>)>| e.as_ref().map_or(json!(0.0), |(x, _)| json!(x));
                let place = |e: &Option<(f64, Vec<usize>)>| e.as_ref().map(|(_, at)| at.clone());
                json!({
                    "name": name, "agree": *differ == 0, "differ": differ, "elements": of,
                    "max_abs": value(absolute), "max_abs_at": place(absolute),
                    "max_rel": value(relative), "max_rel_at": place(relative),
                })
            }
        }
    }
}

/// Whether the type has values that `f64` rounds.
fn wide(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::U64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees<T: crate::tensor::Element>(got: &[T], want: &[T], rtol: f64, atol: f64, mtol: f64) -> bool {
        Verdict::of(&Array::new(&[got.len()], got), &Array::new(&[want.len()], want), rtol, atol, mtol).agrees()
    }

    #[test]
    fn the_three_tolerances_add_up() {
        assert!(agrees(&[1.1f32, 100.0], &[1.0, 100.0], 0.0, 0.0, 0.002));
        assert!(!agrees(&[1.1f32, 10.0], &[1.0, 10.0], 0.0, 0.0, 0.002));
        assert!(agrees(&[0.5f64], &[1.0], 0.25, 0.125, 0.125));
        assert!(!agrees(&[0.5f64], &[1.0], 0.25, 0.125, 0.12));
        assert!(agrees::<f32>(&[], &[], 0.0, 0.0, 0.0));
    }

    #[test]
    fn what_is_not_finite_agrees_with_itself_only() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert!(agrees(&[nan, inf, -inf], &[nan, inf, -inf], 0.0, 0.0, 0.0));
        for (got, want) in [(0.0, nan), (nan, 0.0), (0.0, inf), (inf, 0.0), (-inf, inf), (nan, inf)] {
            assert!(!agrees(&[got], &[want], 1.0, 1.0, 1.0), "{got} {want}");
        }
        assert!(!agrees(&[0.0, inf], &[1.0, inf], 0.0, 0.0, 0.5), "an infinity widens the tolerance of others");
        assert!(agrees(&[0.0f32], &[-0.0], 0.0, 0.0, 0.0));
    }

    #[test]
    fn integers_and_booleans_are_compared_likewise() {
        assert!(agrees(&[3i32], &[2], 0.5, 0.0, 0.0));
        assert!(!agrees(&[3i32], &[2], 0.0, 0.5, 0.0));
        assert!(!agrees(&[i64::MAX], &[i64::MAX - 1], 0.0, 0.5, 0.0));
        let b = |x| Array { dtype: DType::Bool, dims: vec![1], bytes: vec![x] };
        assert!(!Verdict::of(&b(1), &b(0), 1e-3, 1e-6, 1e-4).agrees());
    }

    #[test]
    fn another_shape_or_type_is_a_difference() {
        let want = Array::new(&[2], &[1f32, 2.0]);
        for got in [Array::new(&[1, 2], &[1f32, 2.0]), Array::new(&[2], &[1f64, 2.0])] {
            assert!(matches!(Verdict::of(&got, &want, 1.0, 1.0, 1.0), Verdict::Other(_)));
        }
    }

    #[test]
    fn errors_are_reported_with_their_places() {
        let verdict = Verdict::of(
            &Array::new(&[2, 2], &[1f32, 2.5, 10.0, 5.0]),
            &Array::new(&[2, 2], &[1f32, 2.0, 11.0, 5.0]),
            0.0,
            0.6,
            0.0,
        );
        let want = Verdict::Elements { differ: 1, of: 4, absolute: Some((1.0, vec![1, 0])), relative: Some((0.25, vec![0, 1])) };
        assert_eq!(verdict, want);
    }
}
