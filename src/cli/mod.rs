//! The command `kiln`: `run`, `inspect`, `compile`, `compare`, `bench`, `profile`.
//!
//! Answers go to standard output, errors to standard error as `error: …`. Exit codes: 0 all is well; 1 a comparison found a
//! difference; 2 a bad call, a bad file, or a model that is refused. Long work shows a progress bar on a terminal only.
//! `KILN_LOG` (or `RUST_LOG`) sets the level of log messages: `KILN_LOG=debug kiln run …`.

mod array;
mod bench;
mod certify;
mod compare;
mod compile;
mod emit;
mod engine;
mod feed;
mod inspect;
mod media;
mod npy;
mod npz;
mod profile;
mod progress;
mod run;

use crate::ModelError;
use crate::exec::MOST_THREADS;
use crate::kernels::Isa;
use crate::model::Sizes;
use clap::{Args, Parser, Subcommand};
use std::io::Write;

/// What a command ends with, if not with an exit code: a message.
#[derive(Debug)]
enum Failure {
    /// To be shown, with exit code 2.
    Message(String),
    /// Nobody reads standard output any more.
    Pipe,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure::Message(message.into())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        Failure::Message(error.to_string())
    }
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Failure {
        Failure::Message(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    /// Of standard output and standard input; files have [`ModelError::File`], which names them.
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Pipe,
            _ => Failure::Message(error.to_string()),
        }
    }
}

/// A result of a command.
type Result<T> = std::result::Result<T, Failure>;

#[derive(Parser)]
#[command(name = "kiln", version, about = "Runs neural networks: an ONNX file, or the image compiled from one.")]
#[command(after_help = "Examples:\n  \
    kiln run model.onnx \"a gripping story\"     answer a text\n  \
    kiln inspect model.onnx                    what is in it, and how each node runs\n  \
    kiln compile model.onnx -o model.kiln      one file for every CPU\n\n\
    KILN_LOG=debug shows what happens. Exit codes: 0 well, 1 compare found a difference, 2 an error.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    Inspect(inspect::InspectArgs),
    Compile(compile::CompileArgs),
    Compare(compare::CompareArgs),
    Bench(bench::BenchArgs),
    Profile(profile::ProfileArgs),
}

/// The model and how it is made ready; the same for all commands.
#[derive(Args)]
struct ModelArgs {
    /// An ONNX file, or an image made by `kiln compile`
    model: std::path::PathBuf,
    /// Give a symbol of the model's shapes a size (repeatable), as seq=64, or a range of them: seq=1..512, seq=16..512:16
    #[arg(long, value_name = "SYMBOL=SIZES", value_parser = binding)]
    set: Vec<(String, Sizes)>,
    /// Make inputs of an ONNX file constants of the network, and inputs no more: arrays by name
    #[arg(long, value_name = "A.npz")]
    constants: Option<std::path::PathBuf>,
    /// Compare the weights of an image with their checksum first, which reads all of them
    #[arg(long)]
    verify: bool,
}

/// The path that kernels take.
#[derive(Args)]
struct IsaArgs {
    #[arg(long, value_parser = isa, help = isa_help())]
    isa: Option<Isa>,
}

/// What of the host a run may take.
#[derive(Args)]
struct HostArgs {
    /// Number of threads that share large ops; answers are the same whatever it is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS as i64))]
    threads: u32,
    /// Keep no transformed weights beside the model's, transform them in every run: less memory, slower 3x3 and 5x5 convolutions
    #[arg(long)]
    lean: bool,
}

/// How many threads, in words.
fn threads(n: u32) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}

fn isa_help() -> String {
    let here = Isa::ALL.into_iter().filter(|isa| isa.available()).map(Isa::name);
    format!("Instruction set, of this CPU's {} [default: the fastest]", here.collect::<Vec<_>>().join(", "))
}

fn isa(name: &str) -> std::result::Result<Isa, String> {
    let isa = Isa::from_name(name).map_err(|e| e.to_string())?;
    if isa.available() { Ok(isa) } else { Err("this CPU does not have it".into()) }
}

/// Reads `NAME=VALUE`.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    // Names of tensors may hold a '='; the last one counts.
    match text.rsplit_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.into(), value.into())),
        _ => Err("it must be NAME=VALUE".into()),
    }
}

fn binding(text: &str) -> std::result::Result<(String, Sizes), String> {
    let (name, value) = pair(text)?;
    Ok((name, value.parse()?))
}

/// Runs the program: reads the command line, runs a command and returns the exit code. `allocations` counts the calls to the
/// allocator so far.
pub fn main(allocations: fn() -> u64) -> u8 {
    crate::mapped::own_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" of clap's that go to standard output with exit code 0.
            let code = error.exit_code() as u8;
            let _ = error.print();
            return code;
        }
    };
    let variable = if std::env::var_os("KILN_LOG").is_some() { "KILN_LOG" } else { "RUST_LOG" };
    // tract warns about what Kiln mends or replaces itself.
    let filter = std::env::var(variable).unwrap_or_else(|_| "error".into());
    env_logger::Builder::new().parse_filters(&filter).init();
    let mut out = std::io::stdout().lock();
    let result = match &cli.command {
        Command::Run(args) => run::run(args, &mut out),
        Command::Inspect(args) => inspect::run(args, &mut out),
        Command::Compile(args) => compile::run(args, &mut out),
        Command::Compare(args) => compare::run(args, &mut out),
        Command::Bench(args) => bench::run(args, &mut out, allocations),
        Command::Profile(args) => profile::run(args, &mut out),
    };
    match result.and_then(|code| out.flush().map(|()| code).map_err(Failure::from)) {
        Ok(code) => code,
        Err(Failure::Pipe) => 0,
        Err(Failure::Message(message)) => {
            eprintln!("error: {message}");
            2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            assert!(help.contains("kiln "), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn pairs_split_at_the_last_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a=b".into(), "c".into())));
        assert!(pair("a").is_err() && pair("=a").is_err() && pair("a=").is_err());
        assert_eq!(binding("seq=64"), Ok(("seq".into(), Sizes::from(64))));
        assert!(binding("seq=-1").is_err());
    }
}
