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

/// Memory for a large result, its content of no meaning; `keep` puts it aside for the next one of about its size.
#[cfg(any(feature = "python", test))]
#[derive(Debug)]
pub(crate) struct Block {
    start: std::ptr::NonNull<u8>,
    layout: std::alloc::Layout,
}

/// Blocks that nobody uses, the one kept last at the end.
#[cfg(any(feature = "python", test))]
static KEPT: std::sync::Mutex<Vec<Block>> = std::sync::Mutex::new(Vec::new());

/// Bytes that are kept at most.
#[cfg(any(feature = "python", test))]
const KEPT_BYTES: usize = 256 << 20;

#[cfg(any(feature = "python", test))]
impl Block {
    /// A kept block, at most a quarter too large, or a new one. None where the system has no memory.
    pub(crate) fn take(bytes: usize) -> Option<Self> {
        const STEP: usize = 1 << 16;
        let bytes = bytes.max(1).checked_next_multiple_of(STEP)?;
        if let Some(block) = Self::take_kept(bytes) {
            return Some(block);
        }
        let layout = std::alloc::Layout::from_size_align(bytes, if bytes >= LARGE { 2 << 20 } else { 64 }).ok()?;
        // SAFETY: the size is not 0.
        let start = std::ptr::NonNull::new(unsafe { std::alloc::alloc(layout) })?;
        if bytes >= LARGE {
            ask_for_huge_pages(start.addr().get(), bytes);
        }
        Some(Self { start, layout })
    }

    fn take_kept(bytes: usize) -> Option<Self> {
        let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fits = |block: &Self| (bytes..=bytes + bytes / 4).contains(&block.layout.size());
        // Of blocks of one size the one kept last: some of it is in a cache still.
        let best = (0..kept.len()).rev().filter(|i| fits(&kept[*i])).min_by_key(|i| kept[*i].layout.size())?;
        Some(kept.remove(best))
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The blocks that have been kept longest make room.
    pub(crate) fn keep(self) {
        let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.push(self);
        let mut room = KEPT_BYTES;
        let stay = kept.iter().rev().take_while(|block| {
            let fits = block.layout.size() <= room;
            room = room.saturating_sub(block.layout.size());
            fits
        });
        let stay = stay.count();
        let gone = kept.len() - stay;
        let gone: Vec<Self> = kept.drain(..gone).collect();
        drop(kept);
        drop(gone);
    }
}

#[cfg(any(feature = "python", test))]
impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `take` got it with this layout, and nobody else frees it.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

// SAFETY: a block owns its memory, as a boxed slice does.
#[cfg(any(feature = "python", test))]
unsafe impl Send for Block {}

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

    /// One test, for all threads share what is kept.
    #[test]
    fn blocks_come_back_and_the_oldest_make_room() {
        let place = |block: &Block| block.start().addr();
        let block = Block::take(5 << 20).expect("memory");
        // SAFETY: inside the block, which nobody else has.
        unsafe { block.start().add((5 << 20) - 1).write(1) };
        let first = place(&block);
        block.keep();
        assert_ne!(place(&Block::take(7 << 20).expect("memory")), first, "too small for it");
        let again = Block::take((5 << 20) - 9).expect("memory");
        assert_eq!(place(&again), first);
        again.keep();
        Block::take(KEPT_BYTES - 1).expect("memory").keep();
        let sizes = |kept: &[Block]| kept.iter().map(|block| block.layout.size()).collect::<Vec<_>>();
        assert_eq!(sizes(&KEPT.lock().expect("no panic")), [KEPT_BYTES]);
        Block::take(KEPT_BYTES + 1).expect("memory").keep();
        assert!(KEPT.lock().expect("no panic").is_empty(), "larger than all that is kept");
        assert!(Block::take(usize::MAX).is_none() && Block::take(usize::MAX / 2).is_none());
    }
}
