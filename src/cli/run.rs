//! `kiln run`: an answer.

use super::array::{Array, shape};
use super::engine::{Engine, Session};
use super::feed::{self, Inputs, Maker};
use super::{Failure, HostArgs, IsaArgs, ModelArgs, Result, npz, pair, progress};
use crate::frontend::{Frontend, top_k};
use crate::tensor::DType;
use clap::Args;
use serde_json::json;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Run a model once: on a text, picture or sound, or on arrays
#[derive(Args)]
#[command(after_help = "A bare text, picture or sound works where the model's metadata say how to read it.\n\n\
    Examples:\n  \
    kiln run models/text-lstm/model.onnx \"a gripping story, I loved every minute\"\n  \
    kiln run models/digits-cnn/model.onnx seven.png --top 3\n  \
    kiln run model.onnx --input x=x.npy --output out.npz\n  \
    kiln run model.onnx --inputs in.npz --set seq=64 --json\n  \
    kiln run models/text-cnn/model.onnx --each reviews.txt --json")]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    isa: IsaArgs,
    #[command(flatten)]
    host: HostArgs,
    /// A text, or the path of a picture (PNG, JPEG, BMP, PNM) or a WAV file, as the model wants
    #[arg(value_name = "TEXT|PICTURE|SOUND", conflicts_with = "each")]
    given: Option<String>,
    /// An array for one input (repeatable)
    #[arg(long, value_name = "NAME=FILE.npy", value_parser = pair)]
    input: Vec<(String, String)>,
    /// Arrays by tensor name
    #[arg(long, value_name = "FILE.npz")]
    inputs: Option<PathBuf>,
    /// Write the outputs, by tensor name
    #[arg(long, value_name = "FILE.npz", conflicts_with = "each")]
    output: Option<PathBuf>,
    /// Number of classes to print
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Answer every sample of a file, one JSON object a line: a text a line (.txt), or raw pixels whose first axis counts samples (.npy)
    #[arg(long, value_name = "FILE", requires = "json", conflicts_with_all = ["input", "inputs"])]
    each: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &RunArgs, out: &mut dyn Write) -> Result<u8> {
    let engine = Engine::open_on(&args.model, &args.isa, &args.host)?;
    if let Some(path) = &args.each {
        return each(&engine, path, out);
    }
    let given = feed::files(args.inputs.as_ref(), &args.input)?;
    let maker = match &args.given {
        Some(_) => Some(Maker::new(&engine)?),
        None if given.is_empty() && !engine.inputs().is_empty() => {
            let names = feed::names(engine.inputs());
            return Err(Failure::new(format!(
                "nothing to run on: give a text, picture or sound, --input or --inputs (the inputs are {names})"
            )));
        }
        None => None,
    };
    let mut steps = match (&maker, &args.given) {
        (Some(maker), Some(text)) => maker.make(text)?,
        _ => vec![Inputs::new()],
    };
    for step in &mut steps {
        step.extend(given.iter().cloned());
    }
    let mut session = engine.session(&steps[0])?;
    let time = infer(&mut session, &steps)?;
    let outputs = session.outputs()?;
    if let Some(path) = &args.output {
        npz::write_npz(path, &outputs)?;
    }
    match maker {
        Some(maker) => classes(maker.front(), &outputs, time, args, out)?,
        None => arrays(&outputs, time, args.json, out)?,
    }
    Ok(0)
}

/// Runs all steps and returns their time. Where that is short it is measured again, from a fresh state, and the shortest counts: the
/// first run of a process pays for its page faults.
fn infer(session: &mut Session, steps: &[Inputs]) -> Result<Duration> {
    let (mut best, mut total) = (Duration::MAX, Duration::ZERO);
    loop {
        session.reset();
        let mut time = Duration::ZERO;
        for step in steps {
            session.load(step)?;
            let start = Instant::now();
            session.run()?;
            time += start.elapsed();
        }
        best = best.min(time);
        total += time;
        if total > Duration::from_millis(10) {
            return Ok(best);
        }
    }
}

