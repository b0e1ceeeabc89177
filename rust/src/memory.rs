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
#[derive(Debug)]
pub(crate) struct Block {
    start: std::ptr::NonNull<u8>,
    layout: std::alloc::Layout,
}

/// Blocks that nobody uses, the one kept last at the end.
struct Kept(std::sync::Mutex<Vec<Block>>);

static KEPT: Kept = Kept(std::sync::Mutex::new(Vec::new()));

/// Bytes that are kept at most: what the backward pass of one layer needs again for the next. What the layers before
/// it have left is the system's meanwhile, so that gradients can have it.
const KEPT_BYTES: usize = 96 << 20;
/// Blocks of so many bytes are mapped.
const MAPPED: usize = 1 << 20;
/// What sizes are a multiple of, and at least the size of a page.
const STEP: usize = 1 << 16;

impl Kept {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Block>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A kept block, at most a quarter too large, or a new one, for which kept ones go. None where the system has no
    /// memory.
    fn take(&self, bytes: usize) -> Option<Block> {
        let bytes = bytes.max(1).checked_next_multiple_of(STEP)?;
        if let Some(block) = self.fitting(bytes) {
            return Some(block);
        }
        self.let_go_of(bytes);
        Block::new(bytes)
    }

    fn fitting(&self, bytes: usize) -> Option<Block> {
        let mut kept = self.lock();
        let fits = |block: &Block| (bytes..=bytes + bytes / 4).contains(&block.layout.size());
        // Of blocks of one size the one kept last: some of it is in a cache still.
        let best = (0..kept.len()).rev().filter(|i| fits(&kept[*i])).min_by_key(|i| kept[*i].layout.size())?;
        Some(kept.remove(best))
    }

    /// The blocks that have been kept longest, until `bytes` are free.
    fn let_go_of(&self, bytes: usize) {
        let mut kept = self.lock();
        let mut free = 0;
        let gone = kept.iter().take_while(|block| {
            let more = free < bytes;
            free += block.layout.size();
            more
        });
        let gone = gone.count();
        let gone: Vec<Block> = kept.drain(..gone).collect();
        drop(kept);
        drop(gone);
    }

    /// The blocks that have been kept longest make room.
    fn keep(&self, block: Block) {
        let mut kept = self.lock();
        kept.push(block);
        let mut room = KEPT_BYTES;
        let stay = kept.iter().rev().take_while(|block| {
            let fits = block.layout.size() <= room;
            room = room.saturating_sub(block.layout.size());
            fits
        });
        let stay = stay.count();
        let gone = kept.len() - stay;
        let gone: Vec<Block> = kept.drain(..gone).collect();
        drop(kept);
        drop(gone);
    }
}

impl Block {
    /// A block that an earlier user has left, at most a quarter too large, or a new one. None where the system has no
    /// memory.
    pub(crate) fn take(bytes: usize) -> Option<Self> {
        KEPT.take(bytes)
    }

    pub(crate) fn keep(self) {
        KEPT.keep(self);
    }

    /// `bytes` is a multiple of `STEP`.
    fn new(bytes: usize) -> Option<Self> {
        let align = if bytes >= LARGE { 2 << 20 } else { STEP };
        let layout = std::alloc::Layout::from_size_align(bytes, align).ok()?;
        let start = if bytes >= MAPPED { map(layout)? } else { allocate(layout)? };
        Some(Self { start, layout })
    }

