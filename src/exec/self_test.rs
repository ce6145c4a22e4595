//! The self-test: the image's golden input, run and compared with its golden output.

use super::Session;
use crate::error::{Error, Kind, Result, Where};
use crate::tensor::DType;

/// How far a float may be from its golden value, as a part of the output's largest: instruction sets round differently, and a
/// broken memory or a wrong kernel is off by more.
const TOLERANCE: f32 = 1e-3;

impl Session<'_> {
    /// Runs the image's [golden](crate::image::golden) input and compares with its golden output: floats within a thousandth of
    /// the output's largest, all else exactly. State and inputs are afterwards as after a [`reset`](Session::reset).
    ///
    /// # Errors
    /// [`Kind::NotFound`] when the image has no golden value of an input or of any output; [`Kind::SelfTest`] with the
    /// output's number; what [`run`](Session::run) returns.
    pub fn self_test(&mut self) -> Result<()> {
        let tested = self.run_golden();
        self.reset();
        tested
    }

    fn run_golden(&mut self) -> Result<()> {
        let program = *self.program();
        let missing = Error::new(Kind::NotFound, "the image has no golden values: compile it with --golden");
        self.reset();
        // Outputs first: an image that has none is known before a run.
        program.outputs().find_map(|t| program.golden(t.name())).ok_or(missing)?;
        for (i, t) in program.inputs().enumerate() {
            let golden = program.golden(t.name()).ok_or(missing)?;
            let input = self.input_bytes(i)?;
            if golden.len() != input.len() {
                return Err(Error::new(Kind::SelfTest, "the image's golden value is of another size than the input"));
            }
            input.copy_from_slice(golden);
        }
        self.run()?;
        for ((i, t), &number) in program.outputs().enumerate().zip(program.output_numbers()) {
            let Some(golden) = program.golden(t.name()) else { continue };
            if !near(t.dtype(), self.output_bytes(i)?, golden) {
                let error = Error::new(Kind::SelfTest, "the self-test gave another answer than the image says is right");
                return Err(error.at(Where::Tensor(number)));
            }
        }
        Ok(())
    }
}

fn near(dtype: DType, got: &[u8], want: &[u8]) -> bool {
    if dtype != DType::F32 {
        return got == want;
    }
    let largest = floats(want).fold(0.0f32, |most, x| most.max(x.abs()));
    let tolerance = TOLERANCE * largest;
    // Written so that a NaN is near to none but the same bits. An infinity is near to itself only.
    let close = |a: f32, b: f32| a.to_bits() == b.to_bits() || (b.is_finite() && (a - b).abs() <= tolerance);
    got.len() == want.len() && floats(got).zip(floats(want)).all(|(a, b)| close(a, b))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn near_is_a_thousandth_of_the_largest() {
        let want = [10.0f32, 0.0, -1.0];
        let test = |got: [f32; 3]| near(DType::F32, got.as_bytes(), want.as_bytes());
        assert!(test(want));
        assert!(test([10.009, 0.009, -1.009]));
        assert!(!test([10.0, 0.011, -1.0]));
        assert!(!test([10.0, f32::NAN, -1.0]));
        assert!(!test([f32::INFINITY, 0.0, -1.0]));
    }

    #[test]
    fn all_but_floats_are_exact() {
        assert!(near(DType::I64, &7i64.to_le_bytes(), &7i64.to_le_bytes()));
        assert!(!near(DType::I64, &7i64.to_le_bytes(), &8i64.to_le_bytes()));
    }
}
