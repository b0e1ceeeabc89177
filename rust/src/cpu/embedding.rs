//! Rows of a table, and the scatter of their gradients.

use rayon::prelude::*;

use super::parallel::install;
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
    for (y, id) in y.chunks_exact_mut(d).zip(ids) {
        y.copy_from_slice(&table[*id as usize * d..][..d]);
    }
}

/// dtable[ids[i]] += dy[i], in the order of i.  Threads share out columns, so the order never changes.
pub fn backward<T: Element>(dtable: &mut [f32], dy: &[T], ids: &[i32], d: usize) {
    let rows = dtable.len() / d;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|i| ids[*i as usize]);
    // Pieces of the table: each thread adds to its own rows, tokens of a row in their order.
    let piece = rows.div_ceil(16).max(1);
    install(|| {
        dtable.par_chunks_mut(piece * d).enumerate().for_each(|(p, dtable)| {
            let first = order.partition_point(|i| (ids[*i as usize] as usize) < p * piece);
            for i in &order[first..] {
                let row = ids[*i as usize] as usize;
                if row >= (p + 1) * piece {
                    break;
                }
                let dy = &dy[*i as usize * d..][..d];
                dtable[(row - p * piece) * d..][..d].iter_mut().zip(dy).for_each(|(g, dy)| *g += dy.to_f32());
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
