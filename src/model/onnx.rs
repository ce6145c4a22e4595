//! An ONNX file as a model: compiled for the shapes that a run brings, and kept for the last few of them.

use super::range::{self, Point};
use super::release::releasing;
use super::{Compiled, Dim, Given, How, Options, Port, Sizes};
use crate::ModelError;
use crate::exec::owned::OwnedImage;
use crate::import::{self, Signature};
use crate::lower::Lowered;
use crate::plan::join::Join;
use crate::plan::{PlanError, parallel};
use crate::program::{self, Extern, OpKind};
use crate::tensor::DType;
use crate::{lower, mapped, ops, plan};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Compiled forms that are kept, the latest used.
const KEPT: usize = 4;

/// Steps for which a streamed model is imported, before one of them is taken.
const STEPS: i64 = 8;

/// What a compiled form depends on: shapes of inputs, and values of those that decide shapes.
#[derive(Clone, PartialEq)]
struct Key {
    shapes: BTreeMap<String, Vec<usize>>,
    values: BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>,
}

/// A network on its way into an image.
struct Form {
    lowered: Lowered,
    externs: import::Externs,
    /// The files that its weights lie in.
    maps: Vec<Arc<Mmap>>,
}

/// An ONNX file.
pub(super) struct Onnx {
    path: PathBuf,
    options: Options,
    signature: Signature,
    /// The file as it was when it was opened, until something is compiled: what is compiled later is read from what it is then.
    opened: Mutex<Option<Arc<Mmap>>>,
    /// With whether the image states its weights' checksum.
    kept: Mutex<Vec<(Key, bool, Arc<Compiled>)>>,
}

fn ports(declared: &[import::Declared]) -> Vec<Port> {
    let dim = |d: &import::Dim| match d {
        import::Dim::Fixed(n) => Dim::Fixed(*n),
        import::Dim::Symbol(name) => Dim::Symbol(name.clone()),
    };
    let port = |d: &import::Declared| Port {
        name: d.name.clone(),
        dtype: d.dtype,
        dims: d.dims.as_ref().map(|dims| dims.iter().map(dim).collect()),
    };
    declared.iter().map(port).collect()
}

impl Onnx {
    pub fn open(path: &Path, file: Arc<Mmap>, options: Options) -> Result<Onnx, ModelError> {
        let mut signature = import::signature_of(path, &file)?;
        for constant in &options.constants {
            let Given { name, bytes, .. } = constant;
            super::fits(&ports(&signature.inputs), constant)?;
            if bytes.is_none() {
                return Err(ModelError::Call(format!("the input \"{name}\" is to be a constant, but its value is missing")));
            }
        }
        signature.inputs.retain(|d| !options.constants.iter().any(|c| c.name == d.name));
        let (opened, kept) = (Mutex::new(Some(file)), Mutex::new(Vec::new()));
        Ok(Onnx { path: path.to_path_buf(), options, signature, opened, kept })
    }

    pub fn inputs(&self) -> Vec<Port> {
        ports(&self.signature.inputs)
    }

    pub fn outputs(&self) -> Vec<Port> {
        ports(&self.signature.outputs)
    }

    pub fn metadata(&self) -> Vec<(String, String)> {
        self.signature.metadata.clone()
    }

    /// The model made ready for these inputs, `sealed` if that is asked for: a kept form where there is one.
    pub fn compiled(&self, given: &[Given], sealed: bool) -> Result<Arc<Compiled>, ModelError> {
        let value = |g: &Given| Some((g.name.clone(), (g.dtype, g.dims.clone(), g.bytes.clone()?)));
        let values = self.options.constants.iter().filter_map(value).collect();
        let mut key = Key { shapes: BTreeMap::new(), values };
        for g in given {
            key.shapes.insert(g.name.clone(), g.dims.clone());
            let decides = self.signature.inputs.iter().any(|d| d.name == g.name && d.decides);
            key.values.extend(value(g).filter(|_| decides));
        }
        // Sizes may depend on values that were not seen to decide any: then all that are known become constants.
        let mut all = key.clone();
        all.values.extend(given.iter().filter_map(value));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let serves = |(k, is_sealed, _): &(Key, bool, _)| (*k == key || *k == all) && (*is_sealed || !sealed);
        if let Some(i) = kept.iter().position(serves) {
            let found = kept.remove(i);
            kept.push(found.clone());
            return Ok(found.2);
        }
        let symbols = self.symbols(given)?;
        let first_try = all.values.len() > key.values.len();
        let compiled = match self.compile(&key, symbols.clone(), sealed, first_try) {
            Err(ModelError::Node { .. }) if first_try => match self.compile(&all, symbols.clone(), sealed, false) {
                Ok(compiled) => {
                    key = all;
                    compiled
                }
                Err(_) => self.compile(&key, symbols, sealed, false)?,
            },
            compiled => compiled?,
        };
        let compiled = Arc::new(compiled);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((key, sealed, compiled.clone()));
        Ok(compiled)
    }

