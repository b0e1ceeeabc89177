//! f32 memory that a thread lends out and keeps for the next call.

use std::cell::RefCell;

use bytemuck::Zeroable;

use crate::memory::{Block, zeros};

/// The unit in which buffers are made: no vector that is read at a multiple of its length crosses a line.
#[derive(Clone, Copy, Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// The smallest free buffer that holds `len` lines, else the largest, grown.
fn take(len: usize) -> Vec<Line> {
    FREE.with_borrow_mut(|free| {
        let enough = (0..free.len()).filter(|i| free[*i].len() >= len).min_by_key(|i| free[*i].len());
        let best = enough.or_else(|| (0..free.len()).max_by_key(|i| free[*i].len()));
        match best.map(|i| free.swap_remove(i)) {
            Some(buffer) if buffer.len() >= len => buffer,
            // What is in the buffer need not survive: a fresh one costs no copy.
            _ => zeros(len),
        }
    })
}

/// Lends `len` numbers of any value, from the beginning of a cache line on.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = take(len.div_ceil(LINE));
    let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut buffer);
    let result = work(&mut numbers[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// The same of memory that any large result may have afterwards: for what is made once in a step.
///
/// # Panics
/// Where the system has no memory.
pub fn with_block<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut block = Block::take(len * size_of::<f32>()).unwrap_or_else(|| panic!("no memory for {len} numbers"));
    let result = work(&mut block.numbers()[..len]);
    block.keep();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_the_smallest_that_fits_and_keeps_it() {
        let place = |len| with_scratch(len, |s| s.as_ptr() as usize);
        let (small, large) = with_scratch(10, |a| with_scratch(100, |b| (a.as_ptr() as usize, b.as_ptr() as usize)));
        assert_ne!(small, large);
        assert_eq!((place(10), place(17), place(100)), (small, large, large));
        with_scratch(5, |s| assert_eq!((s.len(), s.as_ptr() as usize % 64), (5, 0)));
        with_block(5, |s| assert_eq!((s.len(), s.as_ptr() as usize % 64), (5, 0)));
    }
}
