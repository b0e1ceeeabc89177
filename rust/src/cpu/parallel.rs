//! Cutting work into pieces that depend on the shape alone, so that any number of threads gives the same bits.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

/// The pool, and the process that built it: after a fork its threads do not exist any more.
static POOL: Mutex<Option<(u32, usize, Arc<rayon::ThreadPool>)>> = Mutex::new(None);

/// Threads asked for: `LLMJP_NUM_THREADS`, else `OMP_NUM_THREADS`, else what affinity and cgroup allow.
fn default_threads() -> usize {
    let asked = |name: &str| std::env::var(name).ok()?.trim().parse::<usize>().ok().filter(|n| *n > 0);
    asked("LLMJP_NUM_THREADS")
        .or_else(|| asked("OMP_NUM_THREADS"))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}

fn build(threads: usize) -> Arc<rayon::ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("llmjp-{i}"));
    Arc::new(builder.build().expect("the operating system gives threads"))
}

fn pool() -> Arc<rayon::ThreadPool> {
    let mut slot = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let here = std::process::id();
    match &*slot {
        Some((owner, _, pool)) if *owner == here => pool.clone(),
        stale => {
            let threads = stale.as_ref().map_or_else(default_threads, |(_, n, _)| *n);
            let fresh = build(threads);
            // A pool from before a fork has no threads to join: it must not be dropped.
            std::mem::forget(slot.replace((here, threads, fresh.clone())));
            fresh
        }
    }
}

/// Number of threads that kernels use.
pub fn num_threads() -> usize {
    pool().current_num_threads()
}

/// Replaces the pool; results do not change.
pub fn set_num_threads(threads: usize) {
    let threads = threads.max(1);
    let fresh = build(threads);
    let mut slot = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let here = std::process::id();
    let before = slot.replace((here, threads, fresh));
    if before.as_ref().is_some_and(|(owner, ..)| *owner != here) {
        std::mem::forget(before);
    }
}

/// Runs `work` inside the pool; directly when it is already there, so a whole step may be wrapped once.
pub fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let inside = match ALONE.get() {
        Alone::Never => rayon::current_thread_index().is_some(),
        Alone::Idle => false,
        Alone::Working => true,
    };
    if inside { work() } else { pool().install(work) }
}

/// What a thread from outside the pool has to do with `alone`.
#[derive(Clone, Copy, PartialEq)]
enum Alone {
    Never,
    Idle,
    Working,
}

thread_local! {
    static ALONE: Cell<Alone> = const { Cell::new(Alone::Never) };
}

/// Runs `work` on the calling thread when it is `small`: to wake the pool would take longer. Results do not change.
///
/// The thread becomes, for good, the only member of a pool of its own.
pub fn alone<R: Send>(small: bool, work: impl FnOnce() -> R + Send) -> R {
    if !small || (ALONE.get() == Alone::Never && !become_alone()) || ALONE.get() == Alone::Working {
        return work();
    }
    struct Idle;
    impl Drop for Idle {
        fn drop(&mut self) {
            ALONE.set(Alone::Idle);
        }
    }
    let _idle_again = Idle;
    ALONE.set(Alone::Working);
    work()
}

/// False where it cannot be: on a thread of the pool.
fn become_alone() -> bool {
    match rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build() {
        Ok(own) => {
            // The thread stays its member: to drop the pool would leave it in one that has ended.
            std::mem::forget(own);
            ALONE.set(Alone::Idle);
            true
        }
        Err(_) => false,
    }
}

/// Calls `work(i)` for every `i < count`, in any order.
pub fn for_each(count: usize, work: impl Fn(usize) + Send + Sync) {
    use rayon::prelude::*;
    if count <= 1 {
        (0..count).for_each(work);
        return;
    }
    install(|| (0..count).into_par_iter().for_each(&work));
}

/// x = 0. Fresh memory is slow to write for the first time, so that is shared out too.
pub fn zero(x: &mut [f32]) {
    use rayon::prelude::*;
    const PART: usize = 1 << 20;
    if x.len() <= PART {
        return x.fill(0.0);
    }
    install(|| x.par_chunks_mut(PART).for_each(|x| x.fill(0.0)));
}

/// Rows of equal length, of which several tasks write different columns at the same time.
pub struct Columns<'a, T> {
    data: *mut T,
    rows: usize,
    row: usize,
    borrowed: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: tasks reach elements through `part` alone, whose contract keeps their pieces apart; T may be sent.
unsafe impl<T: Send> Sync for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    pub fn new(data: &'a mut [T], row: usize) -> Self {
        let rows = data.len().checked_div(row).unwrap_or(0);
        Self { data: data.as_mut_ptr(), rows, row, borrowed: std::marker::PhantomData }
    }

    /// # Safety
    /// No other piece that is alive shares an element with this one.
    ///
    /// # Panics
    /// When the piece is not inside the data.
    #[expect(clippy::mut_from_ref, reason = "pieces are disjoint by contract")]
    pub unsafe fn part(&self, row: usize, columns: std::ops::Range<usize>) -> &mut [T] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.row, "a piece of a row");
        // SAFETY: the assertion keeps the piece inside the data, which is borrowed for 'a; the caller keeps pieces apart.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.row + columns.start), columns.len()) }
    }
}
