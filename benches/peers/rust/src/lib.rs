//! What both programs share: the command line, numpy's files, and the serving of runs as `kiln bench --serve` does it:
//! `ready open_ns=N base_kb=N` after a first run, then for each line `N` of standard input the times of N runs.

use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What stops a program.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Elements of an input, by the types that the peers take.
pub enum Elements {
    F32(Vec<f32>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

/// An input.
pub struct Input {
    pub name: String,
    pub dims: Vec<usize>,
    pub elements: Elements,
}

/// An output: its sizes, and its elements as f32.
pub type Output = (Vec<usize>, Vec<f32>);

/// The command line: `MODEL INPUTS.npz OUTDIR THREADS`.
pub struct Job {
    pub model: PathBuf,
    pub inputs: Vec<Input>,
    pub threads: usize,
    out: PathBuf,
    base_kb: u64,
    start: Instant,
}

impl Job {
    /// Reads it, and starts the clock: what follows is opening the model.
    pub fn new() -> Result<Job, Failure> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [model, inputs, out, threads] = &arguments[..] else {
            return Err("wanted: MODEL INPUTS.npz OUTDIR THREADS".into());
        };
        let threads = threads.parse().map_err(|_| format!("\"{threads}\" is not a number of threads"))?;
        #[cfg(target_arch = "x86_64")]
        if std::env::var_os("KILN_PEERS_FLUSH").is_some_and(|v| !v.is_empty()) {
            flush_subnormals();
        }
        let inputs = read_npz(inputs.as_ref()).map_err(|e| format!("{inputs}: {e}"))?;
        // The peak so far is forgotten, where the system lets us: it is asked for when the model has run.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Ok(Job { model: model.into(), inputs, threads, out: out.into(), base_kb: resident_kb(), start: Instant::now() })
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Result<&Input, Failure> {
        self.inputs.iter().find(|i| i.name == name).ok_or_else(|| format!("INPUTS has no \"{name}\"").into())
    }

    /// Serves: runs once, writes that answer, says ready, then runs on demand.
    pub fn serve<T>(
        &self,
        mut run: impl FnMut() -> Result<T, Failure>,
        outputs: impl FnOnce(T) -> Result<Vec<Output>, Failure>,
    ) -> Result<(), Failure> {
        let first = run()?;
        let open = self.start.elapsed();
        fs::create_dir_all(&self.out)?;
        write_npz(&self.out.join("out.npz"), &outputs(first)?)?;
        let mut to = io::stdout();
        writeln!(to, "ready open_ns={} base_kb={}", open.as_nanos(), self.base_kb)?;
        for line in io::stdin().lock().lines() {
            let line = line?;
            let runs: usize = line.trim().parse().map_err(|_| format!("\"{line}\" is not a number of runs"))?;
            let mut times = Vec::with_capacity(runs);
            for _ in 0..runs {
                let start = Instant::now();
                run()?;
                times.push(start.elapsed().as_nanos().to_string());
            }
            writeln!(to, "{}", times.join(" "))?;
            to.flush()?;
        }
        Ok(())
    }
}

/// Has this thread, and those that it starts, take subnormal numbers for zero.
#[cfg(target_arch = "x86_64")]
fn flush_subnormals() {
    let control: u32 = 0x1F80 | 0x8040;
    // SAFETY: the instruction reads the four bytes that it is given; every exception stays masked. What the compiler
    // computes beforehand it computes with subnormal numbers, which is as good an answer here.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, readonly)) };
}

/// Resident memory of this process in KiB; 0 where the system does not tell.
fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The arrays of a `.npz` file.
fn read_npz(path: &Path) -> Result<Vec<Input>, Failure> {
    let mut archive = zip::ZipArchive::new(BufReader::new(File::open(path)?))?;
    let mut inputs = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        let name = entry.name().trim_end_matches(".npy").to_string();
        // At once: element by element, through the archive, it takes long enough to be seen in the time from start to answer.
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let array = NpyFile::new(&bytes[..])?;
        let dims: Vec<usize> = array.shape().iter().map(|&d| d as usize).collect();
        let unknown = format!("\"{name}\" holds elements of type '{}', which no peer here is given", array.dtype().descr());
        if array.order() == Order::Fortran && dims.len() > 1 {
            return Err(format!("\"{name}\" is not in C order").into());
        }
        let DType::Plain(kind) = array.dtype() else { return Err(unknown.into()) };
        let elements = match (kind.type_char(), kind.size_field()) {
            (TypeChar::Float, 4) => Elements::F32(array.into_vec()?),
            (TypeChar::Int, 8) => Elements::I64(array.into_vec()?),
            (TypeChar::Int, 4) => Elements::I32(array.into_vec()?),
            (TypeChar::Int, 1) => Elements::I8(array.into_vec()?),
            (TypeChar::Uint, 1) => Elements::U8(array.into_vec()?),
            (TypeChar::Bool, 1) => Elements::Bool(array.into_vec()?),
            _ => return Err(unknown.into()),
        };
        inputs.push(Input { name, dims, elements });
    }
    Ok(inputs)
}

/// Writes outputs, named by their position.
fn write_npz(path: &Path, outputs: &[Output]) -> Result<(), Failure> {
    let mut archive = zip::ZipWriter::new(File::create(path)?);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (i, (dims, values)) in outputs.iter().enumerate() {
        archive.start_file(format!("{i}.npy"), stored)?;
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        let mut bytes = Vec::new();
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&dims).writer(&mut bytes).begin_nd()?;
        writer.extend(values.iter().copied())?;
        writer.finish()?;
        archive.write_all(&bytes)?;
    }
    archive.finish()?;
    Ok(())
}