/// Answers every sample of a file.
fn each(engine: &Engine, path: &std::path::Path, out: &mut dyn Write) -> Result<u8> {
    /// Sessions kept, by the shape that they are for: texts come in many lengths.
    const KEPT: usize = 64;
    let maker = Maker::new(engine)?;
    let samples = maker.each(path)?;
    // An image's one session serves all its sizes.
    let mut sessions: HashMap<Vec<usize>, Session> = HashMap::new();
    let bar = progress::bar("running", Some(samples.len() as u64));
    for steps in &samples {
        let dims = if engine.is_image() { Vec::new() } else { steps[0][0].1.dims.clone() };
        if !sessions.contains_key(&dims) {
            if sessions.len() == KEPT {
                sessions.clear();
            }
            sessions.insert(dims.clone(), engine.session(&steps[0])?);
        }
        let Some(session) = sessions.get_mut(&dims) else { continue };
        session.choose(&steps[0])?;
        for step in steps {
            session.load(step)?;
            session.run()?;
        }
        let scores = scores(maker.front(), &session.outputs()?)?;
        let mut best = [(0, 0.0)];
        top_k(&scores, &mut best);
        let index = best[0].0;
        writeln!(out, "{}", json!({ "label": maker.front().labels.label(index), "index": index, "scores": scores }))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(0)
}

/// One number a class, after the activation.
fn scores(front: &Frontend<'_>, outputs: &[(String, Array)]) -> Result<Vec<f32>> {
    let found = match front.output {
        Some(name) => outputs.iter().find(|(other, _)| other == name),
        None => outputs.first(),
    };
    let Some((_, array)) = found else {
        return Err(Failure::new("the metadata's kiln.output is none of the model's outputs"));
    };
    let mut scores: Vec<f32> = array.values().map(|x| x as f32).collect();
    front.activation.apply(&mut scores);
    Ok(scores)
}

/// Prints the best classes.
fn classes(front: &Frontend<'_>, outputs: &[(String, Array)], time: Duration, args: &RunArgs, out: &mut dyn Write) -> Result<()> {
    let scores = scores(front, outputs)?;
    let mut best = vec![(0, 0.0); args.top.clamp(1, scores.len().max(1))];
    let found = top_k(&scores, &mut best);
    let label = |class: usize| front.labels.label(class).map_or_else(|| format!("class {class}"), str::to_string);
    if args.json {
        let top: Vec<_> =
            best[..found].iter().map(|&(i, s)| json!({ "label": front.labels.label(i), "index": i, "score": s })).collect();
        let (index, _) = best[0];
        let answer = json!({ "label": front.labels.label(index), "index": index, "scores": scores, "top": top, "time_ns": time.as_nanos() as u64 });
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    writeln!(out, "{}", label(best[0].0))?;
    for &(class, score) in &best[..found] {
        writeln!(out, "  {score:.4}  {}", label(class))?;
    }
    writeln!(out, "time of one inference: {}", duration(time))?;
    Ok(())
}

/// Prints arrays: the first elements of each, or as JSON all of them.
fn arrays(outputs: &[(String, Array)], time: Duration, as_json: bool, out: &mut dyn Write) -> Result<()> {
    const SHOWN: usize = 8;
    if as_json {
        let list: Vec<_> = outputs
            .iter()
            .map(|(name, a)| json!({ "name": name, "dtype": a.dtype.name(), "shape": a.dims, "data": a.values().collect::<Vec<_>>() }))
            .collect();
        writeln!(out, "{}", json!({ "outputs": list, "time_ns": time.as_nanos() as u64 }))?;
        return Ok(());
    }
    for (name, a) in outputs {
        // An `f32` in its own digits, not in those of the `f64` next to it.
        let digits = |x: f64| if a.dtype == DType::F32 { format!("{}", x as f32) } else { format!("{x}") };
        let head: Vec<String> = a.values().take(SHOWN).map(digits).collect();
        let more = if a.len() > SHOWN { " …" } else { "" };
        writeln!(out, "{name} ({} {}): {}{more}", a.dtype, shape(&a.dims), head.join(" "))?;
    }
    writeln!(out, "time of one inference: {}", duration(time))?;
    Ok(())
}

/// A time as people read it.
pub fn duration(time: Duration) -> String {
    match time.as_nanos() as f64 {
        ns if ns < 1e3 => format!("{ns} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}
