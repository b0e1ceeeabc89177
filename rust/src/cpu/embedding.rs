//! Rows of a table, and the scatter of their gradients.

use rayon::prelude::*;

use super::isa::{dispatch, isa};
use super::math::add_row;
use super::parallel::share;
use super::scratch::with_scratch;
use crate::dtype::Element;

pub mod reference {
    /// y (N, D) of table (V, D).
    pub fn forward(table: &[f64], ids: &[i32], d: usize) -> Vec<f64> {
        ids.iter().flat_map(|id| &table[*id as usize * d..][..d]).copied().collect()
    }

    /// dtable (V, D) of dy (N, D).
    pub fn backward(dy: &[f64], ids: &[i32], rows: usize, d: usize) -> Vec<f64> {
        let mut dtable = vec![0.0; rows * d];
        for (dy, id) in dy.chunks_exact(d).zip(ids) {
            (0..d).for_each(|j| dtable[*id as usize * d + j] += dy[j]);
        }
        dtable
    }
}

/// y (N, D): row i = table[ids[i]].  Every id is inside the table.
pub fn forward<T: Element>(y: &mut [T], table: &[T], ids: &[i32], d: usize) {
    if d == 0 {
        return;
    }
    share(y.par_chunks_exact_mut(d).zip(ids), |(y, id)| y.copy_from_slice(&table[*id as usize * d..][..d]));
}

/// dtable[ids[i]] += dy[i].  Each task has its own rows of the table and takes the tokens of a row in their order.
pub fn backward<T: Element>(dtable: &mut [f32], dy: &[T], ids: &[i32], d: usize) {
    if d == 0 {
        return;
    }
    let isa = isa();
    let piece = (dtable.len() / d).div_ceil(64).max(1);
    with_scratch(ids.len(), |order| {
        let order: &mut [u32] = bytemuck::cast_slice_mut(order);
        (0..).zip(&mut *order).for_each(|(i, place)| *place = i);
        order.sort_unstable_by_key(|i| (ids[*i as usize], *i));
        share(dtable.par_chunks_mut(piece * d).enumerate(), |(p, dtable)| {
            let row = |i: &u32| ids[*i as usize] as usize;
            let first = order.partition_point(|i| row(i) < p * piece);
            for i in order[first..].iter().take_while(|i| row(i) < (p + 1) * piece) {
                let dy = &dy[*i as usize * d..][..d];
                let sum = &mut dtable[(row(i) - p * piece) * d..][..d];
                dispatch!(isa, _s => add_row(sum, dy));
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, each_dtype, place, sample};
    use super::*;

    const IDS: [i32; 7] = [3, 0, 33, 3, 3, 17, 0];

    fn follows_the_reference<T: Element>() {
        let (rows, d) = (34, 5);
        let (table, exact_table) = sample::<T>(1, rows * d);
        let (dy, exact_dy) = sample::<T>(2, IDS.len() * d);
        let mut y = place::<T>(IDS.len() * d);
        forward(&mut y, &table, &IDS, d);
        assert_close("y", &y, &reference::forward(&exact_table, &IDS, d), 0.0);
        let mut dtable = vec![0.0f32; rows * d];
        backward(&mut dtable, &dy, &IDS, d);
        assert_close("dtable", &dtable, &reference::backward(&exact_dy, &IDS, rows, d), 2.0);
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }
}
