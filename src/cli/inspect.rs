//! `kiln inspect`: what a model is, and how it runs.

use super::array::shape;
use super::engine::Engine;
use super::{Failure, ModelArgs, Result, npz};
use crate::image::Tensor;
use crate::model::Options;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Show inputs, outputs, ops, memory and work of a model, and how each node runs
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    kiln inspect model.onnx\n  \
    kiln inspect model.onnx --set seq=64 --json\n  \
    kiln inspect model.kiln")]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Arrays by tensor name, whose shapes settle those of the model
    #[arg(long, value_name = "FILE.npz")]
    inputs: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Sizes as people read them; `<=` before one that a run decides.
fn sizes(t: &Tensor<'_>) -> String {
    let size = |(axis, d): (usize, &u32)| format!("{}{d}", if t.is_bounded(axis) { "<=" } else { "" });
    match t.dims() {
        [] => shape(&[]),
        dims => dims.iter().enumerate().map(size).collect::<Vec<_>>().join("x"),
    }
}

/// Runs the command.
pub fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<u8> {
    let given = args.inputs.as_ref().map_or(Ok(Vec::new()), |path| npz::read_npz(path))?;
    // Whoever asks about an image wants to know that it is whole.
    let engine = Engine::open_with(&args.model, Options { verify: true, ..Options::default() })?;
    let compiled = engine.compiled(&given)?;
    let report = &compiled.report;
    let Some(main) = report.programs.first() else { return Err(Failure::new("the model has no program")) };
    let image = compiled.image();
    let program = compiled.program();
    let how = |i: usize| compiled.how.get(i).map_or(("", ""), |h| (&h.how, &h.why));
    if args.json {
        let tensor = |t: Tensor<'_>| {
            let mut said = json!({ "name": t.name(), "dtype": t.dtype().name(), "shape": t.dims() });
            let bounded: Vec<usize> = (0..t.dims().len()).filter(|&axis| t.is_bounded(axis)).collect();
            if !bounded.is_empty() {
                said["bounded_axes"] = json!(bounded);
            }
            if let Some(q) = t.quantisation() {
                said["quantisation"] = json!({ "scale": q.scale, "zero_point": q.zero_point });
            }
            said
        };
        let ops: Vec<_> = main
            .ops
            .iter()
            .enumerate()
            .map(|(i, op)| {
                let (how, why) = how(i);
                json!({ "name": op.name, "kind": op.kind.name(), "macs": op.macs, "weight_bytes": op.weight_bytes, "how": how, "why": why })
            })
            .collect();
        let externs: Vec<_> =
            compiled.externs.iter().map(|e| json!({ "name": e.name, "op": e.op, "reason": e.reason })).collect();
        let whole = json!({
            "inputs": program.inputs().map(tensor).collect::<Vec<_>>(), "outputs": program.outputs().map(tensor).collect::<Vec<_>>(),
            "arena_bytes": main.arena_bytes, "live_bytes": main.live_bytes, "state_bytes": main.state_bytes,
            "scratch_bytes": main.scratch_bytes, "weight_bytes": report.weight_bytes, "macs": main.macs, "image_bytes": image.bytes(),
            "ops": ops, "extern_nodes": externs,
            "program": program.name(), "programs": image.programs().map(|p| p.name()).collect::<Vec<_>>(),
        });
        writeln!(out, "{whole}")?;
        return Ok(0);
    }
    for (what, t) in program.inputs().map(|t| ("input ", t)).chain(program.outputs().map(|t| ("output", t))) {
        let scale = t.quantisation().map(|q| format!(", {} at zero, scale {}", q.zero_point, q.scale));
        writeln!(out, "{what}  {}  {} {}{}", t.name(), t.dtype(), sizes(&t), scale.unwrap_or_default())?;
    }
    writeln!(out, "\n{:>4}  {:<10} {:>14} {:>12}  nodes", "op", "kind", "MACs", "weights")?;
    for (i, op) in main.ops.iter().enumerate() {
        let (how, why) = how(i);
        let reason = if why.is_empty() { String::new() } else { format!("  ({how}: {why})") };
        writeln!(out, "{i:>4}  {:<10} {:>14} {:>12}  {}{reason}", op.kind.name(), op.macs, op.weight_bytes, op.name)?;
    }
    let names: Vec<&str> = image.programs().map(|p| p.name()).collect();
    if let [first, .., last] = &names[..] {
        writeln!(out, "\n{} programs, from {first} to {last}; this is {}", names.len(), program.name())?;
    }
    writeln!(out, "\nwork     {} multiply-accumulates a run", main.macs)?;
    writeln!(out, "weights  {} bytes", report.weight_bytes)?;
    writeln!(
        out,
        "arena    {} bytes; the largest sum of live tensors is {}, state {}, scratch {}",
        main.arena_bytes, main.live_bytes, main.state_bytes, main.scratch_bytes
    )?;
    match compiled.externs.len() {
        0 => writeln!(out, "every node is native")?,
        n => writeln!(out, "{n} nodes are evaluated by the host alone:")?,
    }
    for e in &compiled.externs {
        writeln!(out, "  {} ({}): {}", e.name, e.op, e.reason)?;
    }
    Ok(0)
}
