//! Large memory.

use bytemuck::Zeroable;

/// From this size on the C library gives a buffer back to the system as soon as it is freed, so that a buffer of the
/// next step is touched for the first time again. (65 MB by pages of 4 KiB: 35 ms, by huge pages: 12 ms)
#[cfg(feature = "python")]
const ALWAYS_FRESH: usize = 32 << 20;

/// Prepares a buffer from elsewhere, of `bytes` from `start`, that is about to be overwritten as a whole.
#[cfg(feature = "python")]
pub(crate) fn before_overwriting(start: usize, bytes: usize) {
    if bytes >= ALWAYS_FRESH {
        ask_for_huge_pages(start, bytes);
    }
}

/// Smaller buffers gain nothing.
const LARGE: usize = 4 << 20;

/// `len` zeros. For a large buffer the system is asked for huge pages: it is then touched for the first time, and
/// walked along its columns, at a fraction of the cost. Memory is taken when it is first written, as ever.
pub(crate) fn zeros<T: Zeroable>(len: usize) -> Vec<T> {
    let zeros: Vec<T> = bytemuck::zeroed_vec(len);
    if size_of::<T>() * len >= LARGE {
        ask_for_huge_pages(zeros.as_ptr().addr(), size_of::<T>() * len);
    }
    zeros
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: usize, bytes: usize) {
    const PAGE: usize = 2 << 20;
    let first = start.next_multiple_of(PAGE);
    let end = (start + bytes) / PAGE * PAGE;
    if first < end {
        // SAFETY: the range lies inside a buffer of this process, and the advice changes no content. The answer does
        // not matter: a system without huge pages goes on with small ones.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(first), end - first, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_buffers_are_zero_and_can_be_written() {
        for len in [0, 1, LARGE / 4 - 1, LARGE / 4, LARGE + 12_345] {
            let mut numbers: Vec<f32> = zeros(len);
            assert_eq!(numbers.len(), len);
            assert!(numbers.iter().all(|x| *x == 0.0));
            numbers.fill(1.0);
        }
    }
}
