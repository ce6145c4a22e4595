//! The certificate: what an image asks of a device, known before it is flashed, and the budgets that it is held against.
//!
//! All of it is read from the image (and from the planner's [`Report`], which knows the names of ONNX nodes): memory from the
//! header, work from the ops' records. Nothing is run or timed.
//!
//! The stack depends on core, compiler and options, and an image knows none of them. So what is said of it is what each kind of op
//! took where it was measured ([`MEASURED_ON`](stacks::MEASURED_ON)), by painting; `targets/cortex-m` writes that table, and holds the
//! networks that it runs to these bounds. Elsewhere, and with evaluators that are not the general ones, it is a guide.

pub mod stacks;

use crate::image::Image;
use crate::image::layout::{Place, TensorRecord};
use crate::plan::Report;
use crate::program::OpKind;
use crate::program::cut::Tile;
use crate::tensor::DType;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What an image asks of a device.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Bytes of the image: what it takes of the flash.
    pub image_bytes: u64,
    /// Bytes of weights among them, without padding.
    pub weight_bytes: u64,
    /// Alignment of image and arenas, in bytes.
    pub alignment: u64,
    /// Its programs, each with an arena of its own; there is at least one.
    pub programs: Vec<ProgramCertificate>,
}

/// What a program asks.
#[derive(Clone, Debug)]
pub struct ProgramCertificate {
    /// Its name.
    pub name: String,
    /// Bytes of its arena: all the memory of a session but the session itself.
    pub arena_bytes: u64,
    /// Bytes of it that are state, kept from run to run.
    pub state_bytes: u64,
    /// The largest scratch memory of one op; in the arena, where nothing is live.
    pub scratch_bytes: u64,
    /// The largest sum of tensors that are live at one time: the least that any plan could need.
    pub live_bytes: u64,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// The longest slice: the most work that [`Session::run_slice`](crate::Session::run_slice) does before it looks at its budget,
    /// with tiles of [`TILE`].
    pub unit_work: u64,
    /// Bytes of stack of one run, at most: those of the op that takes most.
    pub stack_bytes: u64,
    /// Its ops, in the order in which they run.
    pub ops: Vec<OpCertificate>,
}

/// What an op asks.
#[derive(Clone, Debug)]
pub struct OpCertificate {
    /// The ONNX nodes that it computes, joined by `+`; its number, where the model was opened as an image.
    pub name: String,
    /// Its kind.
    pub kind: OpKind,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Work of its largest unit: multiply-accumulates, or elements where it has none of these.
    pub unit_work: u64,
    /// Bytes of the weights that it reads.
    pub weight_bytes: u64,
    /// Bytes of the arena that it uses: operands (those that share memory once) and scratch.
    pub arena_bytes: u64,
    /// Bytes of stack that an op of this kind takes, at most, and the loop over ops: see [`stacks`]. An extern op takes the host's.
    pub stack_bytes: u64,
    /// Whether it computes with floating-point numbers: a core without an FPU does so in software.
    pub float: bool,
}

/// The tiles that work units are reckoned by: the largest of those that kernels of a Cortex-M take, with an FPU or without.
pub const TILE: Tile = Tile::SCALAR;

