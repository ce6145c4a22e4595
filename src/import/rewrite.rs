//! tract's part of the work: it parses a model, finds types and shapes, folds constants and declutters.
//!
//! tract's own way to a typed model visits every node again and again until nothing new is found, three times over. That is
//! what a network of open sizes needs; here the sizes of all inputs are settled, so that one walk in the order of evaluation
//! tells all there is to know ([`typed`]). Where it does not, or fails, tract goes its own way, and says what is wrong.
//!
//! [`declutter`] runs tract's passes as its optimizer does, but leaves out those that have nothing to do on settled sizes,
//! and a pass that nothing has changed for since it found nothing to do.

use super::guard::{self, Trouble};
use super::hash::HashSet;
use super::whole::{CAREFUL, IMPORTER, Whole};
use super::{expand, typed};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::optim::Optimizer;

/// Passes of tract's that are left out.
///
/// `ConcatThenEinsum` cuts a 1x1 convolution behind a Concat into one product per branch (googlenet: 38 products become 92).
/// `ChangeAxes` moves and removes axes, and tries each axis of one element anew after every change: half of the import of a
/// transformer. For lowering such an op is a view, and [`units`](crate::lower) gets out of the way those that matter. The
/// others follow masks that are expressions of symbols.
const LEFT_OUT: [&str; 5] = ["ChangeAxes", "ConcatThenEinsum", "FoldUniformMask", "PropagateRoi", "PropagateUniformTdim"];

/// Why, where data decide sizes.
const UNBOUNDED: &str =
    "it may depend on data that have no bound. Make the inputs that decide it constants (kiln compile --constants …)";

/// The decluttered model. In a `first_try` at a model in which data decide sizes, one of which stays open, tract's own way is
/// left for later: it would hardly find that one.
pub(super) fn decluttered(model: &ModelProto, first_try: bool) -> Result<TypedModel, Trouble> {
    // Of sizes that depend on data the first way knows more, if it knows.
    let counts = model.graph.iter().flat_map(|g| &g.node).any(|n| expand::counts(&n.op_type));
    let nodes = model.graph.as_ref().map_or(&[][..], |graph| &graph.node);
    let typed = guard::run(|| typed::typed(parsed(&IMPORTER, model)?, nodes));
    let typed = typed.or_else(|trouble| {
        log::debug!("types and shapes do not follow in one walk: {}, at {:?}", trouble.what, trouble.node);
        let open = trouble.what.ends_with(typed::OPEN);
        if first_try && counts && open {
            return Err(trouble);
        }
        let again = guard::run(|| {
            let mut model = parsed(&CAREFUL, model)?;
            model.analyse(false)?;
            model.into_typed()
        });
        again.map_err(|second| match (counts, open) {
            (true, true) => Trouble { what: format!("{}: {UNBOUNDED}", trouble.what), node: trouble.node },
            (true, false) => trouble,
            (false, _) => second,
        })
    });
    let mut typed = typed?;
    keep_counting(&mut typed)?;
    guard::run(|| declutter(&mut typed))?;
    Ok(typed)
}

/// An operator that finds out a size is wanted for that, even where nothing reads its output: it is made an output of the
/// model, behind the model's own.
fn keep_counting(model: &mut TypedModel) -> Result<(), Trouble> {
    let counts = |node: &TypedNode| {
        let open = node.outputs.iter().any(|o| o.fact.shape.as_concrete().is_none());
        open && node.op_as::<Whole>().is_some_and(|whole| whole.counts.is_some())
    };
    let counting: Vec<OutletId> = model.nodes.iter().filter(|n| counts(n)).map(|n| n.id.into()).collect();
    if counting.is_empty() {
        return Ok(());
    }
    let mut outputs = model.outputs.clone();
    outputs.extend(counting);
    guard::run(|| model.select_output_outlets(&outputs))
}

fn parsed(importer: &tract_onnx::Onnx, model: &ModelProto) -> TractResult<InferenceModel> {
    let parsed = importer.parse(model, None)?;
    ensure!(parsed.unresolved_inputs.is_empty(), "nothing yields {:?}", parsed.unresolved_inputs);
    Ok(parsed.model)
}

/// Runs tract's passes over a model until none finds anything to do.
fn declutter(model: &mut TypedModel) -> TractResult<()> {
    let mut optimizer = Optimizer::declutter();
    optimizer.passes.retain(|pass| !LEFT_OUT.iter().any(|name| format!("{pass:?}").starts_with(name)));
    let mut session = optimizer.session(); // for the bodies of loops
    let _proofs = model.symbols.proof_cache_session();
    let mut passes = optimizer.passes.clone();
    // Per pass: how many changes there had been when it found nothing more to do.
    let mut done: Vec<Option<usize>> = vec![None; passes.len()];
    let (mut changes, mut once) = (0, HashSet::default());
    model.compact()?;
    while done.iter().any(|&d| d != Some(changes)) {
        for (pass, done) in passes.iter_mut().zip(&mut done) {
            while *done != Some(changes) {
                let before = changes;
                pass.reset()?;
                while let Some(mut patch) = pass.next(&mut session, model)? {
                    if patch.dont_apply_twice.take().is_some_and(|name| !once.insert(name)) {
                        continue;
                    }
                    patch.apply(model)?;
                    changes += 1;
                }
                pass.run_direct(model)?;
                if changes == before {
                    *done = Some(changes);
                } else {
                    model.compact()?;
                }
            }
        }
    }
    Ok(())
}
