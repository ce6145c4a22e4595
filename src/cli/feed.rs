//! From what a user gives to the inputs of a run: files of arrays, or a text, picture or sound by the model's front end.

use super::array::{Array, shape};
use super::engine::{Engine, Port};
use super::{Failure, Result, media, npz};
use crate::frontend::text::UNKNOWN;
use crate::frontend::{Frontend, Picture, Source, Text};
use crate::tensor::DType;
use std::path::{Path, PathBuf};

/// The inputs of one run, by name.
pub type Inputs = Vec<(String, Array)>;

/// Names as messages show them.
pub fn names(ports: &[Port]) -> String {
    ports.iter().map(|p| format!("\"{}\"", p.name)).collect::<Vec<_>>().join(", ")
}

/// Reads `--inputs` and `--input`.
pub fn files(all: Option<&PathBuf>, each: &[(String, String)]) -> Result<Inputs> {
    let mut inputs = all.map_or(Ok(Vec::new()), |path| npz::read_npz(path))?;
    for (name, file) in each {
        if inputs.iter().any(|(other, _)| other == name) {
            return Err(Failure::new(format!("input \"{name}\" is given twice")));
        }
        inputs.push((name.clone(), npz::read_npy(Path::new(file))?));
    }
    Ok(inputs)
}

/// Checks that the inputs are those of the model: every name once, element types and shapes as it wants them.
pub fn check(ports: &[Port], inputs: &[(String, Array)]) -> Result<()> {
    for (name, array) in inputs {
        let Some(port) = ports.iter().find(|p| p.name == *name) else {
            return Err(Failure::new(format!("\"{name}\" is no input of the model; its inputs are {}", names(ports))));
        };
        let fits = |dims: &[Option<usize>]| {
            port.any_rank
                || dims.len() == array.dims.len() && dims.iter().zip(&array.dims).all(|(want, &d)| want.is_none_or(|n| n == d))
        };
        if port.dtype != array.dtype || !fits(&port.dims) {
            return Err(Failure::new(format!("input \"{name}\": the model wants {port}, it is given {array:?}")));
        }
    }
    match ports.iter().find(|p| !inputs.iter().any(|(name, _)| *name == p.name)) {
        Some(missing) => Err(Failure::new(format!("input \"{}\" ({missing}) is missing", missing.name))),
        None => Ok(()),
    }
}

/// How a model's front end makes an input.
pub struct Maker<'a> {
    front: Frontend<'a>,
    port: Port,
    /// The model is streamed: an input is fed one element with each run.
    stream: bool,
}

impl<'a> Maker<'a> {
    /// The front end of a model; an error where it has none.
    pub fn new(engine: &'a Engine) -> Result<Maker<'a>> {
        let front = Frontend::read(|key| engine.metadata(key))?;
        let Some(front) = front else {
            return Err(Failure::new(
                "the model does not say how to read a text, picture or sound (its metadata lack kiln.frontend): give --input or --inputs",
            ));
        };
        let ports = engine.inputs();
        let port = match front.input {
            Some(name) => ports.iter().find(|p| p.name == name),
            None => ports.first(),
        };
        let Some(port) = port.cloned() else {
            return Err(Failure::new(format!("the metadata's kiln.input is none of the model's inputs: {}", names(ports))));
        };
        Ok(Maker { front, port, stream: engine.metadata("kiln.stream").is_some() })
    }

    /// The front end.
    pub fn front(&self) -> &Frontend<'a> {
        &self.front
    }

    /// What a user types: a text, or the path of a picture, of a sound, or of an `.npy` file with raw pixels. One set of inputs a
    /// run: several for a stream.
    pub fn make(&self, given: &str) -> Result<Vec<Inputs>> {
        match &self.front.source {
            Source::Text(text) => self.text(text, given),
            Source::Image(picture) if given.ends_with(".npy") => {
                let pixels = npz::read_npy(Path::new(given))?;
                let values: Vec<f32> = pixels.values().map(|x| x as f32).collect();
                self.pixels(picture, &values)
            }
            Source::Image(picture) => {
                let pixels: Vec<f32> = media::pixels(Path::new(given), picture)?.into_iter().map(f32::from).collect();
                self.pixels(picture, &pixels)
            }
            Source::Sound(sound) => {
                let samples = media::samples(Path::new(given), sound)?;
                let mut values = vec![0.0f32; if sound.length > 0 { sound.length } else { samples.len() }];
                sound.fill(&samples, &mut values);
                self.values(values.iter().map(|&x| x as f64))
            }
        }
    }

    /// The samples of a file, each with the inputs of its runs: the lines of a text file, or the first axis of an `.npy`
    /// file of raw pixels.
    pub fn each(&self, path: &Path) -> Result<Vec<Vec<Inputs>>> {
        match &self.front.source {
            Source::Text(text) => {
                let lines =
                    std::fs::read_to_string(path).map_err(|source| crate::ModelError::File { path: path.into(), source })?;
                lines.lines().map(|line| self.text(text, line)).collect()
            }
            Source::Image(picture) => {
                let all = npz::read_npy(path)?;
                let values: Vec<f32> = all.values().map(|x| x as f32).collect();
                let size = picture.elements();
                if all.dims.is_empty() || all.dims[0] * size != values.len() {
                    let (w, h, c) = (picture.width, picture.height, picture.channels);
                    let found = shape(&all.dims);
                    return Err(Failure::new(format!(
                        "{}: it is {found}, the model wants pictures of {h}x{w}x{c}, one after the other",
                        path.display()
                    )));
                }
                values.chunks(size).map(|pixels| self.pixels(picture, pixels)).collect()
            }
            Source::Sound(_) => Err(Failure::new("--each reads texts (.txt) and pictures (.npy), the model takes sounds")),
        }
    }

