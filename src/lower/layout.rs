//! How a tensor lies in memory: an offset and a stride per axis.
//!
//! Lowering gives every value of the graph a layout in some buffer, and axis operations only rewrite layouts: a transpose
//! permutes strides, a slice moves the offset, a broadcast has stride 0. So a layout travels through a network until an op
//! needs another one, and only then a copy is made. Channels-last falls out of it: a convolution's output has the axes
//! `[N, C, H, W]` and the strides of an NHWC map, element-wise ops keep the order of their input, and the next convolution
//! finds what it wants. No transposes have to be inserted and cancelled.

use std::ops::Range;

/// Where the elements of a tensor lie, counted in elements. Strides are never negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub offset: usize,
    pub dims: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Layout {
    /// Row-major, from the start.
    pub fn row_major(dims: &[usize]) -> Layout {
        let order: Vec<usize> = (0..dims.len()).collect();
        Layout::dense(dims, &order)
    }

    /// Dense, with the axes in this order from the outermost to the innermost.
    pub fn dense(dims: &[usize], order: &[usize]) -> Layout {
        let mut strides = vec![0; dims.len()];
        let mut next = 1;
        for &axis in order.iter().rev() {
            strides[axis] = next;
            next *= dims[axis].max(1);
        }
        Layout { offset: 0, dims: dims.to_vec(), strides }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Elements from the offset to one past the last element.
    pub fn reach(&self) -> usize {
        if self.dims.contains(&0) {
            return 0;
        }
        1 + self.dims.iter().zip(&self.strides).map(|(d, s)| (d - 1) * s).sum::<usize>()
    }

    /// The axes from the largest stride to the smallest, as they lie in memory. Axes of one element, whose strides mean
    /// nothing, keep their place beside their neighbours.
    pub fn order(&self) -> Vec<usize> {
        let mut real: Vec<usize> = (0..self.dims.len()).filter(|&a| self.dims[a] != 1).collect();
        real.sort_by_key(|&a| (std::cmp::Reverse(self.strides[a]), a));
        // An axis of one element stands right before the axis that follows it logically.
        for axis in (0..self.dims.len()).rev().filter(|&a| self.dims[a] == 1) {
            let before = real.iter().position(|&a| a == axis + 1).unwrap_or(real.len());
            real.insert(before, axis);
        }
        real
    }

    /// Whether the elements fill a stretch of memory without gaps, with the axes in this order.
    pub fn is_dense(&self, order: &[usize]) -> bool {
        let mut next = 1;
        order.iter().rev().all(|&a| {
            let ok = self.dims[a] == 1 || self.strides[a] == next;
            next *= self.dims[a].max(1);
            ok
        })
    }

    /// Whether it is dense and row-major.
    pub fn is_row_major(&self) -> bool {
        let order: Vec<usize> = (0..self.dims.len()).collect();
        self.is_dense(&order)
    }

    /// Axis `i` of the result is axis `perm[i]`.
    pub fn transpose(&self, perm: &[usize]) -> Layout {
        Layout {
            offset: self.offset,
            dims: perm.iter().map(|&a| self.dims[a]).collect(),
            strides: perm.iter().map(|&a| self.strides[a]).collect(),
        }
    }

    /// `len` elements of an axis from `start` on, every `step`-th.
    pub fn slice(&self, axis: usize, start: usize, step: usize, len: usize) -> Layout {
        let mut out = self.clone();
        out.offset += start * self.strides[axis];
        out.strides[axis] *= step;
        out.dims[axis] = len;
        out
    }

    /// To `dims`, as numpy broadcasts: axes are matched from the last one.
    pub fn broadcast(&self, dims: &[usize]) -> Layout {
        let missing = dims.len().saturating_sub(self.dims.len());
        let strides = dims.iter().enumerate().map(|(i, &d)| match i.checked_sub(missing) {
            Some(a) if self.dims[a] == d => self.strides[a],
            _ => 0,
        });
        Layout { offset: self.offset, dims: dims.to_vec(), strides: strides.collect() }
    }

    /// The same elements in row-major order in another shape, if strides can say it.
    pub fn reshape(&self, dims: &[usize]) -> Option<Layout> {
        if self.elements() == 0 {
            return Some(Layout { offset: self.offset, ..Layout::row_major(dims) });
        }
        let mut strides = vec![0; dims.len()];
        for (old, new) in self.runs(dims)? {
            let axes: Vec<(usize, usize)> = old.map(|i| (self.dims[i], self.strides[i])).collect();
            let (_, mut stride) = merge(&axes)?;
            for i in new.rev() {
                strides[i] = stride;
                stride *= dims[i];
            }
        }
        Some(Layout { offset: self.offset, dims: dims.to_vec(), strides })
    }

    /// An order of the axes that lets a dense copy be [reshaped](Layout::reshape), and changes the least: axes that a reshape joins or
    /// cuts are row-major, but channels that are last stay last.
    pub fn order_for_reshape(&self, dims: &[usize]) -> Vec<usize> {
        let row_major = (0..self.dims.len()).collect();
        let Some(runs) = self.runs(dims).filter(|_| self.elements() > 0) else { return row_major };
        let mut placed = Vec::new();
        for (old, _) in runs {
            let real = old.clone().filter(|&i| self.dims[i] != 1);
            let far = real.map(|i| self.strides[i]).max().unwrap_or(usize::MAX);
            if far == 0 {
                return row_major; // repeated: nowhere in particular
            }
            placed.push((far, old));
        }
        placed.sort_by_key(|(far, _)| std::cmp::Reverse(*far));
        placed.into_iter().flat_map(|(_, old)| old).collect()
    }

    /// Both shapes cut into the shortest runs of axes with equal products; none if they have another number of elements.
    fn runs(&self, dims: &[usize]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
        let mut runs = Vec::new();
        let (mut a, mut b) = (0, 0);
        while a < self.dims.len() || b < dims.len() {
            let (first_a, first_b) = (a, b);
            let (mut old, mut new) = (1, 1);
            if a < self.dims.len() {
                old = self.dims[a];
                a += 1;
            }
            if b < dims.len() {
                new = dims[b];
                b += 1;
            }
            while old != new {
                if old < new {
                    old *= *self.dims.get(a)?;
                    a += 1;
                } else {
                    new *= *dims.get(b)?;
                    b += 1;
                }
            }
            runs.push((first_a..a, first_b..b));
        }
        Some(runs)
    }
}

/// One axis of `(size, stride)` that walks the same elements in the same order as these axes, if there is one.
pub(super) fn merge(axes: &[(usize, usize)]) -> Option<(usize, usize)> {
    let mut merged: Option<(usize, usize)> = None;
    for &(size, stride) in axes.iter().rev().filter(|(size, _)| *size != 1) {
        merged = match merged {
            None => Some((size, stride)),
            Some((n, inner)) if stride == inner * n => Some((n * size, inner)),
            Some(_) => return None,
        };
    }
    Some(merged.unwrap_or((1, 1)))
}

/// Joins neighbouring axes of an index space that all operands walk as one; `axes` are (size, stride per operand), from the
/// outermost. Axes of one element vanish.
pub(super) fn join(axes: Vec<(usize, Vec<usize>)>) -> Vec<(usize, Vec<usize>)> {
    let mut out: Vec<(usize, Vec<usize>)> = Vec::new();
    for (size, strides) in axes.into_iter().filter(|(size, _)| *size != 1) {
        match out.last_mut() {
            Some((n, outer)) if outer.iter().zip(&strides).all(|(o, s)| *o == s * size) => {
                *n *= size;
                *outer = strides;
            }
            _ => out.push((size, strides)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_views() {
        let nhwc = Layout::dense(&[1, 8, 4, 5], &[0, 2, 3, 1]);
        assert_eq!(nhwc.strides, [160, 1, 40, 8]);
        // The batch of one stands before the channels, which follow it logically.
        assert_eq!(nhwc.order(), [2, 3, 0, 1]);
        assert!(nhwc.is_dense(&[0, 2, 3, 1]) && !nhwc.is_row_major());
        let back = nhwc.transpose(&[0, 2, 3, 1]);
        assert!(back.is_row_major());
        assert_eq!(nhwc.slice(1, 2, 1, 3).offset, 2);
        assert_eq!(nhwc.slice(2, 1, 2, 2).reach(), 1 + 7 + 80 + 32);
        // Pixels can be joined, channels and pixels can't.
        assert_eq!(nhwc.reshape(&[8, 20]).unwrap().strides, [1, 8]);
        assert!(nhwc.reshape(&[160]).is_none());
        assert_eq!(nhwc.reshape(&[2, 4, 4, 5]).unwrap().strides, [4, 1, 40, 8]);
    }

    #[test]
    fn a_reshape_reads_the_same_elements() {
        let x = Layout::dense(&[2, 3, 4], &[1, 0, 2]);
        let walk = |l: &Layout| {
            let mut all = vec![];
            for i in 0..l.elements() {
                let (mut rest, mut at) = (i, l.offset);
                for (d, s) in l.dims.iter().zip(&l.strides).rev() {
                    at += rest % d * s;
                    rest /= d;
                }
                all.push(at);
            }
            all
        };
        for dims in [&[2, 3, 2, 2][..], &[2, 3, 1, 4], &[1, 2, 3, 4, 1], &[2, 3, 4, 1]] {
            assert_eq!(walk(&x.reshape(dims).unwrap()), walk(&x), "{dims:?}");
        }
        assert!(x.reshape(&[6, 4]).is_none());
        let row = Layout::row_major(&[6, 4]);
        assert_eq!(walk(&row.reshape(&[2, 12]).unwrap()), walk(&row));
    }

    #[test]
    fn a_copy_for_a_reshape_keeps_channels_last() {
        // A channel shuffle: the halves of a map's channels are mixed.
        let halves = Layout::dense(&[1, 8, 4, 5], &[0, 2, 3, 1]).reshape(&[1, 2, 4, 4, 5]).unwrap().transpose(&[0, 2, 1, 3, 4]);
        let shape = [1, 8, 4, 5];
        assert!(halves.reshape(&shape).is_none());
        let order = halves.order_for_reshape(&shape);
        assert_eq!(order, [0, 3, 4, 1, 2]);
        assert!(Layout::dense(&halves.dims, &order).reshape(&shape).unwrap().is_dense(&[0, 2, 3, 1]));
        // Pictures side by side: heads move out of the rows.
        let heads = Layout::row_major(&[2, 5, 3, 4]).transpose(&[0, 2, 1, 3]);
        assert_eq!(heads.order_for_reshape(&[6, 5, 4]), [0, 1, 2, 3]);
        let repeated = Layout::row_major(&[3, 4]).broadcast(&[2, 3, 4]);
        assert_eq!(repeated.order_for_reshape(&[2, 12]), [0, 1, 2]);
    }

    #[test]
    fn broadcast_follows_numpy() {
        let x = Layout::row_major(&[3, 1]);
        assert_eq!(x.broadcast(&[2, 3, 4]).strides, [0, 1, 0]);
        assert_eq!(x.broadcast(&[2, 3, 4]).reach(), 3);
    }

    #[test]
    fn axes_are_joined_only_where_all_agree() {
        let axes = |s: &[(usize, [usize; 2])]| s.iter().map(|(n, s)| (*n, s.to_vec())).collect::<Vec<_>>();
        assert_eq!(join(axes(&[(2, [12, 12]), (3, [4, 4]), (1, [9, 9]), (4, [1, 1])])), axes(&[(24, [1, 1])]));
        let apart = axes(&[(2, [12, 12]), (3, [4, 0]), (4, [1, 1])]);
        assert_eq!(join(apart.clone()), apart);
        assert!(join(vec![]).is_empty());
    }
}
