//! Outputs whose lengths a run decides: how much of them is there.

use super::{Key, Session};
use crate::error::Result;
use crate::image::layout::TensorRecord;
use crate::tensor::{MAX_RANK, Shape};

impl Session<'_> {
    /// The sizes of the output of this name or position, outermost first: those of the image, but for axes
    /// [whose length a run decides](crate::image::Tensor::is_bounded), which have the length that the last run gave them, from 0
    /// to the image's size.
    ///
    /// # Errors
    /// As [`Session::output_bytes`].
    pub fn output_dims(&self, key: impl Key) -> Result<Shape> {
        let (number, t) = self.find_output(key)?;
        let dims = self.sizes(number, t);
        // A checked tensor has no more axes than a shape may have.
        Ok(Shape::new(&dims[..t.dims().len()]).unwrap_or_default())
    }

    /// The number of elements that are there of an output, when a run is over: no more than its tensor has.
    pub(super) fn elements(&self, number: u32, t: &TensorRecord) -> usize {
        TensorRecord { dims: self.sizes(number, t), ..*t }.elements()
    }

    /// The sizes of an output when a run is over.
    fn sizes(&self, number: u32, t: &TensorRecord) -> [u32; MAX_RANK] {
        let mut dims = t.dims;
        for record in self.program().lengths().iter().filter(|record| record.tensor == number) {
            let most = &mut dims[record.axis as usize];
            let count = &self.program().tensors()[record.count as usize];
            // A count is data like any other: the check can't know it.
            if let Some(&count) = self.bytes(count).first_chunk() {
                *most = i64::from_le_bytes(count).clamp(0, *most as i64) as u32;
            }
        }
        dims
    }
}
