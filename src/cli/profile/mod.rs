//! `kiln profile`: where the time of a run goes, op by op.
//!
//! A run is stopped after each op to read the clock, which costs some tens of nanoseconds an op; every other run goes through
//! undisturbed, so that the report can say what that adds up to. The peak of multiply-adds is measured between runs, since clocks
//! and neighbours change from one moment to the next.

mod memory;
mod report;

use super::engine::{Engine, Session};
use super::feed::{self, Inputs};
use super::{HostArgs, IsaArgs, ModelArgs, Result, npz, progress};
use crate::ModelError;
use crate::kernels::probe;
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Show where the time of a run goes, op by op
#[derive(Args)]
#[command(
    after_help = "Times are medians over runs. GFLOP/s count two operations per multiply-accumulate of the direct sum, so a faster \
    algorithm (Winograd's) can pass 100 % of the peak, which is that of one core. Bytes are those of all operands, from wherever they come.\n\n\
    Examples:\n  \
    kiln profile model.onnx --inputs in.npz\n  \
    kiln profile model.onnx --set seq=64 --sort --json\n  \
    kiln profile model.kiln --trace trace.json      # open it at https://ui.perfetto.dev\n  \
    kiln profile model.kiln --html profile.html     # one page: times, memory plan, graph"
)]
pub struct ProfileArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    isa: IsaArgs,
    #[command(flatten)]
    host: HostArgs,
    /// Inputs: arrays by tensor name
    #[arg(long, value_name = "FILE.npz")]
    inputs: Option<PathBuf>,
    /// How long to measure
    #[arg(long, default_value_t = 2.0, value_parser = super::bench::seconds)]
    seconds: f64,
    /// List the slowest ops first
    #[arg(long)]
    sort: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write some runs as a trace that Perfetto and chrome://tracing read
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Write a page that shows times, the memory plan and the graph, and needs no network
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Runs in a trace.
const TRACED: usize = 10;
/// The longest pause between two measurements of the peak.
const PEAK_EVERY: Duration = Duration::from_millis(20);

/// What was measured; times in nanoseconds.
#[derive(Debug, Default)]
struct Measured {
    /// Per op, a time of each run that was stopped at it.
    ops: Vec<Vec<u64>>,
    /// Of runs that were not stopped.
    runs: Vec<u64>,
    /// The last stopped runs: when each op ended, from when the first of these runs began; with the run's own start before.
    trace: Vec<Vec<u64>>,
    /// Multiply-adds per second.
    peak: f64,
}

/// Runs the command.
pub fn run(args: &ProfileArgs, out: &mut dyn Write) -> Result<u8> {
    let given = args.inputs.as_ref().map(|path| npz::read_npz(path)).transpose()?;
    let engine = Engine::open_on(&args.model, &args.isa, &args.host)?;
    let inputs = match given {
        Some(inputs) => inputs,
        None => {
            super::bench::say_sizes(engine.inputs());
            feed::invent(engine.inputs())?
        }
    };
    let compiled = engine.compiled(&inputs)?;
    let mut session = engine.session(&inputs)?;
    let measured = measure(&mut session, &inputs, args.seconds)?;
    let name = args.model.model.display().to_string();
    let profile = report::Profile::new(name, session.isa(), args.host.threads, &compiled, measured);
    if let Some(path) = &args.trace {
        write(path, &profile.trace().to_string())?;
    }
    if let Some(path) = &args.html {
        write(path, &profile.page())?;
    }
    if args.json {
        writeln!(out, "{}", profile.json())?
    } else {
        profile.text(args.sort, out)?
    }
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(path, text).map_err(|source| ModelError::File { path: path.into(), source })?)
}

fn measure(session: &mut Session, inputs: &Inputs, seconds: f64) -> Result<Measured> {
    let whole = Duration::from_secs_f64(seconds);
    let bar = progress::bar("measuring", Some(whole.as_millis() as u64));
    let mut found = Measured { ops: vec![Vec::new(); session.ops()], ..Measured::default() };
    session.derive();
    let warm = Instant::now();
    while warm.elapsed() < whole / 10 {
        session.load(inputs)?;
        session.run()?;
    }
    let begin = Instant::now();
    let mut probed = None;
    while found.runs.is_empty() || begin.elapsed() < whole {
        if probed.is_none_or(|at: Instant| at.elapsed() > PEAK_EVERY) {
            found.peak = found.peak.max(probe::peak(session.isa()));
            probed = Some(Instant::now());
        }
        session.load(inputs)?;
        let start = Instant::now();
        session.run()?;
        found.runs.push(start.elapsed().as_nanos() as u64);

        session.load(inputs)?;
        let mut ends = Vec::with_capacity(found.ops.len() + 1);
        let mut before = Instant::now();
        ends.push(before.duration_since(begin).as_nanos() as u64);
        for times in &mut found.ops {
            session.step()?;
            let now = Instant::now();
            times.push(now.duration_since(before).as_nanos() as u64);
            ends.push(now.duration_since(begin).as_nanos() as u64);
            before = now;
        }
        if found.trace.len() == TRACED {
            found.trace.remove(0);
        }
        found.trace.push(ends);
        bar.set_position(begin.elapsed().as_millis() as u64);
    }
    bar.finish_and_clear();
    Ok(found)
}
