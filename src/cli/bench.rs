//! `kiln bench`: how long a run takes.

use super::engine::{Engine, Port, Session};
use super::feed::{self, Inputs};
use super::run::duration;
use super::{Failure, HostArgs, IsaArgs, ModelArgs, Result, npz, progress};
use clap::Args;
use serde_json::json;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Measure the time of one run
#[derive(Args)]
#[command(
    after_help = "Timed is one run: from inputs in place to outputs in place. Without --inputs, made-up ones are used, and \
    sizes that the model leaves open are 1.\n\n\
    Examples:\n  \
    kiln bench model.onnx\n  \
    kiln bench model.kiln --inputs in.npz --seconds 5 --json\n  \
    kiln bench model.onnx --inputs in.npz --isa scalar\n  \
    echo 100 | kiln bench model.onnx --inputs in.npz --serve out/   # 100 runs on demand: one line of nanoseconds"
)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    isa: IsaArgs,
    #[command(flatten)]
    host: HostArgs,
    /// Inputs: arrays by tensor name
    #[arg(long, value_name = "FILE.npz")]
    inputs: Option<PathBuf>,
    /// How long to measure, after a warm-up of a tenth of it
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the outputs of a first run to OUTDIR/out.npz, print "ready open_ns=… base_kb=…", then for each line N of standard input run N
    /// times and print N times in nanoseconds
    #[arg(long, value_name = "OUTDIR", conflicts_with = "json")]
    serve: Option<PathBuf>,
}

/// Reads how long to measure.
pub(super) fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 3600.0 => Ok(s),
        _ => Err("it must be a number of seconds, more than 0, at most 3600".into()),
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs, out: &mut dyn Write, allocations: fn() -> u64) -> Result<u8> {
    let given = args.inputs.as_ref().map(|path| npz::read_npz(path)).transpose()?;
    let base = resident_kib();
    let start = Instant::now();
    let engine = Engine::open_on(&args.model, &args.isa, &args.host)?;
    let inputs = match given {
        Some(inputs) => inputs,
        None => {
            say_sizes(engine.inputs());
            feed::invent(engine.inputs())?
        }
    };
    let mut session = engine.session(&inputs)?;
    let load = start.elapsed();
    session.load(&inputs)?;
    session.run()?;
    let open = start.elapsed();
    if let Some(dir) = &args.serve {
        return serve(&mut session, &inputs, dir, &format!("ready open_ns={} base_kb={base}", open.as_nanos()), out);
    }

    session.derive();
    let whole = Duration::from_secs_f64(args.seconds);
    let bar = progress::bar("measuring", Some(whole.as_millis() as u64));
    let start = Instant::now();
    while start.elapsed() < whole / 10 {
        timed(&mut session, &inputs)?;
    }
    let (mut times, mut allocated) = (Vec::new(), 0);
    let start = Instant::now();
    while times.is_empty() || start.elapsed() < whole {
        session.load(&inputs)?;
        let before = allocations();
        let run = Instant::now();
        session.run()?;
        let time = run.elapsed();
        allocated += allocations() - before;
        times.push(time.as_nanos() as u64);
        bar.set_position(start.elapsed().as_millis() as u64);
    }
    bar.finish_and_clear();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let (median, min, p95) = (at(0.5), times[0], at(0.95));
    if args.json {
        let report = json!({
            "median_ns": median, "min_ns": min, "p95_ns": p95, "runs": times.len(), "threads": args.host.threads, "isa": session.isa().name(),
            "load_ns": load.as_nanos() as u64, "arena_bytes": session.arena_bytes(), "allocations": allocated,
        });
        writeln!(out, "{report}")?;
    } else {
        let time = |ns| duration(Duration::from_nanos(ns));
        writeln!(
            out,
            "median {}, min {}, 95 % below {} ({} runs, {}, {})",
            time(median),
            time(min),
            time(p95),
            times.len(),
            super::threads(args.host.threads),
            session.isa().name()
        )?;
        writeln!(
            out,
            "made ready in {}; arena {} bytes; {allocated} allocations while running",
            duration(load),
            session.arena_bytes()
        )?;
    }
    Ok(0)
}

/// Says which sizes are made up: the time of a run hangs on them.
pub(super) fn say_sizes(ports: &[Port]) {
    for port in ports.iter().filter(|p| p.dims.contains(&None)) {
        eprintln!("note: \"{}\" is {port}; what is open is measured as 1: --inputs or --set gives it another size", port.name);
    }
}

/// Inputs are written anew for each run, which may use their memory; that is not timed.
fn timed(session: &mut Session, inputs: &Inputs) -> Result<u64> {
    session.load(inputs)?;
    let start = Instant::now();
    session.run()?;
    Ok(start.elapsed().as_nanos() as u64)
}

/// Runs on demand, so that several programs can be timed in turn, all of them alive.
fn serve(session: &mut Session, inputs: &Inputs, dir: &Path, ready: &str, out: &mut dyn Write) -> Result<u8> {
    std::fs::create_dir_all(dir).map_err(|source| crate::ModelError::File { path: dir.into(), source })?;
    npz::write_npz(&dir.join("out.npz"), &session.outputs()?)?;
    writeln!(out, "{ready}")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let runs: usize = match line.trim() {
            "" => continue,
            text => text.parse().map_err(|_| Failure::new(format!("\"{text}\" is not a number of runs")))?,
        };
        session.derive(); // it is not what a run takes
        let mut answer = String::new();
        for _ in 0..runs {
            let time = timed(session, inputs)?;
            answer += &format!("{time} ");
        }
        writeln!(out, "{}", answer.trim_end())?;
        out.flush()?;
    }
    Ok(0)
}

/// Resident memory of the process in KiB; 0 where the system does not tell.
fn resident_kib() -> u64 {
    // Read at once: by pieces that grow it takes longer than opening a small model.
    let mut status = String::with_capacity(8 << 10);
    let file = std::fs::File::open("/proc/self/status");
    let _ = file.and_then(|mut file| file.read_to_string(&mut status));
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