impl Certificate {
    /// The certificate of an image; `report` is its planner's, or [`report_of`](crate::plan::report_of).
    pub fn new(image: &Image<'_>, report: &Report) -> Certificate {
        let program = |(i, p): (usize, crate::image::Program<'_>)| {
            let names = report.programs.get(i).map_or(&[][..], |r| &r.ops);
            let op = |(j, op): (usize, crate::image::OpView<'_>)| {
                let operands = || op.inputs.iter().chain(op.outputs).filter_map(|&t| p.tensors().get(t as usize));
                let within = |place: Place| operands().filter(move |t| t.place == place as u8);
                let range = |t: &TensorRecord| (t.offset as u64, t.offset as u64 + t.bytes as u64);
                let scratch = crate::program::scratch(op.kind, op.attributes).unwrap_or(0);
                let scratch = (op.scratch as u64, op.scratch as u64 + scratch);
                OpCertificate {
                    name: names.get(j).map_or_else(String::new, |r| r.name.clone()),
                    kind: op.kind,
                    macs: crate::program::macs(op.kind, op.attributes).unwrap_or(0),
                    unit_work: crate::program::unit_work(op.kind, op.attributes, TILE).unwrap_or(0),
                    weight_bytes: covered(within(Place::Weights).map(range).collect()),
                    arena_bytes: covered(within(Place::Arena).map(range).chain([scratch]).collect()),
                    stack_bytes: stacks::of(op.kind).unwrap_or(0),
                    float: computes(op.kind) && operands().any(is_float),
                }
            };
            let ops: Vec<OpCertificate> = p.ops().enumerate().map(op).collect();
            ProgramCertificate {
                name: p.name().into(),
                arena_bytes: p.arena_bytes() as u64,
                state_bytes: p.state_bytes() as u64,
                scratch_bytes: p.scratch_bytes() as u64,
                live_bytes: p.live_bytes() as u64,
                macs: p.macs(),
                unit_work: p.largest_unit(TILE).0,
                stack_bytes: ops.iter().map(|op| op.stack_bytes).max().unwrap_or(0),
                ops,
            }
        };
        Certificate {
            image_bytes: image.bytes() as u64,
            weight_bytes: report.weight_bytes,
            alignment: image.alignment() as u64,
            programs: image.programs().enumerate().map(program).collect(),
        }
    }

    /// What is beyond these budgets: nothing, if all is well.
    pub fn beyond(&self, budgets: &Budgets) -> Vec<Excess> {
        let mut found = Vec::new();
        let mut judge = |resource, limit: Option<u64>, actual, program: &ProgramCertificate, share: fn(&OpCertificate) -> u64| {
            if let Some(limit) = limit.filter(|&limit| actual > limit) {
                // Of equals, the first.
                let most = program.ops.iter().enumerate().rev().max_by_key(|(_, op)| share(op));
                let most = most.map(|(i, op)| Share { op: i, kind: op.kind, name: op.name.clone(), amount: share(op) });
                found.push(Excess { resource, program: program.name.clone(), limit, actual, most });
            }
        };
        for (i, program) in self.programs.iter().enumerate() {
            judge(Resource::Arena, budgets.arena, program.arena_bytes, program, |op| op.arena_bytes);
            judge(Resource::Macs, budgets.macs, program.macs, program, |op| op.macs);
            judge(Resource::Slice, budgets.slice, program.unit_work, program, |op| op.unit_work);
            judge(Resource::Stack, budgets.stack, program.stack_bytes, program, |op| op.stack_bytes);
            if i == 0 {
                judge(Resource::Flash, budgets.flash, self.image_bytes, program, |op| op.weight_bytes);
            }
        }
        found
    }
}

/// Bytes that these ranges cover.
fn covered(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort();
    let add = |(sum, at): (u64, u64), (from, to): (u64, u64)| (sum + to.saturating_sub(from.max(at)), at.max(to));
    ranges.into_iter().fold((0, 0), add).0
}

/// Whether a kind of op computes with its operands, rather than moving them as they are.
fn computes(kind: OpKind) -> bool {
    !matches!(kind, OpKind::Copy | OpKind::Gather | OpKind::GatherNd | OpKind::Window)
}

fn is_float(t: &TensorRecord) -> bool {
    matches!(t.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// Upper limits; `None` for what may be as large as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Bytes of a program's arena.
    pub arena: Option<u64>,
    /// Bytes of the image.
    pub flash: Option<u64>,
    /// Multiply-accumulates of a run.
    pub macs: Option<u64>,
    /// Work of the longest slice of a run.
    pub slice: Option<u64>,
    /// Bytes of stack of a run.
    pub stack: Option<u64>,
}

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A program's arena.
    Arena,
    /// The image.
    Flash,
    /// A run's multiply-accumulates.
    Macs,
    /// The longest slice of a run.
    Slice,
    /// The stack of a run.
    Stack,
}

/// A budget that is exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Of what.
    pub resource: Resource,
    /// The program.
    pub program: String,
    /// What is allowed.
    pub limit: u64,
    /// What it is.
    pub actual: u64,
    /// The op that has most of it.
    pub most: Option<Share>,
}