    /// What symbols stand for, with these inputs. In a stream the number of steps may be left open: the program takes one step
    /// whatever it is.
    fn symbols(&self, given: &[Given]) -> Result<(Point, Vec<(String, Sizes)>), ModelError> {
        let (mut symbols, ranges) = range::settle(&self.options.symbols, &self.inputs(), given)?;
        if self.options.stream {
            if let Some((symbol, sizes)) = ranges.first() {
                let what = format!("a stream takes one step at a time, with state: {symbol} must be one size, not {sizes}");
                return Err(ModelError::Call(what));
            }
            let absent = |d: &&import::Declared| !given.iter().any(|g| g.name == d.name);
            let mut open: Vec<&String> = Vec::new();
            for dim in self.signature.inputs.iter().filter(absent).flat_map(|d| d.dims.iter().flatten()) {
                if let import::Dim::Symbol(name) = dim
                    && !symbols.contains_key(name)
                    && !open.contains(&name)
                {
                    open.push(name);
                }
            }
            if let [steps] = open[..] {
                symbols.insert(steps.clone(), STEPS);
            }
        }
        Ok((symbols, ranges))
    }

    /// Imported and lowered, with symbols of these sizes.
    fn lowered(&self, key: &Key, symbols: Point, first_try: bool) -> Result<Form, ModelError> {
        let options = import::Options { symbols, shapes: key.shapes.clone(), values: key.values.clone(), first_try };
        let start = Instant::now();
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = opened.map_or_else(|| mapped::map(&self.path), Ok)?;
        let imported = import::import_of(&self.path, &file, &options)?;
        drop(file);
        let parsed = start.elapsed();
        let maps = mapped::maps_of(&imported.graph);
        let lowered = lower::lower(imported.graph, &lower::Options { stream: self.options.stream })?;
        // What the host can't evaluate either is refused now, not in the middle of a run.
        for op in lowered.model.programs.iter().flat_map(|p| &p.ops).filter(|op| op.kind == OpKind::Extern) {
            imported.externs.prepare(program::split::<Extern>(&op.attributes)?.0.index)?;
        }
        log::debug!("imported in {parsed:?}, lowered in {:?}", start.elapsed() - parsed);
        Ok(Form { lowered, externs: imported.externs, maps })
    }

    fn compile(
        &self,
        key: &Key,
        (symbols, ranges): (Point, Vec<(String, Sizes)>),
        sealed: bool,
        first_try: bool,
    ) -> Result<Compiled, ModelError> {
        if ranges.is_empty() {
            let Form { lowered, externs, maps } = self.lowered(key, symbols, first_try)?;
            return self.image(key, lowered, Some(Box::new(externs)), &maps, sealed);
        }
        let (mut join, mut first) = (Join::default(), None);
        let points = range::points(&symbols, &ranges)?;
        let threads = parallel::threads_for(u64::MAX);
        // A few at a time: what is lowered holds constants.
        for some in points.chunks(2 * threads) {
            let forms = parallel::each(some.to_vec(), threads, |point| {
                let name = range::name(&point, &ranges);
                let Form { mut lowered, maps, .. } = self.lowered(key, point, first_try)?;
                if let Some(node) = lowered.externs.first() {
                    let what = format!("at {name} only the host can evaluate it ({}): a range must do without", node.reason);
                    return Err(ModelError::node(&node.name, &node.op, what));
                }
                lowered.model.programs.iter_mut().for_each(|program| program.name.clone_from(&name));
                Ok((lowered, maps))
            });
            for form in forms {
                let (mut lowered, maps) = form?;
                let model = std::mem::take(&mut lowered.model);
                releasing(&maps, model, |model| join.add(model))
                    .map_err(|what| ModelError::Format { path: self.path.clone(), what })?;
                first.get_or_insert(lowered);
            }
        }
        let report = first.map_or_else(Vec::new, |lowered| lowered.report);
        self.image(key, Lowered { model: join.finish(), report, externs: Vec::new() }, None, &[], sealed)
    }

    /// The image of a lowered network.
    fn image(
        &self,
        key: &Key,
        lowered: Lowered,
        externs: Option<Box<dyn ops::Externs>>,
        maps: &[Arc<Mmap>],
        sealed: bool,
    ) -> Result<Compiled, ModelError> {
        // What the import needed is freed by now; the weights follow.
        mapped::trim(self.options.lean);
        if self.options.lean {
            maps.iter().for_each(|map| mapped::sparing(map));
            mapped::release_code();
        }
        let start = Instant::now();
        let format = |what: String| ModelError::Format { path: self.path.clone(), what };
        let plan_options = plan::Options { alignment: self.options.alignment, weights_hash: sealed };
        let built = releasing(maps, lowered.model, |model| plan::build(model, &plan_options)).map_err(|e| match e {
            PlanError::Op { name, kind, what } => ModelError::node(name, kind.name(), what),
            PlanError::Program(what) => format(what),
        })?;
        // The bytes were made here, a moment ago: their hashes are not worth reading all weights once more.
        let image = OwnedImage::new(Box::new(built.image), false, externs)?;
        log::debug!("planned, and weights packed, in {:?}", start.elapsed());
        let how = lowered.report.into_iter().map(|op| How { how: op.how, why: op.why }).collect();
        let fixed = key.values.keys().cloned().collect();
        Ok(Compiled { image: Arc::new(image), report: built.report, how, externs: lowered.externs, fixed, program: 0 })
    }
}
