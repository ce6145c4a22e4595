//! A model file on a host: an image or an ONNX file, opened, asked about, run.
//!
//! An image is mapped, checked, and used where it lies.

use crate::ModelError;
use crate::exec::MOST_THREADS;
use crate::exec::owned::{OwnedImage, OwnedSession};
use crate::image::Program;
use crate::image::layout::MAGIC;
use crate::kernels::Isa;
pub use crate::lower::ExternNode;
use crate::mapped;
use crate::ops;
use crate::plan::{self, Report};
use crate::tensor::DType;
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "onnx")]
mod onnx;
mod programs;
#[cfg(feature = "onnx")]
mod range;
#[cfg(feature = "onnx")]
mod release;
mod sizes;
#[cfg(test)]
mod tests;

pub use sizes::Sizes;

/// How a model is made ready.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instruction set to run on; `None`: the fastest of this CPU.
    pub isa: Option<Isa>,
    /// What symbols in an ONNX file's shapes stand for. With a range, what is compiled has a program for each size, and inputs
    /// that are given must have one of them.
    pub symbols: BTreeMap<String, Sizes>,
    /// Inputs of an ONNX file, with their values, that become constants of the network and are inputs no more: where sizes depend on
    /// them, or they never change.
    pub constants: Vec<Given>,
    /// The time axis becomes a stream: one step per run, state kept between runs.
    pub stream: bool,
    /// Alignment of a compiled image, in bytes: a power of two from 8 to 4096.
    pub alignment: u32,
    /// Threads that a session of [`Model::session`] and [`Model::session_for`] runs on, from 1 to [`MOST_THREADS`]; answers have
    /// the same bits whatever their number. See [`Session::with_threads`](crate::Session::with_threads).
    pub threads: usize,
    /// Sessions keep no transformed weights beside those of the image, but transform them anew in every run: less memory (by up to
    /// four times the weights of 3x3 convolutions, 1.44 times those of 5x5 ones), at the price of time. As what the import of an
    /// ONNX file freed, the pages of the running program's file go back to the system (on Linux) before its weights are packed: of its
    /// code, what runs again is mapped again, which takes some tenths of a millisecond.
    pub lean: bool,
    /// The weights of an image are compared with their checksum when it is opened, which reads all of them. Without, damaged
    /// weights give wrong answers, no more: the rest of an image is always checked.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            isa: None,
            symbols: BTreeMap::new(),
            constants: Vec::new(),
            stream: false,
            alignment: 64,
            threads: 1,
            lean: false,
            verify: false,
        }
    }
}

/// The size of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Fixed(usize),
    /// A symbol of the ONNX file, or an expression of some; `?` where the file says nothing.
    Symbol(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
        }
    }
}

/// An input or output of a model, as its file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Element type; `None` for one that Kiln does not know.
    pub dtype: Option<DType>,
    /// Sizes; `None` where an ONNX file does not even say how many axes there are.
    pub dims: Option<Vec<Dim>>,
}

/// An input that a session is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub dims: Vec<usize>,
    /// Its value (little-endian, row-major), in case that shapes of the network depend on it: the form is then made for this
    /// value alone.
    pub bytes: Option<Vec<u8>>,
}

/// How an op came to be what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct How {
    /// The kind of op it runs as.
    pub how: String,
    /// Why.
    pub why: String,
}

/// A model made ready for certain shapes: what `inspect` tells.
#[derive(Debug)]
pub struct Compiled {
    image: Arc<OwnedImage>,
    /// Memory and work.
    pub report: Report,
    /// Per op of the first program: how it came to be. Empty for a model that was opened as an image.
    pub how: Vec<How>,
    /// Nodes that the host evaluates.
    pub externs: Vec<ExternNode>,
    /// Names of inputs that became constants, since shapes depend on their values: a session does not have them.
    pub fixed: Vec<String>,
    /// Which program of the image a session is of at first.
    program: usize,
}

impl Compiled {
    /// The image's bytes: what `kiln compile` writes.
    pub fn bytes(&self) -> &[u8] {
        self.image.bytes()
    }

