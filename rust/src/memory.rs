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

/// Blocks that nobody uses.
struct Kept(std::sync::Mutex<Shelf>);

static KEPT: Kept = Kept(std::sync::Mutex::new(Shelf::new()));

/// Bytes that are kept at most: what the backward pass of one layer needs again for the next. What the layers before
/// it have left is the system's meanwhile, so that gradients can have it.
const KEPT_BYTES: usize = 96 << 20;
/// More is kept, up to this, as long as it is used again and again: an op by itself, a layer with larger results.
const MOST_BYTES: usize = 1 << 30;
/// For so many blocks that are asked for: a training step asks for more, and does not find what the last one has left.
const RECENT: usize = 16;
/// Blocks of so many bytes are mapped.
const MAPPED: usize = 1 << 20;
/// What sizes are a multiple of, and at least the size of a page.
const STEP: usize = 1 << 16;

struct Shelf {
    /// The one kept last at the end.
    blocks: Vec<Resting>,
    /// Size and time of those that went because there was no room.
    gone: Vec<(usize, usize)>,
    room: usize,
    /// Counts the blocks that have been asked for.
    now: usize,
    /// When the room beyond `KEPT_BYTES` was of use.
    of_use: usize,
}

struct Resting {
    block: Block,
    /// It would have gone, were there only `KEPT_BYTES`.
    extra: bool,
}

/// Whether a block of `size` serves for `bytes`: it is at most a quarter too large.
fn fits(size: usize, bytes: usize) -> bool {
    (bytes..=bytes + bytes / 4).contains(&size)
}

impl Shelf {
    const fn new() -> Self {
        Self { blocks: Vec::new(), gone: Vec::new(), room: KEPT_BYTES, now: 0, of_use: 0 }
    }

    /// Of blocks of one size the one kept last: some of it is in a cache still.
    fn fitting(&mut self, bytes: usize) -> Option<Block> {
        let size = |i: &usize| self.blocks[*i].block.layout.size();
        let best = (0..self.blocks.len()).rev().filter(|i| fits(size(i), bytes)).min_by_key(size)?;
        let Resting { block, extra } = self.blocks.remove(best);
        if extra {
            self.of_use = self.now;
        }
        Some(block)
    }

    /// One more block has been asked for, of `bytes`, and is not there: if one like it has just gone, there is too
    /// little room.
    fn missed(&mut self, bytes: usize) {
        self.gone.retain(|(_, when)| self.now - when <= RECENT);
        if let Some(i) = self.gone.iter().position(|(size, _)| fits(*size, bytes)) {
            self.room = MOST_BYTES.min(self.room + self.gone.remove(i).0);
            self.of_use = self.now;
        }
    }

    /// The blocks that have been kept longest, until `bytes` are free.
    fn let_go_of(&mut self, bytes: usize) -> Vec<Resting> {
        let mut free = 0;
        let gone = self.blocks.iter().take_while(|resting| {
            let more = free < bytes;
            free += resting.block.layout.size();
            more
        });
        let gone = gone.count();
        self.blocks.drain(..gone).collect()
    }

    /// The blocks that have been kept longest, for which there is no room.
    fn make_room(&mut self) -> Vec<Resting> {
        if self.now - self.of_use > RECENT {
            self.room = KEPT_BYTES;
        }
        let mut total = 0;
        let stay = self.blocks.iter_mut().rev().take_while(|resting| {
            total += resting.block.layout.size();
            total <= self.room
        });
        let stay = stay.count();
        let gone: Vec<Resting> = self.blocks.drain(..self.blocks.len() - stay).collect();
        self.gone.extend(gone.iter().map(|resting| (resting.block.layout.size(), self.now)));
        let mut total = 0;
        for resting in self.blocks.iter_mut().rev() {
            total += resting.block.layout.size();
            resting.extra |= total > KEPT_BYTES;
        }
        gone
    }
}

impl Kept {
    fn lock(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A kept block, at most a quarter too large, or a new one, for which kept ones go. None where the system has no
    /// memory.
    fn take(&self, bytes: usize) -> Option<Block> {
        let bytes = bytes.max(1).checked_next_multiple_of(STEP)?;
        let mut shelf = self.lock();
        shelf.now += 1;
        if let Some(block) = shelf.fitting(bytes) {
            return Some(block);
        }
        shelf.missed(bytes);
        let gone = shelf.let_go_of(bytes);
        drop(shelf);
        drop(gone);
        Block::new(bytes)
    }

    /// The blocks that have been kept longest make room.
    fn keep(&self, block: Block) {
        let mut shelf = self.lock();
        shelf.blocks.push(Resting { block, extra: false });
        let gone = shelf.make_room();
        drop(shelf);
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

    fn sizes(pool: &Kept) -> Vec<usize> {
        pool.lock().blocks.iter().map(|resting| resting.block.layout.size()).collect()
    }

    #[test]
    fn what_is_used_again_at_once_is_kept_and_no_longer() {
        let pool = Kept(std::sync::Mutex::new(Shelf::new()));
        let (large, round) = (70 << 20, || {
            let three = [(); 3].map(|()| pool.take(70 << 20).expect("memory"));
            three.into_iter().for_each(|block| pool.keep(block));
        });
        round();
        assert_eq!(sizes(&pool), [large], "a first time may be the last one");
        (0..2).for_each(|_| round());
        for _ in 0..RECENT {
            round();
            assert_eq!(sizes(&pool), [large; 3]);
        }
        let rest: Vec<Block> = (0..RECENT + 1).map(|_| pool.take(1).expect("memory")).collect();
        assert!(rest.len() > RECENT && sizes(&pool).len() < 3);
        rest.into_iter().for_each(|block| pool.keep(block));
        assert!(sizes(&pool).iter().sum::<usize>() <= KEPT_BYTES, "nobody has asked for so much for long");
        assert_eq!(pool.lock().room, KEPT_BYTES);
    }

    #[test]
    fn what_the_last_step_has_left_is_not_kept_for_the_next() {
        let pool = Kept(std::sync::Mutex::new(Shelf::new()));
        for _ in 0..3 {
            let all: Vec<Block> = (1..4 * RECENT).map(|i| pool.take(i << 19).expect("memory")).collect();
            let before: usize = sizes(&pool).iter().sum();
            assert!(before <= KEPT_BYTES);
            all.into_iter().for_each(|block| pool.keep(block));
            let after: usize = sizes(&pool).iter().sum();
            assert!(after <= KEPT_BYTES, "{after}");
        }
    }

    #[test]
    fn blocks_come_back_and_the_oldest_make_room() {
        let pool = Kept(std::sync::Mutex::new(Shelf::new()));
        let place = |block: &Block| block.start().addr();
        let sizes = || sizes(&pool);
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
        pool.lock().blocks.clear();
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
