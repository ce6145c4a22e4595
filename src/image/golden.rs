//! Golden values: an input and the output that belongs to it, stored in the image, so that a device can test itself.
//!
//! They are tensors of the image's first program that no op reads: in the weights, called `kiln.golden/` and the name of the
//! input or output. [`Session::self_test`](crate::Session::self_test) runs the one and compares with the other.

use super::Program;
use super::layout::Place;

/// What the names of golden tensors start with.
const PREFIX: &str = "kiln.golden/";

impl<'a> Program<'a> {
    /// The golden value of an input or output: as many bytes as it has (of an output whose length a run decides, as many as that
    /// run gave it), aligned as the image is.
    pub fn golden(&self, name: &str) -> Option<&'a [u8]> {
        let number = (0..self.tensors.len() as u32).find(|&t| self.tensor(t).name().strip_prefix(PREFIX) == Some(name))?;
        let record = &self.tensors[number as usize];
        let bytes = record.elements() * record.dtype().size();
        (record.place == Place::Weights as u8).then(|| self.weights.get(record.offset as usize..)?.get(..bytes)).flatten()
    }
}

#[cfg(feature = "alloc")]
pub use writing::with_golden;

#[cfg(feature = "alloc")]
mod writing {
    use super::PREFIX;
    use crate::aligned::AlignedBytes;
    use crate::image::layout::{Place, TensorRecord};
    use crate::image::write::{self, OpParts, Parts, ProgramParts};
    use crate::image::{Image, Program, Tensor};
    use crate::program::SLACK;
    use crate::tensor::MAX_RANK;
    use alloc::format;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    /// The same image with golden values for inputs and outputs of its first program, by name.
    ///
    /// # Errors
    /// A message: for a name that is none of the program's inputs and outputs, a value of another length, or an image that
    /// would be larger than its format's limit.
    pub fn with_golden(image: &Image<'_>, golden: &[(&str, &[u8])]) -> Result<AlignedBytes, String> {
        let mut programs: Vec<ProgramParts> = image.programs().map(|program| parts(&program)).collect();
        // Old weights stay where they are: each new one begins at a multiple of the alignment behind them.
        let (old, alignment) = (image.weights.len() - SLACK, image.alignment());
        let (mut end, mut places) = (old, Vec::new());
        let main = image.main();
        for &(name, bytes) in golden {
            let Some(port) = main.inputs().chain(main.outputs()).find(|t| t.name() == name) else {
                return Err(format!("the program has neither an input nor an output \"{name}\""));
            };
            let needed = port.elements() * port.dtype().size();
            let mut record = *port.record;
            if bounded(&port, bytes.len()) {
                // How many elements are there, not in which shape.
                (record.rank, record.dims) = (1, [0; MAX_RANK]);
                record.dims[0] = (bytes.len() / port.dtype().size()) as u32;
            } else if bytes.len() != needed {
                return Err(format!("\"{name}\" has {needed} bytes, its golden value {}", bytes.len()));
            }
            let start = end.next_multiple_of(alignment);
            end = start + bytes.len();
            let offset = u32::try_from(start).map_err(|_| "the image would have more than its format's 4 GiB")?;
            let record = TensorRecord { place: Place::Weights as u8, flags: 0, offset, bytes: bytes.len() as u32, ..record };
            programs[0].tensors.push((record, Some(format!("{PREFIX}{name}"))));
            places.push(start);
        }
        let metadata = image.all_metadata().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let parts = Parts { alignment: alignment as u32, programs, metadata, weights: end as u64 };
        let mut new = write::unsealed(&parts)?;
        let weights = write::weights_mut(&mut new);
        weights[..old].copy_from_slice(&image.weights[..old]);
        for (start, (_, bytes)) in places.into_iter().zip(golden) {
            weights[start..start + bytes.len()].copy_from_slice(bytes);
        }
        write::seal(&mut new);
        Ok(new)
    }

    /// Whether so many bytes can be an output whose length a run decides.
    fn bounded(port: &Tensor<'_>, bytes: usize) -> bool {
        let axes = || (0..port.dims().len()).zip(port.dims());
        let row = axes().filter(|&(axis, _)| !port.is_bounded(axis)).fold(port.dtype().size(), |n, (_, &d)| n * d as usize);
        let whole = port.elements() * port.dtype().size();
        axes().any(|(axis, _)| port.is_bounded(axis)) && bytes <= whole && (bytes == 0 || bytes.is_multiple_of(row))
    }

    fn parts(program: &Program<'_>) -> ProgramParts {
        let name = |t: u32| Some(program.tensor(t).name()).filter(|name| !name.is_empty()).map(ToString::to_string);
        let op = |op: crate::image::OpView<'_>| OpParts {
            kind: op.kind,
            inputs: op.inputs.to_vec(),
            outputs: op.outputs.to_vec(),
            attributes: op.attributes.to_vec(),
            scratch: op.scratch,
        };
        ProgramParts {
            name: program.name().to_string(),
            record: *program.record,
            tensors: program.tensors.iter().zip(0..).map(|(record, t)| (*record, name(t))).collect(),
            ops: program.ops().map(op).collect(),
            inputs: program.inputs.to_vec(),
            outputs: program.output_numbers().to_vec(),
            quantised: program.quantised().to_vec(),
            lengths: program.lengths().to_vec(),
        }
    }
}