    /// The image.
    pub fn image(&self) -> crate::Image<'_> {
        self.image.image()
    }

    /// The program that a session is of at first: of several sizes the largest, or the one for the inputs that were given.
    ///
    /// # Panics
    /// Never: it was there when this was made.
    pub fn program(&self) -> Program<'_> {
        self.image.image().programs().nth(self.program).expect("a program of the image")
    }

    /// An error that lists the nodes which the host evaluates, if there are some: what is to run without tract can't have any.
    ///
    /// # Errors
    /// [`ModelError::Node`], of the first, listing all.
    pub fn native(&self) -> Result<(), ModelError> {
        let Some(first) = self.externs.first() else { return Ok(()) };
        let list: Vec<String> = self.externs.iter().map(|e| format!("\"{}\" ({}): {}", e.name, e.op, e.reason)).collect();
        let what = format!("{} of its nodes can only be evaluated by the host: {}", list.len(), list.join("; "));
        Err(ModelError::node(&first.name, &first.op, what))
    }

    /// A session, of the program of this name or else of [`Compiled::program`]. Weights that only a host has
    /// ([`derive`](plan::derive)) are derived by its second run, for all programs, unless it is to be `lean`.
    ///
    /// # Errors
    /// [`ModelError::Core`] when there is no such program, or `isa` is not available.
    pub fn session(&self, program: Option<&str>, isa: Isa, lean: bool) -> Result<OwnedSession, ModelError> {
        let set = ops::set(isa)?;
        let derived = plan::derive::image(&self.image.image(), isa, lean)?;
        let program = program.unwrap_or_else(|| self.program().name());
        Ok(OwnedSession::new(self.image.clone(), Some(program), set, derived)?)
    }
}

enum Source {
    Image(Arc<OwnedImage>),
    #[cfg(feature = "onnx")]
    Onnx(Box<onnx::Onnx>),
}

/// A model file: an image, or (with the feature `onnx`) an ONNX file.
pub struct Model {
    path: PathBuf,
    source: Source,
    isa: Isa,
    threads: usize,
    lean: bool,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    metadata: Vec<(String, String)>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model {}", self.path.display())
    }
}

