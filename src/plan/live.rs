//! Which memory each value stands for, and when that memory is in use.
//!
//! A value that is a [view](Storage::View) lives in its root's memory, so a root is in use from the first write to any of
//! its views to the last read of any. Time: 0 is before the run, when inputs are written; op `i` runs at `i + 1`; outputs,
//! and what says how long they are, are read at `ops + 1`. So that an input's memory can be used again once the input has been read, a run consumes
//! its inputs.
//!
//! Where an op allows it, its output takes over the memory of an input that dies there. The input must start its root, the
//! two must be of one size (else the smaller would keep the larger alive), and no other operand of the op may share that
//! memory, unless it is the same value and may be overwritten as well.

use super::PlanError;
use super::draft::{Draft, OpDraft, Storage, ValueId, WeightId};
use alloc::format;
use alloc::vec::Vec;

/// What a root's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Planned.
    Arena,
    /// Kept.
    State,
    /// Read-only.
    Weight(WeightId),
}

/// A value that stands for memory of its own.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// What memory.
    pub memory: Memory,
    /// Its bytes.
    pub bytes: u64,
    /// First and last moment in use; `None` if no op touches it, or it is taken over into another root.
    pub life: Option<(u32, u32)>,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The root: an index of values.
    pub root: usize,
    /// Bytes from its start.
    pub offset: u64,
}

/// The result: for each value its home, and its root's data if it is one.
#[derive(Debug)]
pub struct Lives {
    /// Where each value lies.
    pub homes: Vec<Home>,
    /// Indexed by value; of values that are no roots, meaningless.
    pub roots: Vec<Root>,
}

/// Works out homes and lives of a program's values; sizes that round up to the same multiple of `alignment` count as one.
///
/// # Errors
/// Where the draft contradicts itself: a view outside of its value, a read before any write, a write into a weight.
pub fn lives(draft: &Draft, alignment: u64) -> Result<Lives, PlanError> {
    let homes = homes(draft)?;
    let mut roots: Vec<Root> = draft
        .values
        .iter()
        .map(|v| {
            let memory = match v.storage {
                Storage::State => Memory::State,
                Storage::Weight(w) => Memory::Weight(w),
                Storage::Arena | Storage::View { .. } => Memory::Arena,
            };
            Root { memory, bytes: v.bytes, life: None }
        })
        .collect();
    let end = draft.ops.len() as u32 + 1;
    let touch = |roots: &mut Vec<Root>, v: ValueId, at: u32| {
        let life = &mut roots[homes[v.0 as usize].root].life;
        *life = Some(life.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
    };
    for &v in &draft.inputs {
        if roots[homes[v.0 as usize].root].memory != Memory::Arena {
            return Err(PlanError::Program(format!("input \"{}\" is a weight or state", draft.values[v.0 as usize].name)));
        }
        touch(&mut roots, v, 0);
    }
    for (i, op) in draft.ops.iter().enumerate() {
        for &v in op.inputs.iter().flatten() {
            let root = roots[homes[v.0 as usize].root];
            if root.memory == Memory::Arena && root.life.is_none() {
                let what = format!("it reads \"{}\", which nothing has written", draft.values[v.0 as usize].name);
                return Err(PlanError::of(op, what));
            }
            touch(&mut roots, v, i as u32 + 1);
        }
        for &v in op.outputs.iter().flatten() {
            if let Memory::Weight(_) = roots[homes[v.0 as usize].root].memory {
                return Err(PlanError::of(op, format!("it writes \"{}\", which is a weight", draft.values[v.0 as usize].name)));
            }
            touch(&mut roots, v, i as u32 + 1);
        }
    }
    let counts = draft.lengths.iter().map(|length| &length.count);
    for &v in draft.outputs.iter().chain(counts) {
        let root = roots[homes[v.0 as usize].root];
        if root.memory == Memory::Arena && root.life.is_none() {
            let name = &draft.values[v.0 as usize].name;
            return Err(PlanError::Program(format!("nothing writes \"{name}\", an output or the length of one")));
        }
        touch(&mut roots, v, end);
    }
    let mut lives = Lives { homes, roots };
    for (i, op) in draft.ops.iter().enumerate() {
        lives.share(op, i as u32 + 1, alignment);
    }
    Ok(lives)
}

/// The home of each value, before any op runs in place.
fn homes(draft: &Draft) -> Result<Vec<Home>, PlanError> {
    let mut homes = Vec::with_capacity(draft.values.len());
    for (i, value) in draft.values.iter().enumerate() {
        let needed = value.dims.iter().try_fold(value.dtype.size() as u64, |n, &d| n.checked_mul(d as u64));
        if needed.is_none_or(|n| n > value.bytes) {
            return Err(PlanError::Program(format!("\"{}\" has fewer bytes than elements", value.name)));
        }
        let mut home = Home { root: i, offset: 0 };
        for _ in 0..=draft.values.len() {
            match draft.values.get(home.root).map(|v| v.storage) {
                Some(Storage::View { of, offset }) => {
                    home = Home { root: of.0 as usize, offset: home.offset.saturating_add(offset) };
                }
                _ => break,
            }
        }
        // Of nothing it does not matter where it lies: not behind its value, where what is left of an axis may begin.
        if value.bytes == 0 {
            home.offset = 0;
        }
        let root = draft.values.get(home.root);
        match root {
            Some(root)
                if !matches!(root.storage, Storage::View { .. })
                    && home.offset.checked_add(value.bytes).is_some_and(|end| end <= root.bytes) => {}
            _ => return Err(PlanError::Program(format!("\"{}\" is a view that lies outside of its value", value.name))),
        }
        homes.push(home);
    }
    Ok(homes)
}

impl Lives {
    /// Lets an op's first output take over an input's memory, if that is safe.
    fn share(&mut self, op: &OpDraft, at: u32, alignment: u64) {
        let Some(Some(out)) = op.outputs.first() else { return };
        let out = out.0 as usize;
        let new = self.roots[out];
        if self.homes[out] != (Home { root: out, offset: 0 }) || new.memory != Memory::Arena {
            return;
        }
        let Some((first, last)) = new.life else { return };
        if first != at {
            return;
        }
        for &j in &op.in_place {
            let Some(Some(input)) = op.inputs.get(j) else { continue };
            let home = self.homes[input.0 as usize];
            let old = self.roots[home.root];
            let dies = old.memory == Memory::Arena && home.offset == 0 && old.life.is_some_and(|(_, last)| last == at);
            let same_size = new.bytes.next_multiple_of(alignment) == old.bytes.next_multiple_of(alignment);
            let in_root = |v: &Option<ValueId>| v.is_some_and(|v| self.homes[v.0 as usize].root == home.root);
            let others = op
                .inputs
                .iter()
                .enumerate()
                .any(|(k, v)| in_root(v) && k != j && !(*v == Some(*input) && op.in_place.contains(&k)));
            if home.root == out || !dies || !same_size || others || op.outputs.iter().any(in_root) {
                continue;
            }
            for h in &mut self.homes {
                if h.root == out {
                    h.root = home.root;
                }
            }
            let root = &mut self.roots[home.root];
            root.bytes = root.bytes.max(new.bytes);
            root.life = old.life.map(|(first, _)| (first, last));
            self.roots[out].life = None;
            return;
        }
    }
}
