//! Ops that choose: which elements are true, which boxes stand for the others.
//!
//! How many they find is an output of one element. Where an op has several units it also says, between them, how far it got.

use super::{Context, Entry, Op, Units};
use crate::error::Result;
use crate::kernels::{Dst, Src};
use crate::program::{NonMaxSuppression, NonZero, OpKind, Rules};

/// [`NonZero`](OpKind::NonZero).
pub const fn non_zero() -> Entry {
    Entry { kind: OpKind::NonZero, rules: Rules::of::<NonZero>(), eval: eval_non_zero }
}

/// The lowest bit of each byte that is not zero.
fn low_bits(word: u64) -> u64 {
    // What comes down from the byte above does not reach its lowest bit.
    let word = word | word >> 4;
    let word = word | word >> 2;
    (word | word >> 1) & 0x0101_0101_0101_0101
}

fn eval_non_zero(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (r, _) = op.record::<NonZero>()?;
    if context.units(1).is_empty() {
        return Ok(Units::ONE);
    }
    let (len, bound) = (r.len as usize, r.bound as usize);
    let mask = context.src_bytes(op.needed_input(0)?).first(len);
    let (indices, count) = (context.output::<i64>(op, 0).first(bound), context.output::<i64>(op, 1));
    let (mut found, mut last, mut at) = (0, 0, 0);
    while at < len && found < bound {
        let word = if len - at >= 8 {
            let eight = mask.from(at).first(8);
            u64::from_le_bytes(core::array::from_fn(|i| eight.at(i)))
        } else {
            (at..len).rev().fold(0, |word, i| word << 8 | mask.at(i) as u64)
        };
        let mut bits = low_bits(word);
        while bits != 0 && found < bound {
            last = (at + bits.trailing_zeros() as usize / 8) as i64;
            indices.set(found, last);
            found += 1;
            bits &= bits - 1;
        }
        at += 8;
    }
    for i in found..bound {
        indices.set(i, last);
    }
    count.set(0, found as i64);
    Ok(Units::ONE)
}

/// [`NonMaxSuppression`](OpKind::NonMaxSuppression).
pub const fn non_max_suppression() -> Entry {
    let rules = Rules::of::<NonMaxSuppression>();
    Entry { kind: OpKind::NonMaxSuppression, rules, eval: eval_non_max_suppression }
}

/// A box: left, right, top, bottom.
type Corners = [f32; NonMaxSuppression::CORNERS];

/// The corners of a box, in whatever order the model has them.
fn corners(b: Src<'_, f32>, centred: bool) -> Corners {
    let [x0, x1, y0, y1] = if centred {
        let (w, h) = (b.at(2) / 2.0, b.at(3) / 2.0);
        [b.at(0) - w, b.at(0) + w, b.at(1) - h, b.at(1) + h]
    } else {
        [b.at(1), b.at(3), b.at(0), b.at(2)]
    };
    [x0.min(x1), x0.max(x1), y0.min(y1), y0.max(y1)]
}

/// Whether two boxes have more than this share of their union in common.
fn too_much(a: Corners, b: Corners, share: f32) -> bool {
    let common = (a[1].min(b[1]) - a[0].max(b[0])).max(0.0) * (a[3].min(b[3]) - a[2].max(b[2])).max(0.0);
    let area = |c: Corners| (c[1] - c[0]) * (c[3] - c[2]);
    let union = area(a) + area(b) - common;
    union > 0.0 && common / union > share
}

/// Indices as a heap: the one that comes before all others is the first. Taking them one by one needs no order among those that
/// are never asked for, and no comparison can make it panic.
struct Heap<'m> {
    indices: Dst<'m, u32>,
    size: usize,
    scores: Src<'m, f32>,
}

impl Heap<'_> {
    /// The boxes that have one of these scores.
    fn fill(&mut self, wanted: impl Fn(f32) -> bool) {
        for i in 0..self.scores.len() {
            if wanted(self.scores.at(i)) {
                self.indices.set(self.size, i as u32);
                self.size += 1;
            }
        }
        for root in (0..self.size / 2).rev() {
            self.sink(root);
        }
    }

    fn before(&self, a: u32, b: u32) -> bool {
        let [first, second] = [a, b].map(|i| self.scores.at(i as usize));
        first > second || first == second && a < b
    }

    fn sink(&self, mut at: usize) {
        let index = |i: usize| self.indices.src().at(i);
        loop {
            let mut child = 2 * at + 1;
            if child + 1 < self.size && self.before(index(child + 1), index(child)) {
                child += 1;
            }
            if child >= self.size || !self.before(index(child), index(at)) {
                return;
            }
            let (up, down) = (index(child), index(at));
            self.indices.set(at, up);
            self.indices.set(child, down);
            at = child;
        }
    }

    fn take(&mut self) -> Option<usize> {
        self.size = self.size.checked_sub(1)?;
        let first = self.indices.src().at(0);
        self.indices.set(0, self.indices.src().at(self.size));
        self.sink(0);
        Some(first as usize)
    }
}