/// A mapped image.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Model {
    /// Opens a file of either kind, as its first bytes say. An image is checked, but for its weights, which are not read
    /// ([`Options::verify`]); on Linux a thread of its own brings the pages of a large one into memory meanwhile. Of an ONNX file,
    /// inputs and outputs are read.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::Format`] for the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, ModelError> {
        Model::open_with(path, Options::default())
    }

    /// As [`Model::open`], with options.
    ///
    /// # Errors
    /// As [`Model::open`]; [`ModelError::Core`] for an instruction set that is not available; [`ModelError::Call`] for options that
    /// only an ONNX file has, or a number of threads that can't be.
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Model, ModelError> {
        let path = path.as_ref().to_path_buf();
        let isa = options.isa.unwrap_or_else(Isa::detect);
        ops::set(isa)?;
        let (threads, lean) = (options.threads, options.lean);
        if !(1..=MOST_THREADS).contains(&threads) {
            return Err(ModelError::Call(format!("the number of threads must be from 1 to {MOST_THREADS}, not {threads}")));
        }
        let file = mapped::map(&path)?;
        if !lean {
            mapped::large_pages(&file);
        }
        let metadata;
        let (inputs, outputs);
        let source = if file.starts_with(&MAGIC) {
            if let Some(symbol) = options.symbols.keys().next() {
                return Err(ModelError::Call(format!("an image has no symbol \"{symbol}\": its shapes are settled")));
            }
            if let Some(constant) = options.constants.first() {
                let what =
                    format!("the input \"{}\" of an image can't become a constant: compile the ONNX file with it", constant.name);
                return Err(ModelError::Call(what));
            }
            let format = |e: crate::Error| ModelError::Format { path: path.clone(), what: e.to_string() };
            if !lean {
                mapped::fetch(&file);
            }
            let image = OwnedImage::new(Box::new(Mapped(file)), options.verify, None).map_err(format)?;
            (inputs, outputs) = (programs::ports(&image.image(), false), programs::ports(&image.image(), true));
            metadata = image.image().all_metadata().map(|(k, v)| (k.into(), v.into())).collect();
            Source::Image(Arc::new(image))
        } else {
            #[cfg(feature = "onnx")]
            {
                let onnx = onnx::Onnx::open(&path, file, options)?;
                (inputs, outputs, metadata) = (onnx.inputs(), onnx.outputs(), onnx.metadata());
                Source::Onnx(Box::new(onnx))
            }
            #[cfg(not(feature = "onnx"))]
            {
                let what = "this is not a kiln image, and this build reads nothing else";
                return Err(ModelError::Format { path, what: what.into() });
            }
        };
        Ok(Model { path, source, isa, threads, lean, inputs, outputs, metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is an image.
    pub fn is_image(&self) -> bool {
        matches!(self.source, Source::Image(_))
    }

    /// Inputs, in the file's order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Outputs, in the file's order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The value of a metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| &**v)
    }

    /// All metadata: keys and values.
    pub fn all_metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// The instruction set that sessions run on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads that sessions run on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// A session for the shapes that the file declares; where a symbol has a range of sizes, for all of them, the largest first
    /// ([`OwnedSession::choose`]).
    ///
    /// # Errors
    /// [`ModelError::Call`] when a size is open; [`ModelError::Node`] when a node can't be compiled.
    pub fn session(&self) -> Result<OwnedSession, ModelError> {
        self.session_for(&[])
    }

    /// A session for these inputs. Inputs that are not given have the shape that the file declares. If shapes of the network
    /// depend on the value of a given input, the session is one for this value, and has no such input
    /// ([`Compiled::fixed`]).
    ///
    /// # Errors
    /// [`ModelError::Call`] when the inputs do not fit the model, or a size is open; [`ModelError::Node`] when a node can't be
    /// compiled.
    pub fn session_for(&self, given: &[Given]) -> Result<OwnedSession, ModelError> {
        let compiled = self.ready(given, false)?;
        self.session_of(&compiled)
    }

    /// A session of what [`Model::compiled`] gave.
    ///
    /// # Errors
    /// [`ModelError::Core`] when a thread can't be started.
    pub fn session_of(&self, compiled: &Compiled) -> Result<OwnedSession, ModelError> {
        Ok(compiled.session(None, self.isa, self.lean)?.with_threads(self.threads)?)
    }

    /// The model made ready for these inputs, as [`Model::session_for`] says.
    ///
    /// # Errors
    /// As [`Model::session_for`].
    pub fn compiled(&self, given: &[Given]) -> Result<Arc<Compiled>, ModelError> {
        self.ready(given, true)
    }

    /// As [`Model::compiled`]; if it need not be `sealed`, its bytes may lack the weights' checksum, which a session here has no
    /// use for.
    pub(crate) fn ready(&self, given: &[Given], sealed: bool) -> Result<Arc<Compiled>, ModelError> {
        given.iter().try_for_each(|g| fits(&self.inputs, g))?;
        let _ = sealed; // of an image that was opened, all is stated
        match &self.source {
            Source::Image(image) => programs::compiled(image, given).map(Arc::new),
            #[cfg(feature = "onnx")]
            Source::Onnx(onnx) => onnx.compiled(given, sealed),
        }
    }
}

/// Whether an input is one of the model's, as far as its file says.
fn fits(inputs: &[Port], g: &Given) -> Result<(), ModelError> {
    let Some(port) = inputs.iter().find(|p| p.name == g.name) else {
        let names: Vec<&str> = inputs.iter().map(|p| &*p.name).collect();
        return Err(ModelError::Call(format!("the model has no input \"{}\"; its inputs are {names:?}", g.name)));
    };
    if let Some(dtype) = port.dtype.filter(|&d| d != g.dtype) {
        return Err(ModelError::Call(format!("the input \"{}\" is of type {dtype}, not {}", g.name, g.dtype)));
    }
    let Some(dims) = &port.dims else { return Ok(()) };
    let same = |(d, &n): (&Dim, &usize)| matches!(d, Dim::Symbol(_)) || *d == Dim::Fixed(n);
    if dims.len() != g.dims.len() || !dims.iter().zip(&g.dims).all(same) {
        let list = |dims: Vec<String>| if dims.is_empty() { "scalar".into() } else { dims.join("x") };
        let want = list(dims.iter().map(Dim::to_string).collect());
        let is = list(g.dims.iter().map(usize::to_string).collect());
        return Err(ModelError::Call(format!("the input \"{}\" has the shape {want}, not {is}", g.name)));
    }
    Ok(())
}
