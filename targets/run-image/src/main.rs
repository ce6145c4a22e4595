//! `run-image IMAGE` lists inputs and outputs: name, element type, sizes. `run-image IMAGE INPUTS OUTPUTS [ISA]` runs it twice:
//! INPUTS holds the bytes of all inputs, one after the other; OUTPUTS gets those of all outputs. The second run lies between
//! the marks that `targets/count` counts between.

use kiln::kernels::Isa;
use kiln::model::Options;
use kiln::{Model, OwnedSession};
use std::error::Error;

mod marks;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (image, inputs, outputs, isa) = match &arguments[..] {
        [image] => return describe(image),
        [image, inputs, outputs] => (image, inputs, outputs, Isa::detect()),
        [image, inputs, outputs, isa] => (image, inputs, outputs, Isa::from_name(isa)?),
        _ => return Err("run-image IMAGE INPUTS OUTPUTS [ISA]".into()),
    };
    println!("isa {}", isa.name());
    let mut session = Model::open_with(image, Options { isa: Some(isa), ..Options::default() })?.session()?;
    let given = std::fs::read(inputs)?;
    fill(&mut session, &given)?;
    session.run()?;
    session.reset();
    fill(&mut session, &given)?;
    marks::region_begin();
    session.run()?;
    marks::region_end();
    let mut answers = Vec::new();
    for i in 0..session.program().outputs().len() {
        answers.extend_from_slice(session.output_bytes(i)?);
    }
    Ok(std::fs::write(outputs, answers)?)
}

fn describe(image: &str) -> Result<(), Box<dyn Error>> {
    let session = Model::open(image)?.session()?;
    let program = session.program();
    let line = |what: &str, t: kiln::image::Tensor<'_>| println!("{what}\t{}\t{:?}\t{:?}", t.name(), t.dtype(), t.dims());
    program.inputs().for_each(|t| line("input", t));
    program.outputs().for_each(|t| line("output", t));
    Ok(())
}

/// An input's memory serves other tensors during a run: it is filled before each.
fn fill(session: &mut OwnedSession, mut given: &[u8]) -> Result<(), Box<dyn Error>> {
    let inputs = session.program().inputs().len();
    for i in 0..inputs {
        let input = session.input_bytes(i)?;
        let Some((bytes, rest)) = given.split_at_checked(input.len()) else {
            return Err(format!("INPUTS ends before input {i}, which has {} bytes", input.len()).into());
        };
        input.copy_from_slice(bytes);
        given = rest;
    }
    if given.is_empty() { Ok(()) } else { Err(format!("INPUTS has {} bytes too many", given.len()).into()) }
}