/// A unit is a class of a picture: boxes are taken by descending score, and held against those that the class has kept, whose
/// corners are in scratch memory.
fn eval_non_max_suppression(context: &Context<'_>, op: &Op<'_>) -> Result<Units> {
    let (r, _) = op.record::<NonMaxSuppression>()?;
    let [batch, classes, count, bound, room] = [r.batch, r.classes, r.boxes, r.bound, r.most()].map(|n| n as usize);
    // Without boxes, sizes of the others say nothing: they may even overflow.
    let all = if count == 0 { 0 } else { batch * classes };
    let units = all.max(1);
    let (boxes, scores) = (context.input::<f32>(op, 0), context.input::<f32>(op, 1));
    let (rows, found) = (context.output::<i64>(op, 0), context.output::<i64>(op, 1));
    let most = op.input(2).map_or(0, |t| context.src::<i64>(t).at(0)).clamp(0, room as i64) as usize;
    let [share, least] = [3, 4].map(|i| op.input(i).map(|t| context.src::<f32>(t).at(0)));
    let (share, centred) = (share.unwrap_or(0.0), r.centred != 0);
    let kept = context.scratch::<f32>().first(NonMaxSuppression::CORNERS * room);
    let indices = context.scratch::<u32>().from(NonMaxSuppression::CORNERS * room).first(count);
    for unit in context.units(units) {
        let mut row = if unit == 0 { 0 } else { found.src().at(0).clamp(0, bound as i64) as usize };
        let most = most.min(bound - row);
        if unit < all && most > 0 {
            let (picture, class) = (unit / classes, unit % classes);
            let boxes = boxes.from(picture * count * 4);
            let mut heap = Heap { indices, size: 0, scores: scores.from(unit * count).first(count) };
            heap.fill(|score| least.map_or(!score.is_nan(), |least| score > least));
            let mut n = 0;
            while n < most
                && let Some(i) = heap.take()
            {
                let own = corners(boxes.from(4 * i), centred);
                let other = |k: usize| core::array::from_fn(|c| kept.src().at(NonMaxSuppression::CORNERS * k + c));
                if (0..n).any(|k| too_much(other(k), own, share)) {
                    continue;
                }
                for (c, &v) in own.iter().enumerate() {
                    kept.set(NonMaxSuppression::CORNERS * n + c, v);
                }
                for (c, v) in [picture, class, i].into_iter().enumerate() {
                    rows.set(3 * row + c, v as i64);
                }
                (n, row) = (n + 1, row + 1);
            }
        }
        found.set(0, row as i64);
        if unit + 1 == units {
            for place in 3 * row..3 * bound {
                rows.set(place, if row == 0 { 0 } else { rows.src().at(place - 3) });
            }
        }
    }
    Ok(Units::in_turn(units))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, blank, tensor};
    use crate::tensor::DType;

    fn mask(bytes: &[u8]) -> Tensor {
        Tensor { dtype: DType::Bool, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_is_true() {
        let mut random = Random::new(1);
        for len in [0, 1, 2, 7, 8, 9, 15, 16, 17, 100, 1000] {
            for share in [0, 1, 50, 99, 100] {
                // A byte that is no `bool` is true, whichever of its bits are set.
                let bytes: Vec<u8> =
                    (0..len).map(|_| if random.below(100) < share { 1 << (random.below(16) % 9 % 8) } else { 0 }).collect();
                let all: Vec<i64> = (0..len as i64).filter(|&i| bytes[i as usize] != 0).collect();
                for bound in [0, 1, all.len() / 2, all.len(), len, len + 2] {
                    let mut want = all[..all.len().min(bound)].to_vec();
                    let count = want.len() as i64;
                    want.resize(bound, want.last().copied().unwrap_or(0));
                    let record = NonZero { len: len as u32, bound: bound as u32 };
                    let case = Case::new(&record, vec![mask(&bytes)], vec![blank::<i64>(bound), blank::<i64>(1)]);
                    let got = case.run(non_zero()).unwrap();
                    assert_eq!((got[0].to::<i64>(), got[1].to::<i64>()), (want, vec![count]), "{len}, {share}%, {bound}");
                }
            }
        }
    }

    /// Boxes and scores, and what is asked of them.
    #[derive(Clone)]
    struct Boxes {
        record: NonMaxSuppression,
        boxes: Vec<f32>,
        scores: Vec<f32>,
        most: Option<i64>,
        share: Option<f32>,
        least: Option<f32>,
    }

    impl Boxes {
        /// On a coarse grid, so that edges and whole boxes coincide; some without an area, some with a number that is none.
        fn random(random: &mut Random, [batch, classes, boxes]: [usize; 3], bound: usize) -> Boxes {
            let grid = |random: &mut Random| match random.below(60) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                _ => random.below(7) as f32 / 8.0,
            };
            let score = |random: &mut Random| match random.below(20) {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                2 => -0.0,
                _ => random.below(9) as f32 / 8.0,
            };
            let [b, c, n, bound] = [batch, classes, boxes, bound].map(|n| n as u32);
            let some = |random: &mut Random| random.below(4) != 0;
            Boxes {
                record: NonMaxSuppression { batch: b, classes: c, boxes: n, bound, centred: random.below(2) as u32 },
                boxes: (0..batch * boxes * 4).map(|_| grid(random)).collect(),
                scores: (0..batch * classes * boxes).map(|_| score(random)).collect(),
                most: some(random).then(|| [-1, 0, 1, 3, 1000, i64::MAX][random.below(6)]),
                share: some(random).then(|| [0.0, 0.2, 0.5, 0.9, 1.0, f32::NAN, -1.0][random.below(7)]),
                least: some(random).then(|| [0.0, 0.5, f32::NEG_INFINITY, f32::NAN, 2.0][random.below(5)]),
            }
        }

        /// All rows, by a sort of each class and a loop over the boxes that it keeps.
        fn expected(&self) -> Vec<[i64; 3]> {
            let [batch, classes, boxes] = [self.record.batch, self.record.classes, self.record.boxes].map(|n| n as usize);
            let (most, share) = (self.most.unwrap_or(0), self.share.unwrap_or(0.0));
            let sides = |picture: usize, i: usize| {
                let b: [f32; 4] = self.boxes[(picture * boxes + i) * 4..][..4].try_into().unwrap();
                let (low, high) = if self.record.centred == 1 {
                    ([b[1] - b[3] / 2.0, b[0] - b[2] / 2.0], [b[1] + b[3] / 2.0, b[0] + b[2] / 2.0])
                } else {
                    ([b[0], b[1]], [b[2], b[3]])
                };
                [0, 1].map(|axis| [low[axis].min(high[axis]), low[axis].max(high[axis])])
            };
            let area = |b: [[f32; 2]; 2]| (b[0][1] - b[0][0]) * (b[1][1] - b[1][0]);
            let suppresses = |a: [[f32; 2]; 2], b: [[f32; 2]; 2]| {
                let common = [1, 0].map(|axis: usize| (a[axis][1].min(b[axis][1]) - a[axis][0].max(b[axis][0])).max(0.0));
                let union = area(a) + area(b) - common[0] * common[1];
                union > 0.0 && common[0] * common[1] / union > share
            };
            let mut rows = vec![];
            for picture in 0..batch {
                for class in 0..classes {
                    let scores = &self.scores[(picture * classes + class) * boxes..][..boxes];
                    let enough = |score: f32| self.least.map_or(!score.is_nan(), |least| score > least);
                    let mut order: Vec<usize> = (0..boxes).filter(|&i| enough(scores[i])).collect();
                    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
                    let mut kept: Vec<usize> = vec![];
                    for i in order {
                        let stands = kept.iter().all(|&k| !suppresses(sides(picture, k), sides(picture, i)));
                        if (kept.len() as i64) < most && stands {
                            kept.push(i);
                        }
                    }
                    rows.extend(kept.into_iter().map(|i| [picture, class, i].map(|v| v as i64)));
                }
            }
            rows
        }

        fn case(&self) -> Case<'_, NonMaxSuppression> {
            let outputs = vec![blank::<i64>(3 * self.record.bound as usize), blank::<i64>(1)];
            let mut case = Case::new(&self.record, vec![tensor(&self.boxes), tensor(&self.scores)], outputs);
            let (most, share) = (self.most.map(|v| tensor(&[v])), self.share.map(|v| tensor(&[v])));
            case.inputs.extend([most, share, self.least.map(|v| tensor(&[v]))]);
            case
        }

        fn assert(&self) -> usize {
            let mut want = self.expected();
            let found = want.len();
            want.truncate(self.record.bound as usize);
            let count = want.len() as i64;
            want.resize(self.record.bound as usize, want.last().copied().unwrap_or([0; 3]));
            let got = self.case().run(non_max_suppression()).unwrap();
            let what = format!("{:?} {:?} {:?} {:?}", self.record, self.most, self.share, self.least);
            assert_eq!((got[0].to::<i64>(), got[1].to::<i64>()), (want.concat(), vec![count]), "{what}");
            found
        }
    }

    #[test]
    fn boxes_that_stand_for_others() {
        let mut random = Random::new(2);
        let mut found = 0;
        for sizes in [[1, 1, 1], [1, 1, 2], [1, 1, 30], [2, 3, 20], [3, 1, 9], [1, 4, 100], [0, 2, 3], [2, 0, 3], [2, 2, 0]] {
            for bound in [0, 1, 2, 7, 50, 500] {
                for _ in 0..30 {
                    found += Boxes::random(&mut random, sizes, bound).assert();
                }
            }
        }
        assert!(found > 5000, "{found} boxes are no test");
    }

    #[test]
    fn boxes_in_the_order_that_onnx_says() {
        // The first two are one box, by turned corners; the third has half of it; the last has no area.
        let boxes = vec![0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.2, 0.2, 0.2, 0.2];
        let record = NonMaxSuppression { batch: 1, classes: 1, boxes: 4, bound: 3, centred: 0 };
        let scores = vec![0.5, 0.5, 0.9, 0.5];
        let mut case = Boxes { record, boxes, scores, most: Some(4), share: Some(0.5), least: Some(0.4) };
        let rows = |case: &Boxes| {
            let got = case.case().run(non_max_suppression()).unwrap();
            let count = got[1].to::<i64>()[0] as usize;
            got[0].to::<i64>().chunks(3).take(count).map(|row| row[2]).collect::<Vec<_>>()
        };
        // A half is not more than a half; of two of one score the first comes first.
        assert_eq!(rows(&case), [2, 0, 3]);
        case.share = Some(0.49);
        assert_eq!(rows(&case), [2, 3]);
        case.least = Some(0.5);
        assert_eq!(rows(&case), [2]);
        case.most = None;
        assert!(rows(&case).is_empty());
    }

    #[test]
    fn bad_records_are_rejected() {
        let check = |record: NonZero, count| {
            let outputs = vec![blank::<i64>(2), blank::<i64>(count)];
            Case::new(&record, vec![mask(&[1, 0, 1])], outputs).check(OpKind::NonZero)
        };
        let good = NonZero { len: 3, bound: 2 };
        assert_eq!(check(good, 1), Ok(()));
        assert!(check(good, 0).is_err());
        for bad in [NonZero { len: 4, ..good }, NonZero { bound: 3, ..good }] {
            assert!(check(bad, 1).is_err(), "{bad:?}");
        }
        let good = Boxes::random(&mut Random::new(3), [2, 3, 4], 5);
        assert_eq!(good.case().check(OpKind::NonMaxSuppression), Ok(()));
        let record = good.record;
        let bad = [
            NonMaxSuppression { batch: 3, ..record },
            NonMaxSuppression { classes: 4, ..record },
            NonMaxSuppression { boxes: 5, ..record },
            NonMaxSuppression { bound: 6, ..record },
            NonMaxSuppression { batch: u32::MAX, classes: u32::MAX, boxes: u32::MAX, ..record },
        ];
        for bad in bad {
            let mut case = good.case();
            case.record = &bad;
            assert!(case.check(OpKind::NonMaxSuppression).is_err(), "{bad:?}");
        }
        for (slot, wrong) in [(2, tensor(&[1f32, 1.0])), (3, tensor(&[1i64])), (4, blank::<f32>(0)), (1, mask(&[0; 96]))] {
            let mut case = good.case();
            case.inputs[slot] = Some(wrong);
            assert!(case.check(OpKind::NonMaxSuppression).is_err(), "input {slot}");
        }
    }

    #[test]
    fn sizes_that_nothing_goes_through_do_not_overflow() {
        // As many as there can be of what has no elements.
        for (batch, classes, boxes) in [(u32::MAX, u32::MAX, 0), (0, u32::MAX, 1), (1, 0, 4), (0, 0, 9)] {
            let record = NonMaxSuppression { batch, classes, boxes, bound: 1, centred: 0 };
            let case = Boxes { record, boxes: vec![0.0; 16], scores: vec![], most: Some(1), share: None, least: None };
            let got = case.case().run(non_max_suppression()).unwrap();
            assert_eq!((got[0].to::<i64>(), got[1].to::<i64>()), (vec![0; 3], vec![0]), "{record:?}");
        }
    }

    #[test]
    fn the_work_is_bounded() {
        use crate::program::{Record, Tile};
        let record = NonMaxSuppression { batch: 1, classes: 80, boxes: 8400, bound: 100, centred: 1 };
        // Fifteen steps to put a box in order, four to hold it against one that is kept.
        assert_eq!(record.macs(), 80 * 8400 * 15 + 4 * 8400 * 100);
        assert_eq!(record.unit_work(Tile::CORTEX_M), 8400 * 15 + 4 * 8400 * 100);
        assert!(record.rounds() <= record.macs() + 24 * 100);
        let most = NonMaxSuppression { batch: u32::MAX, classes: u32::MAX, boxes: u32::MAX, bound: u32::MAX, centred: 0 };
        assert_eq!((most.macs(), most.rounds()), (u64::MAX, u64::MAX));
    }
}
