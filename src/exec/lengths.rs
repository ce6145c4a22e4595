//! Outputs whose lengths a run decides: how much of them is there.

use super::{Key, Session};
use crate::error::Result;
use crate::image::layout::{LengthRecord, TensorRecord};
use crate::tensor::Shape;

impl Session<'_> {
    /// The sizes of the output of this name or position, outermost first: those of the image, but for axes
    /// [whose length a run decides](crate::image::Tensor::is_bounded), which have the length that the last run gave them, from 0
    /// to the image's size.
    ///
    /// # Errors
    /// As [`Session::output_bytes`].
    pub fn output_dims(&self, key: impl Key) -> Result<Shape> {
        let (number, t) = self.find_output(key)?;
        let mut dims = t.dims;
        for record in self.lengths(number) {
            if let Some([_, length]) = self.length(record, t) {
                dims[record.axis as usize] = length as u32;
            }
        }
        // A checked tensor has no more axes than a shape may have.
        Ok(Shape::new(&dims[..t.dims().len()]).unwrap_or_default())
    }

    /// The number of elements that are there of an output, when a run is over: no more than its tensor has.
    pub(super) fn elements(&self, number: u32, t: &TensorRecord) -> usize {
        let all = t.elements();
        let part = |n, record| self.length(record, t).map_or(n, |[most, length]| n / most.max(1) * length);
        self.lengths(number).fold(all, part)
    }

    fn lengths(&self, number: u32) -> impl Iterator<Item = &LengthRecord> {
        self.program().lengths().iter().filter(move |record| record.tensor == number)
    }

    /// How long an axis of an output may be and is, when a run is over. What the record says need not have been checked (firmware
    /// leaves that out), and the count is data like any other.
    fn length(&self, record: &LengthRecord, t: &TensorRecord) -> Option<[usize; 2]> {
        let most = *t.dims().get(record.axis as usize)? as usize;
        let count = self.count(self.program().tensors().get(record.count as usize)?)?;
        Some([most, count.clamp(0, most as i64) as usize])
    }
}
