//! Recurrent cells: the part that depends on the previous step. The product with the input, over all steps at once, is a
//! [`Gemm`](super::Gemm) before it.

use super::{Operands, Record, Tile, bad, reach, rounds_of, work};
use crate::error::Result;
use crate::tensor::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Hidden units, rounded up to a whole panel of 16.
pub const fn hidden_padded(hidden: u32) -> u32 {
    hidden.div_ceil(16) * 16
}

/// Sizes and places that all recurrent cells have: the first part of their records.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // sizes, named by what they measure
pub struct Steps {
    pub steps: u32,
    pub batch: u32,
    pub hidden: u32,
    /// 1: the steps are taken from the last to the first.
    pub reverse: u32,
    /// Elements between the pre-activations of one step and the next.
    pub pre_step: u32,
    /// Likewise, of one batch element and the next.
    pub pre_batch: u32,
    /// As `pre_step`, of Y; 0, as is `y_batch`, where there is no Y.
    pub y_step: u32,
    pub y_batch: u32,
    /// Pre-activations are clipped to `-clip..clip`; 0: not.
    pub clip: f32,
}

impl Steps {
    /// Checks what cells have in common: `gates` gates, `states` kinds of state, activation functions.
    fn check(&self, operands: &Operands<'_>, gates: u32, states: usize, activations: &[u32]) -> Result<()> {
        if self.hidden == 0 || self.hidden > 1 << 16 || activations.iter().any(|&a| super::Unary::from_number(a).is_none()) {
            return bad("a recurrent cell has an impossible size or an unknown activation");
        }
        let columns = gates * hidden_padded(self.hidden);
        let (state, h) = (self.batch as u64 * self.hidden as u64, self.hidden);
        let pre = reach(&[(self.steps, self.pre_step), (self.batch, self.pre_batch), (columns, 1)])?;
        operands.reads(0, pre)?;
        operands.reads(1, super::packed_len(h as u64, columns as u64))?;
        match operands.optional_output(0) {
            Some(y) => y.holds(DType::F32, reach(&[(self.steps, self.y_step), (self.batch, self.y_batch), (h, 1)])?)?,
            // Else scratch memory would be missing.
            None if !self.no_y() => return bad("a recurrent cell without Y has strides for it"),
            None => {}
        }
        for i in 0..states {
            operands.optional_input(2 + i).map_or(Ok(()), |o| o.holds(DType::F32, state))?;
            operands.writes(1 + i, state)?;
        }
        Ok(())
    }

    const fn no_y(&self) -> bool {
        self.y_step == 0 && self.y_batch == 0
    }

    /// The old hidden state of one row, where there is no Y to keep it in, and so many rows more.
    const fn scratch(&self, more: u64) -> u64 {
        4 * self.hidden as u64 * (self.no_y() as u64 + more)
    }

    fn macs(&self, gates: u64) -> u64 {
        work(&[self.steps as u64, self.batch as u64, gates, self.hidden as u64, self.hidden as u64])
    }
}

/// The steps of one direction of an LSTM.
///
/// Gates are interleaved by panels: a row of pre-activations is `[ceil(hidden / 16)][gate][16]` with the gates in ONNX's
/// order i, o, f, c, so that one tile of four panels yields all gates of 16 units. R, the recurrent weights, has depth
/// `hidden` and these `4 * hidden_padded` columns, packed as [`packed_len`](super::packed_len) says.
///
/// Inputs: pre-activations X·W + b (`f32`, row of (step, batch) at `step * pre_step + batch * pre_batch`); R; h0
/// `[batch][hidden]` (optional: zeros); c0 (likewise); peepholes `[3][hidden]` in the order i, o, f (optional).
/// Outputs: Y (row of (step, batch) at `step * y_step + batch * y_batch`; optional); last h `[batch][hidden]`; last c.
/// The last two may share their memory with h0 and c0.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Lstm {
    /// Sizes and places.
    pub at: Steps,
    /// 1: the forget gate is 1 - input gate.
    pub coupled: u32,
    /// [`Unary`](super::Unary) functions f (gates), g (cell), h (output).
    pub activations: [u32; 3],
    /// Parameters of each.
    pub p: [[f32; 2]; 3],
}

impl Record for Lstm {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        self.at.check(operands, 4, 2, &self.activations)?;
        operands.optional_input(4).map_or(Ok(()), |o| o.holds(DType::F32, 3 * self.at.hidden as u64))
    }

    /// The old hidden state of one row, where there is no Y to keep it in.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        self.at.scratch(0)
    }

    fn macs(&self) -> u64 {
        self.at.macs(4)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.at.steps, self.at.batch])
    }

    /// A step of a row.
    fn unit_work(&self, _tile: Tile) -> u64 {
        4 * self.at.hidden as u64 * self.at.hidden as u64
    }
}

/// The steps of one direction of a GRU; gates z, r, h, laid out as in [`Lstm`], with three panels to a block.
///
/// Inputs: pre-activations; R; h0 (optional); recurrent bias of the hidden gate `[hidden]` (optional; only with
/// `linear_before_reset`, else it is part of the pre-activations). Outputs: Y (optional); last h.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Gru {
    /// Sizes and places.
    pub at: Steps,
    /// 1: the reset gate applies after the recurrent product, else before it.
    pub linear_before_reset: u32,
    /// [`Unary`](super::Unary) functions f (gates), g (hidden).
    pub activations: [u32; 2],
    /// Parameters of each.
    pub p: [[f32; 2]; 2],
}

impl Record for Gru {
    fn check(&self, _tail: &[u8], operands: &Operands<'_>) -> Result<()> {
        self.at.check(operands, 3, 1, &self.activations)?;
        operands.optional_input(3).map_or(Ok(()), |o| o.holds(DType::F32, self.at.hidden as u64))
    }

    /// As of an [`Lstm`]; the reset state of one row, where the reset gate applies before the product.
    fn scratch(&self, _tail: &[u8]) -> u64 {
        self.at.scratch((self.linear_before_reset == 0) as u64)
    }

    fn macs(&self) -> u64 {
        self.at.macs(3)
    }

    fn rounds(&self) -> u64 {
        rounds_of(&[self.at.steps, self.at.batch])
    }

    /// A step of a row.
    fn unit_work(&self, _tile: Tile) -> u64 {
        3 * self.at.hidden as u64 * self.at.hidden as u64
    }
}
