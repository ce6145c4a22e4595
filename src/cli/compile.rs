//! `kiln compile`: from an ONNX file to an image.

use super::array::Array;
use super::certify::{self, BudgetArgs, TargetCpu};
use super::emit::{self, Language};
use super::engine::Engine;
use super::feed::Inputs;
use super::npz::read_npz;
use super::{Failure, ModelArgs, Result, progress};
use crate::aligned::AlignedBytes;
use crate::certificate::Certificate;
use crate::image::golden::with_golden;
use crate::kernels::Isa;
use crate::model::{Compiled, Options};
use crate::{Image, ModelError, Session, ops};
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Compile an ONNX file to an image: one file for every CPU
#[derive(Args)]
#[command(after_help = "A model with a node that only the host can evaluate is refused, with the list of such nodes.\n\n\
    Examples:\n  \
    kiln compile model.onnx -o model.kiln\n  \
    kiln compile model.onnx -o model.kiln --set seq=64\n  \
    kiln compile model.onnx -o model.kiln --set seq=1..128         a program for each length; they share weights and arena\n  \
    kiln compile model.onnx -o model.kiln --constants mask.npz     the arrays in it are inputs no more\n  \
    kiln compile models/text-lstm/model.onnx -o text-lstm.kiln --stream\n  \
    kiln compile model.onnx -o model.kiln --align 16 --emit c      beside it model.c and model.h, for a firmware\n  \
    kiln compile model.onnx -o model.kiln --certify                memory, bytes and work, op by op\n  \
    kiln compile model.onnx -o model.kiln --max-arena 64K --max-flash 256K --max-macs 5M --max-stack 2K\n  \
    kiln compile model.onnx -o model.kiln --target-cpu cortex-m3   warns: no floating-point unit")]
pub struct CompileArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write
    #[arg(short, long, value_name = "FILE.kiln")]
    output: PathBuf,
    /// Make the time axis a stream: each run takes one step, and the session keeps the state
    #[arg(long)]
    stream: bool,
    /// Alignment of the image in memory, in bytes: 8 or 16 suit a device
    #[arg(long, default_value_t = 64)]
    align: u32,
    /// Put golden values for the self-test into the image: arrays by name, all inputs, and outputs [default: Kiln's own answer]
    #[arg(long, value_name = "A.npz")]
    golden: Option<PathBuf>,
    /// Also write the image as source code, beside it: the bytes, aligned, with arena size and list of ops
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    emit: Option<Language>,
    /// Print the certificate: bytes of flash, arena, state, scratch and stack, and the work, op by op
    #[arg(long)]
    certify: bool,
    #[command(flatten)]
    budgets: BudgetArgs,
    /// Warn of what this core can't do well
    #[arg(long, value_enum, value_name = "CPU")]
    target_cpu: Option<TargetCpu>,
    /// Print one JSON object about the image
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &CompileArgs, out: &mut dyn Write) -> Result<u8> {
    let options = Options { stream: args.stream, alignment: args.align, ..Options::default() };
    let bar = progress::bar("compiling", None);
    let engine = Engine::open_with(&args.model, options)?;
    let golden = args.golden.as_deref().map(read_npz).transpose()?.unwrap_or_default();
    let is_output = |(name, _): &(String, Array)| engine.outputs().iter().any(|port| port.name == *name);
    let (outputs, inputs): (Vec<_>, Vec<_>) = golden.into_iter().partition(is_output);
    let compiled = engine.compiled(&inputs)?;
    compiled.native()?;
    let with_golden = match args.golden {
        Some(_) => Some(tested(&engine, &compiled, inputs, outputs)?),
        None => None,
    };
    let bytes = with_golden.as_deref().unwrap_or(compiled.bytes());
    let certificate = Certificate::new(&Image::without_weights_hash(bytes)?, &compiled.report);
    args.budgets.check(&certificate)?;
    std::fs::write(&args.output, bytes).map_err(|source| ModelError::File { path: args.output.clone(), source })?;
    if let Some(language) = args.emit {
        let image = Image::without_weights_hash(bytes)?;
        for (path, text) in emit::files(language, &args.output, &image, bytes) {
            std::fs::write(&path, text).map_err(|source| ModelError::File { path, source })?;
        }
    }
    bar.finish_and_clear();
    let warning = args.target_cpu.and_then(|cpu| cpu.warning(&certificate));
    if let Some(warning) = &warning {
        eprintln!("warning: {warning}");
    }
    let Some(main) = certificate.programs.first() else { return Err(Failure::new("the model has no program")) };
    let weights = certificate.weight_bytes;
    let arena = certificate.programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0);
    if args.json {
        let mut report = if args.certify { certify::json(&certificate, &compiled.how) } else { json!({}) };
        let whole = [
            ("image_bytes", certificate.image_bytes),
            ("weight_bytes", weights),
            ("arena_bytes", arena),
            ("live_bytes", main.live_bytes),
            ("state_bytes", main.state_bytes),
            ("scratch_bytes", main.scratch_bytes),
            ("macs", main.macs),
            ("program_count", certificate.programs.len() as u64),
        ];
        whole.into_iter().for_each(|(key, value)| report[key] = json!(value));
        report["warnings"] = json!(warning.as_slice());
        writeln!(out, "{report}")?;
    } else {
        writeln!(
            out,
            "{}: {} bytes, of which weights {weights}; arena {} bytes, of which state {}; {} multiply-accumulates a run",
            args.output.display(),
            certificate.image_bytes,
            arena,
            main.state_bytes,
            main.macs
        )?;
        if let [first, .., last] = &certificate.programs[..] {
            writeln!(
                out,
                "{} programs, from {} to {}; what is said of a run is of the first",
                certificate.programs.len(),
                first.name,
                last.name
            )?;
        }
        if args.certify {
            certify::text(&certificate, &compiled.how, out)?;
        }
    }
    Ok(0)
}

/// The image with golden values, after it has passed its own self-test. Outputs that are not given are what Kiln answers.
fn tested(engine: &Engine, compiled: &Compiled, inputs: Inputs, mut outputs: Inputs) -> Result<AlignedBytes> {
    if outputs.is_empty() {
        let mut session = engine.session(&inputs)?;
        session.load(&inputs)?;
        session.run()?;
        outputs = session.outputs()?;
    }
    let values: Vec<_> = inputs.iter().chain(&outputs).map(|(name, array)| (name.as_str(), array.bytes.as_slice())).collect();
    let bytes = with_golden(&compiled.image(), &values).map_err(|what| Failure::new(format!("--golden: {what}")))?;
    let image = Image::new(&bytes)?;
    let mut arena = AlignedBytes::zeroed(image.main().arena_bytes(), image.alignment());
    let mut session = Session::new(&image, ops::set(Isa::detect())?, &mut arena)?;
    session.self_test().map_err(|e| Failure::new(format!("--golden: {e}")))?;
    Ok(bytes)
}