    fn text(&self, text: &Text<'_>, given: &str) -> Result<Vec<Inputs>> {
        if self.stream {
            // Without padding: a step is a word, and a text without one is one unknown word.
            let mut ids: Vec<u32> = text.ids(given).collect();
            if ids.is_empty() {
                ids.push(UNKNOWN);
            }
            if text.length() > 0 {
                ids.truncate(text.length());
            }
            let steps = ids.into_iter().map(|id| self.values(std::iter::once(id as f64)));
            return Ok(steps.collect::<Result<Vec<_>>>()?.concat());
        }
        let mut ids = vec![0u32; text.room(given)];
        text.fill(given, &mut ids);
        self.values(ids.into_iter().map(f64::from))
    }

    fn pixels(&self, picture: &Picture, pixels: &[f32]) -> Result<Vec<Inputs>> {
        let mut values = vec![0.0; picture.elements()];
        picture.fill(pixels, &mut values)?;
        self.values(values.into_iter().map(f64::from))
    }

    /// Values in the shape of the input.
    fn values(&self, values: impl ExactSizeIterator<Item = f64>) -> Result<Vec<Inputs>> {
        let port = &self.port;
        let count = values.len();
        let dims = fit(&port.dims, count).ok_or_else(|| {
            Failure::new(format!(
                "input \"{}\": the model wants {port}, but what was given makes {count} elements: give as much as the model \
                 wants, or compile it for this size (--set) or as a stream (--stream)",
                port.name
            ))
        })?;
        let array = Array::from_f64(port.dtype, &dims, values).ok_or_else(|| {
            Failure::new(format!("input \"{}\" is of type {}, which a front end can't write", port.name, port.dtype))
        })?;
        Ok(vec![vec![(port.name.clone(), array)]])
    }
}

/// The shape of so many elements: the last size that is not settled takes them all, the others become 1.
fn fit(dims: &[Option<usize>], elements: usize) -> Option<Vec<usize>> {
    let settled: usize = dims.iter().flatten().product();
    let mut out: Vec<usize> = dims.iter().map(|d| d.unwrap_or(1)).collect();
    if let Some(last) = dims.iter().rposition(Option::is_none) {
        out[last] = elements.checked_div(settled)?;
    }
    (out.iter().product::<usize>() == elements).then_some(out)
}

/// Inputs for a benchmark where none are given: values in -1..1 that repeat from run to run; 0 for integers, which may be
/// indices. Sizes that are not settled become 1.
pub fn invent(ports: &[Port]) -> Result<Inputs> {
    let mut seed = 1u32;
    let mut inputs = Inputs::new();
    for port in ports {
        let dims: Vec<usize> = port.dims.iter().map(|d| d.unwrap_or(1)).collect();
        let count = dims.iter().product::<usize>();
        let array = match port.dtype {
            DType::F32 | DType::F64 => Array::from_f64(
                port.dtype,
                &dims,
                (0..count).map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 8) as f64 / (1 << 23) as f64 - 1.0
                }),
            ),
            _ => Some(Array { dtype: port.dtype, bytes: vec![0; count * port.dtype.size()], dims }),
        };
        inputs.extend(array.map(|a| (port.name.clone(), a)));
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, dtype: DType, dims: &[Option<usize>]) -> Port {
        Port { name: name.into(), dtype, dims: dims.to_vec(), any_rank: false }
    }

    #[test]
    fn the_last_open_size_takes_all_elements() {
        assert_eq!(fit(&[None, None], 7), Some(vec![1, 7]));
        assert_eq!(fit(&[Some(1), None], 7), Some(vec![1, 7]));
        assert_eq!(fit(&[None, Some(1), Some(28), Some(28)], 784), Some(vec![1, 1, 28, 28]));
        assert_eq!(fit(&[Some(1), Some(8)], 7), None);
        assert_eq!(fit(&[None, Some(0)], 7), None);
        assert_eq!(fit(&[], 1), Some(vec![]));
    }

    #[test]
    fn wrong_inputs_are_named() {
        let ports = [port("x", DType::F32, &[Some(1), None]), port("n", DType::I64, &[])];
        let x = ("x".to_string(), Array::new(&[1, 2], &[1f32, 2.0]));
        let n = ("n".to_string(), Array::new(&[], &[1i64]));
        let message = |inputs: &[(String, Array)]| match check(&ports, inputs) {
            Err(Failure::Message(m)) => m,
            _ => String::new(),
        };
        assert!(check(&ports, &[x.clone(), n.clone()]).is_ok());
        assert_eq!(message(std::slice::from_ref(&x)), "input \"n\" (int64 scalar) is missing");
        let shape = ("x".to_string(), Array::new(&[2, 1], &[1f32, 2.0]));
        assert_eq!(message(&[shape, n.clone()]), "input \"x\": the model wants float32 1x?, it is given float32 2x1");
        let dtype = ("x".to_string(), Array::new(&[1, 1], &[1f64]));
        assert_eq!(message(&[dtype, n.clone()]), "input \"x\": the model wants float32 1x?, it is given float64 1x1");
        let name = ("y".to_string(), n.1.clone());
        assert_eq!(message(&[name]), "\"y\" is no input of the model; its inputs are \"x\", \"n\"");
    }
}
