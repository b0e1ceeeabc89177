//! Rows of a table, and the scatter of their gradients.

use rayon::prelude::*;

use super::parallel::install;
use crate::dtype::Element;

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
