//! Programs of one network at several sizes, joined to one model: weights that come out the same are kept once, and one that is
//! the start of another (the first rows of a table of positions) is a part of it.
//!
//! Sizes decide how a weight is packed, and constants may hang on them: so what is shared is found by looking at the packed bytes,
//! not by where they came from. The largest size comes first, so that others find their parts in it.

use super::draft::{Draft, Job, Model, Storage, Weight, WeightId};
use crate::image::hash;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// A weight that has been packed.
struct Packed {
    name: String,
    content: Vec<u8>,
}

/// Bytes by which weights are looked up.
const START: usize = 64;

/// A model that grows by programs.
#[derive(Default)]
pub struct Join {
    programs: Vec<Draft>,
    weights: Vec<Packed>,
    /// By the hash of their first bytes.
    known: BTreeMap<u64, Vec<WeightId>>,
    metadata: Vec<(String, String)>,
}

impl Join {
    /// Adds a model's programs. Metadata are those of the first.
    ///
    /// # Errors
    /// A message, when a weight can't be packed.
    pub fn add(&mut self, model: Model) -> Result<(), String> {
        let mut numbers = Vec::with_capacity(model.weights.len());
        for weight in model.weights {
            numbers.push(self.weight(weight)?);
        }
        for mut program in model.programs {
            for value in &mut program.values {
                if let Storage::Weight(id) = &mut value.storage {
                    // One that the model lacks stays so, and is told of when the image is built.
                    *id = numbers.get(id.0 as usize).copied().unwrap_or(WeightId(u32::MAX));
                }
            }
            if self.programs.is_empty() {
                self.metadata.clone_from(&model.metadata);
            }
            self.programs.push(program);
        }
        Ok(())
    }

    fn weight(&mut self, weight: Weight) -> Result<WeightId, String> {
        let name = weight.name.clone();
        let mut content = alloc::vec![0; weight.bytes as usize];
        weight.jobs(&mut content)?.into_iter().try_for_each(Job::run)?;
        let mut start = [0; START];
        let shown = content.len().min(START);
        start[..shown].copy_from_slice(&content[..shown]);
        let same = self.known.entry(hash(&start)).or_default();
        if let Some(&id) = same.iter().find(|id| self.weights[id.0 as usize].content.starts_with(&content)) {
            return Ok(id);
        }
        let id = WeightId(self.weights.len() as u32);
        same.push(id);
        self.weights.push(Packed { name, content });
        Ok(id)
    }

    /// The model.
    pub fn finish(self) -> Model {
        let weight = |Packed { name, content }: Packed| {
            Weight::whole(name, content.len() as u64, move |to| {
                to.copy_from_slice(&content);
                Ok(())
            })
        };
        Model { programs: self.programs, weights: self.weights.into_iter().map(weight).collect(), metadata: self.metadata }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::draft::{Value, ValueId};
    use crate::tensor::DType;
    use alloc::boxed::Box;

    fn weight(bytes: &'static [u8]) -> Weight {
        let pack = move |to: &mut [u8]| {
            to.copy_from_slice(bytes);
            Ok(())
        };
        Weight::whole("w".into(), bytes.len() as u64, pack)
    }

    /// A program that yields two weights.
    fn model(weights: [&'static [u8]; 2]) -> Model {
        let value = |i: u32| Value {
            name: format!("y{i}"),
            dtype: DType::U8,
            dims: alloc::vec![weights[i as usize].len() as u32],
            storage: Storage::Weight(WeightId(i)),
            bytes: weights[i as usize].len() as u64,
        };
        let draft = Draft {
            name: "main".into(),
            values: alloc::vec![value(0), value(1)],
            outputs: alloc::vec![ValueId(0), ValueId(1)],
            ..Draft::default()
        };
        Model { programs: alloc::vec![draft], weights: weights.map(weight).into(), metadata: Vec::new() }
    }

    #[test]
    fn equal_weights_and_their_starts_are_kept_once() {
        let long: &'static [u8] = &[7; 100];
        let mut join = Join::default();
        join.add(model([b"abcd\0", long])).unwrap();
        join.add(model([&long[..80], b"abcd"])).unwrap();
        join.add(model([b"wxyz", b"abcd\0"])).unwrap();
        let joined = join.finish();
        let of = |program: usize| joined.programs[program].values.iter().map(|v| v.storage).collect::<Vec<_>>();
        let at = |i: u32| Storage::Weight(WeightId(i));
        assert_eq!(of(0), [at(0), at(1)]);
        assert_eq!(of(1), [at(1), at(0)]);
        assert_eq!(of(2), [at(2), at(0)]);
        let built = crate::plan::build(joined, &crate::plan::Options::default()).unwrap();
        assert_eq!(built.report.weight_bytes, 5 + 100 + 4);
    }

    #[test]
    fn a_weight_that_can_not_be_packed_is_named() {
        let mut model = model([b"a", b"b"]);
        model.weights[1].pieces[0].pack = Box::new(|_| Err("it is torn".into()));
        assert_eq!(Join::default().add(model).unwrap_err(), "weight \"w\": it is torn");
    }
}