/// What an op has of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its number.
    pub op: usize,
    /// Its kind.
    pub kind: OpKind,
    /// The ONNX nodes that it computes.
    pub name: String,
    /// Its share: bytes of operands and scratch, of weights, or multiply-accumulates.
    pub amount: u64,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (actual, limit) = (self.actual, self.limit);
        match self.resource {
            Resource::Arena => write!(f, "the arena is {actual} bytes, more than {limit}")?,
            Resource::Flash => write!(f, "the image is {actual} bytes, more than {limit}")?,
            Resource::Macs => write!(f, "a run is {actual} multiply-accumulates, more than {limit}")?,
            Resource::Slice => write!(f, "the longest slice of a run is {actual} multiply-accumulates, more than {limit}")?,
            Resource::Stack => {
                write!(f, "a run takes {actual} bytes of stack, more than {limit} (measured on a {})", stacks::MEASURED_ON)?;
            }
        }
        let Some(Share { op, kind, name, amount }) = &self.most else { return Ok(()) };
        write!(f, "; op {op} ({}, \"{name}\") has most, ", kind.name())?;
        match self.resource {
            Resource::Arena => write!(f, "{amount}: make its tensors smaller, or stream a model that runs over time"),
            Resource::Flash => write!(f, "{amount} of weights: give it fewer channels or rows"),
            Resource::Macs => write!(f, "{amount}: give it fewer channels or a smaller map"),
            Resource::Slice => write!(f, "{amount} in one unit: give it fewer channels"),
            Resource::Stack => write!(f, "{amount}: replace ops of this kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(kind: OpKind, macs: u64, weight_bytes: u64, arena_bytes: u64) -> OpCertificate {
        let stack_bytes = stacks::of(kind).unwrap();
        OpCertificate {
            name: kind.name().into(),
            kind,
            macs,
            unit_work: macs / 2,
            weight_bytes,
            arena_bytes,
            stack_bytes,
            float: true,
        }
    }

    fn certificate() -> Certificate {
        let ops = alloc::vec![op(OpKind::Conv, 900, 50, 700), op(OpKind::Gemm, 100, 80, 300), op(OpKind::Pool, 0, 0, 700)];
        let (state_bytes, scratch_bytes) = (0, 0);
        let main = ProgramCertificate {
            name: "main".into(),
            arena_bytes: 1000,
            state_bytes,
            scratch_bytes,
            live_bytes: 900,
            macs: 1000,
            unit_work: 450,
            stack_bytes: ops.iter().map(|op| op.stack_bytes).max().unwrap(),
            ops,
        };
        Certificate { image_bytes: 200, weight_bytes: 130, alignment: 64, programs: alloc::vec![main] }
    }

    #[test]
    fn a_budget_holds_up_to_its_limit() {
        let stack = certificate().programs[0].stack_bytes;
        let exact = Budgets { arena: Some(1000), flash: Some(200), macs: Some(1000), slice: Some(450), stack: Some(stack) };
        assert_eq!(certificate().beyond(&exact), []);
        assert_eq!(certificate().beyond(&Budgets::default()), []);
        let less = Budgets { arena: Some(999), flash: Some(199), macs: Some(999), slice: Some(449), stack: Some(stack - 1) };
        let found = certificate().beyond(&less);
        let most: Vec<_> = found.iter().map(|e| (e.resource, e.most.as_ref().unwrap().op)).collect();
        let deepest = if stacks::of(OpKind::Conv) >= stacks::of(OpKind::Gemm) { 0 } else { 1 };
        let want = [Resource::Arena, Resource::Macs, Resource::Slice, Resource::Stack, Resource::Flash];
        assert_eq!(most, want.into_iter().zip([0, 0, 0, deepest, 1]).collect::<Vec<_>>());
    }

    #[test]
    fn every_kind_that_a_device_can_have_has_its_stack() {
        for kind in OpKind::ALL {
            assert_eq!(stacks::of(kind).is_some(), kind != OpKind::Extern, "{}", kind.name());
        }
    }

    #[test]
    fn shared_bytes_count_once() {
        assert_eq!(covered(alloc::vec![]), 0);
        assert_eq!(covered(alloc::vec![(64, 96), (0, 10), (5, 20), (70, 80), (90, 100), (7, 7)]), 20 + 36);
    }

    #[test]
    fn an_excess_names_budget_value_and_op() {
        let found = certificate().beyond(&Budgets { macs: Some(5), ..Budgets::default() });
        let text = alloc::format!("{}", found[0]);
        for word in ["1000 multiply-accumulates", "more than 5", "op 0 (conv, \"conv\")", "900"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
