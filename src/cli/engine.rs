//! A model as the commands use it: arrays by name in, arrays by name out.

use super::array::{Array, shape};
use super::{Failure, HostArgs, IsaArgs, ModelArgs, Result, feed};
use crate::exec::{Budget, OwnedSession};
use crate::kernels::Isa;
use crate::model::{Compiled, Dim, Given, Model, Options, Sizes};
use crate::tensor::DType;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// An input or output as the file declares it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes; `None` for one that is not settled.
    pub dims: Vec<Option<usize>>,
    /// The file does not say how many axes there are; `dims` is empty then.
    pub any_rank: bool,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dims.is_empty() {
            return write!(f, "{} {}", self.dtype, if self.any_rank { "of any shape".into() } else { shape(&[]) });
        }
        let dims: Vec<String> = self.dims.iter().map(|d| d.map_or("?".into(), |n| n.to_string())).collect();
        write!(f, "{} {}", self.dtype, dims.join("x"))
    }
}

/// An open model.
pub struct Engine {
    model: Model,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Engine {
    /// Opens a model to run it.
    pub fn open(args: &ModelArgs, isa: Option<Isa>) -> Result<Engine> {
        Engine::open_with(args, Options { isa, ..Options::default() })
    }

    /// Opens a model to run it with so many threads and so much memory.
    pub fn open_on(args: &ModelArgs, isa: &IsaArgs, host: &HostArgs) -> Result<Engine> {
        let (threads, lean) = (host.threads as usize, host.lean);
        Engine::open_with(args, Options { isa: isa.isa, threads, lean, ..Options::default() })
    }

    /// Opens a model; `options` with the symbols of the command line.
    pub fn open_with(args: &ModelArgs, mut options: Options) -> Result<Engine> {
        options.symbols.extend(args.set.iter().cloned());
        options.verify |= args.verify;
        if let Some(constants) = &args.constants {
            options.constants = super::npz::read_npz(constants)?.into_iter().map(constant).collect();
        }
        let symbols = options.symbols.clone();
        let model = Model::open_with(&args.model, options)?;
        let ports = |ports: &[crate::model::Port]| ports.iter().map(|p| port(p, &symbols)).collect::<Result<Vec<_>>>();
        let (inputs, outputs) = (ports(model.inputs())?, ports(model.outputs())?);
        Ok(Engine { model, inputs, outputs })
    }

    /// The value of a metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.model.metadata(key)
    }

    /// Whether the file is an image.
    pub fn is_image(&self) -> bool {
        self.model.is_image()
    }

    /// Inputs, in the file's order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Outputs, in the file's order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The model made ready for inputs of these shapes (and, where shapes of the network depend on them, values).
    pub fn compiled(&self, inputs: &[(String, Array)]) -> Result<Arc<Compiled>> {
        Ok(self.model.compiled(&given(inputs))?)
    }

    /// A session for inputs of these shapes: all inputs of the model.
    pub fn session(&self, inputs: &[(String, Array)]) -> Result<Session> {
        feed::check(&self.inputs, inputs)?;
        let compiled = self.model.ready(&given(inputs), false)?;
        let session = self.model.session_of(&compiled)?;
        Ok(Session { session, compiled, isa: self.model.isa() })
    }
}

/// An input with its value.
fn constant((name, array): (String, Array)) -> Given {
    Given { name, dtype: array.dtype, dims: array.dims, bytes: Some(array.bytes) }
}

/// Inputs as a model is told of them.
fn given(inputs: &[(String, Array)]) -> Vec<Given> {
    let given = |(name, a): &(String, Array)| {
        // What decides a shape is small.
        let small = a.len() <= 4096;
        Given { name: name.clone(), dtype: a.dtype, dims: a.dims.clone(), bytes: small.then(|| a.bytes.clone()) }
    };
    inputs.iter().map(given).collect()
}

/// A port as the file declares it, its symbols replaced where the command line gives them.
fn port(port: &crate::model::Port, symbols: &BTreeMap<String, Sizes>) -> Result<Port> {
    let Some(dtype) = port.dtype else {
        return Err(Failure::new(format!("the tensor \"{}\" is of an element type that is not supported", port.name)));
    };
    let size = |d: &Dim| match d {
        Dim::Fixed(n) => Some(*n),
        Dim::Symbol(name) => symbols.get(name).and_then(|sizes| sizes.one()),
    };
    let dims = port.dims.as_ref().map(|dims| dims.iter().map(size).collect());
    Ok(Port { name: port.name.clone(), dtype, any_rank: dims.is_none(), dims: dims.unwrap_or_default() })
}

/// A model that runs.
pub struct Session {
    session: OwnedSession,
    compiled: Arc<Compiled>,
    isa: Isa,
}

impl Session {
    /// Writes all inputs; a run uses them up.
    pub fn load(&mut self, inputs: &[(String, Array)]) -> Result<()> {
        for (name, array) in inputs {
            // A constant of the network by now: its value decided shapes.
            if self.compiled.fixed.contains(name) {
                continue;
            }
            let to = self.session.input_bytes(name.as_str())?;
            if to.len() != array.bytes.len() {
                let (want, is) = (to.len(), array.bytes.len());
                return Err(Failure::new(format!(
                    "input \"{name}\": the model wants {want} bytes, it is given {is} ({array:?})"
                )));
            }
            to.copy_from_slice(&array.bytes);
        }
        Ok(())
    }

    /// Runs once.
    pub fn run(&mut self) -> Result<()> {
        Ok(self.session.run()?)
    }

    /// Makes ready what a second run would begin with.
    pub fn derive(&mut self) {
        self.session.derive();
    }

    /// Ops of a run.
    pub fn ops(&self) -> usize {
        self.compiled.report.programs.first().map_or(0, |p| p.ops.len())
    }

    /// Runs the next op; the first, after inputs were written.
    pub fn step(&mut self) -> Result<()> {
        self.session.run_slice(Budget::op())?;
        Ok(())
    }

    /// Goes over to the program for inputs of these shapes, with a fresh state.
    pub fn choose(&mut self, inputs: &[(String, Array)]) -> Result<()> {
        let given = inputs.iter().filter(|(name, _)| !self.compiled.fixed.contains(name));
        let shapes: Vec<(&str, &[usize])> = given.map(|(name, array)| (name.as_str(), &*array.dims)).collect();
        Ok(self.session.choose_for(&shapes)?)
    }

    /// Starts a stream anew.
    pub fn reset(&mut self) {
        self.session.reset();
    }

    /// An output of the last run, in the shape that this run gave it.
    pub fn output(&self, name: &str) -> Result<Array> {
        let Some(tensor) = self.session.program().outputs().find(|t| t.name() == name) else {
            return Err(Failure::new(format!("the compiled model has no output \"{name}\"")));
        };
        let dims = self.session.output_dims(name)?.iter().map(|&d| d as usize).collect();
        Ok(Array { dtype: tensor.dtype(), dims, bytes: self.session.output_bytes(name)?.to_vec() })
    }

    /// All outputs of the last run, in the model's order.
    pub fn outputs(&self) -> Result<Vec<(String, Array)>> {
        let program = self.session.program();
        program.outputs().map(|t| Ok((t.name().to_string(), self.output(t.name())?))).collect()
    }

    /// The instruction set it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Op types of the nodes that the host evaluates.
    pub fn externs(&self) -> Vec<String> {
        self.compiled.externs.iter().map(|e| e.op.clone()).collect()
    }

    /// Bytes of its arena.
    pub fn arena_bytes(&self) -> usize {
        self.session.program().arena_bytes()
    }
}