    #[cfg(any(feature = "python", test))]
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// All of it, zeros or what an earlier user has left.
    pub(crate) fn numbers(&mut self) -> &mut [f32] {
        let len = self.layout.size() / size_of::<f32>();
        // SAFETY: the block owns so many bytes, aligned to 64 at least, all of which were zero when they were new and
        // any bits of which are a number.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast().as_ptr(), len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.layout.size() >= MAPPED {
            unmap(self.start, self.layout);
        } else {
            // SAFETY: `allocate` got it with this layout, and nobody else frees it.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

/// Zeros from the allocator.
fn allocate(layout: std::alloc::Layout) -> Option<std::ptr::NonNull<u8>> {
    // SAFETY: the size of a block is not 0.
    std::ptr::NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

/// Zeros of the system's own, which it has back when they are unmapped. (The C library keeps what it is given back as
/// soon as it has once freed something as large: pages that nothing uses, between others that something does.)
#[cfg(target_os = "linux")]
fn map(layout: std::alloc::Layout) -> Option<std::ptr::NonNull<u8>> {
    let (bytes, align) = (layout.size(), layout.align());
    let whole = bytes.checked_add(align)?;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), whole, access, kind, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base = base.cast::<u8>();
    let before = base.align_offset(align);
    // SAFETY: `before` is below `align`, so that block and remainder lie inside the mapping; both ends are whole pages
    // of it, and nobody has seen them.
    let start = unsafe {
        let start = base.add(before);
        if before > 0 {
            libc::munmap(base.cast(), before);
        }
        libc::munmap(start.add(bytes).cast(), align - before);
        start
    };
    if bytes >= LARGE {
        ask_for_huge_pages(start.addr(), bytes);
    }
    std::ptr::NonNull::new(start)
}

#[cfg(target_os = "linux")]
fn unmap(start: std::ptr::NonNull<u8>, layout: std::alloc::Layout) {
    // SAFETY: `map` made this mapping with this layout, and nobody uses it any more.
    unsafe { libc::munmap(start.as_ptr().cast(), layout.size()) };
}

#[cfg(not(target_os = "linux"))]
use self::allocate as map;

#[cfg(not(target_os = "linux"))]
fn unmap(start: std::ptr::NonNull<u8>, layout: std::alloc::Layout) {
    // SAFETY: `allocate` got it with this layout, and nobody else frees it.
    unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
}

// SAFETY: a block owns its memory, as a boxed slice does.
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

    #[test]
    fn blocks_come_back_and_the_oldest_make_room() {
        let pool = Kept(std::sync::Mutex::new(Vec::new()));
        let place = |block: &Block| block.start().addr();
        let sizes = || pool.lock().iter().map(|block| block.layout.size()).collect::<Vec<_>>();
        let mut block = pool.take(5 << 20).expect("memory");
        assert!(block.numbers().len() == 5 << 18 && block.numbers().iter().all(|x| *x == 0.0));
        block.numbers().fill(1.0);
        let first = place(&block);
        pool.keep(block);
        let larger = pool.take(7 << 20).expect("memory");
        assert!(sizes().is_empty(), "what is too small goes for what is new");
        pool.keep(larger);
        let again = pool.take((6 << 20) - 9).expect("memory");
        assert_eq!(again.layout.size(), 7 << 20);
        pool.keep(again);
        for bytes in [5 << 20, 2 << 20, 9 << 10] {
            let [mut a, b] = [(); 2].map(|()| pool.take(bytes).expect("memory"));
            assert!(place(&a) != place(&b) && place(&a).is_multiple_of(STEP), "{bytes} bytes after {first}");
            a.numbers().fill(1.0);
            pool.keep(a);
            pool.keep(b);
        }
        pool.lock().clear();
        for bytes in [6, 30, 40, 50] {
            pool.keep(pool.take(bytes << 20).expect("memory"));
        }
        assert_eq!(sizes(), [50 << 20], "40 has gone for 50");
        let two = [pool.take(40 << 20).expect("memory"), pool.take(30 << 20).expect("memory")];
        assert!(sizes().is_empty());
        two.into_iter().for_each(|block| pool.keep(block));
        assert_eq!(sizes(), [50 << 20, 30 << 20], "50 has served for 40");
        pool.keep(pool.take(KEPT_BYTES - 1).expect("memory"));
        assert_eq!(sizes(), [KEPT_BYTES]);
        pool.keep(pool.take(KEPT_BYTES + 1).expect("memory"));
        assert!(sizes().is_empty(), "larger than all that is kept");
        assert!(pool.take(usize::MAX).is_none() && pool.take(usize::MAX / 2).is_none());
    }
}
