//! Places in the arena: which block of memory lies where, given when each is in use.
//!
//! A block is `[first, last]` in time and some bytes; two blocks that share a moment must not share a byte. Finding the
//! smallest arena is NP-hard; greedy placement is close to the bound in practice. Blocks are taken in some order, and each
//! is put into the smallest gap that holds it between the blocks that are placed already and share a moment with it, or
//! behind them all. Which order is best depends on the network (large blocks first suits convolution nets; a chain in which sizes
//! alternate wants another), so several are tried and the smallest arena wins; none is tried further once one meets
//! the lower bound, the largest sum of blocks in use at one time. If all miss it by more than a percent, the best order
//! is improved: a block that ends at the arena's top is moved towards the front of the order, and the change is kept
//! if the arena does not grow.

use alloc::vec::Vec;

/// A piece of memory that is in use from moment `first` to moment `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First moment.
    pub first: u32,
    /// Last moment.
    pub last: u32,
    /// Its size, already a multiple of the alignment.
    pub bytes: u64,
}

/// Places that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where each block starts.
    pub offsets: Vec<u64>,
    /// The end of the one that reaches furthest.
    pub end: u64,
}

/// Improvement steps, at the most.
const STEPS: usize = 200;

/// The largest sum of blocks in use at one time: no arena is smaller.
pub fn lower_bound(blocks: &[Block]) -> u64 {
    let mut changes: Vec<(u32, i64)> = Vec::with_capacity(2 * blocks.len());
    for b in blocks {
        changes.push((b.first, b.bytes as i64));
        changes.push((b.last + 1, -(b.bytes as i64)));
    }
    // What ends at a moment is counted off before what begins at it.
    changes.sort_unstable();
    let (mut sum, mut most) = (0, 0);
    for (_, change) in changes {
        sum += change;
        most = most.max(sum);
    }
    most as u64
}

/// Places blocks so that no two in use at one time overlap.
pub fn place(blocks: &[Block]) -> Placement {
    let bound = lower_bound(blocks);
    let span = |b: &Block| (b.last - b.first) as u64 + 1;
    let by = |key: &dyn Fn(&Block) -> (u64, u64)| {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|&i| key(&blocks[i]));
        order
    };
    let orders = [
        by(&|b| (u64::MAX - b.bytes, b.first as u64)),
        by(&|b| (u64::MAX - b.bytes, u64::MAX - b.last as u64)),
        by(&|b| (u64::MAX - b.bytes.saturating_mul(span(b)), b.first as u64)),
        by(&|b| (u64::MAX - span(b), u64::MAX - b.bytes)),
        by(&|b| (b.first as u64, u64::MAX - b.bytes)),
        by(&|b| (u64::MAX - b.last as u64, u64::MAX - b.bytes)),
    ];
    let mut best: Option<(Placement, Vec<usize>)> = None;
    for order in orders {
        let placement = in_order(blocks, &order);
        if best.as_ref().is_none_or(|(b, _)| placement.end < b.end) {
            best = Some((placement, order));
        }
        if best.as_ref().is_some_and(|(b, _)| b.end == bound) {
            break;
        }
    }
    let Some((mut best, mut order)) = best else { return Placement { offsets: Vec::new(), end: 0 } };
    let mut seed = 1u32;
    for _ in 0..if blocks.len() > 2000 { 0 } else { STEPS } {
        if best.end <= bound + bound / 100 {
            break;
        }
        let top = order.iter().position(|&i| best.offsets[i] + blocks[i].bytes == best.end).unwrap_or(0);
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let to = (seed >> 8) as usize % (top + 1);
        let mut tried = order.clone();
        tried[to..=top].rotate_right(1);
        let placement = in_order(blocks, &tried);
        if placement.end <= best.end {
            (best, order) = (placement, tried);
        }
    }
    best
}

/// Best fit, block by block, in the order given.
fn in_order(blocks: &[Block], order: &[usize]) -> Placement {
    let mut placed: Vec<(u64, usize)> = Vec::with_capacity(blocks.len());
    let mut offsets = alloc::vec![0; blocks.len()];
    let mut end = 0;
    for &i in order {
        let block = &blocks[i];
        if block.bytes == 0 {
            continue;
        }
        let (mut free, mut best) = (0u64, None::<(u64, u64)>);
        for &(offset, other) in &placed {
            let other = &blocks[other];
            if other.last < block.first || block.last < other.first {
                continue;
            }
            let gap = offset.saturating_sub(free);
            if gap >= block.bytes && best.is_none_or(|(g, _)| gap < g) {
                best = Some((gap, free));
            }
            free = free.max(offset + other.bytes);
        }
        let offset = best.map_or(free, |(_, at)| at);
        offsets[i] = offset;
        end = end.max(offset + block.bytes);
        let at = placed.partition_point(|&(o, _)| o <= offset);
        placed.insert(at, (offset, i));
    }
    Placement { offsets, end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(first: u32, last: u32, bytes: u64) -> Block {
        Block { first, last, bytes }
    }

    #[test]
    fn a_chain_takes_two_slots() {
        let chain: Vec<Block> = (0..9).map(|i| block(i, i + 1, if i % 2 == 0 { 64 } else { 640 })).collect();
        assert_eq!(lower_bound(&chain), 704);
        assert_eq!(place(&chain).end, 704);
    }

    #[test]
    fn a_gap_is_filled() {
        // A and C frame B's life; D fits where B was.
        let blocks = [block(0, 9, 64), block(0, 3, 128), block(0, 9, 64), block(5, 9, 128)];
        let placement = place(&blocks);
        assert_eq!((placement.end, placement.offsets[1]), (256, placement.offsets[3]));
    }

    #[test]
    fn nothing_takes_nothing() {
        assert_eq!(place(&[]).end, 0);
        assert_eq!(place(&[block(0, 5, 0)]).end, 0);
    }

    proptest! {
        #[test]
        fn live_blocks_never_overlap(raw in prop::collection::vec((0u32..40, 0u32..12, 0u64..30), 0..60)) {
            let blocks: Vec<Block> = raw.iter().map(|&(f, n, b)| block(f, f + n, b * 64)).collect();
            let placement = place(&blocks);
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(placement.offsets[i] + a.bytes <= placement.end);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last && a.bytes > 0 && b.bytes > 0;
                    let (x, y) = (placement.offsets[i], placement.offsets[j]);
                    prop_assert!(!together || x + a.bytes <= y || y + b.bytes <= x, "blocks {} and {} overlap", i, j);
                }
            }
            prop_assert!(placement.end >= lower_bound(&blocks));
        }
    }
}
