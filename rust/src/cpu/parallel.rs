//! Cutting work into pieces that depend on the shape alone, so that any number of threads gives the same bits.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::prelude::*;

use super::team::{Team, Turn};

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

/// The same threads once more, for [`share`], and the process that built them.
static TEAM: Mutex<Option<(u32, Arc<Team>)>> = Mutex::new(None);

fn team() -> Arc<Team> {
    let threads = num_threads();
    let mut slot = TEAM.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let here = std::process::id();
    match &*slot {
        Some((owner, team)) if *owner == here && team.threads() == threads => team.clone(),
        _ => {
            let fresh = Arc::new(Team::new(threads));
            let before = slot.replace((here, fresh.clone()));
            if before.as_ref().is_some_and(|(owner, _)| *owner != here) {
                std::mem::forget(before); // its lock may be held by a thread that does not exist any more
            }
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

thread_local! {
    /// What this thread does now is too small to be shared out.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the calling thread when it is `small`: to wake others would take longer. Results do not change.
pub fn alone<R>(small: bool, work: impl FnOnce() -> R) -> R {
    if !small || ALONE.get() {
        return work();
    }
    struct Together;
    impl Drop for Together {
        fn drop(&mut self) {
            ALONE.set(false);
        }
    }
    let _together_again = Together;
    ALONE.set(true);
    work()
}

/// Calls `work` for each item, in any order: for ops that go through memory once, where waking threads counts.
pub fn share<I: IndexedParallelIterator>(items: I, work: impl Fn(I::Item) + Send + Sync) {
    if ALONE.get() {
        return items.with_producer(InOrder(work));
    }
    if rayon::current_thread_index().is_some() {
        return items.for_each(work);
    }
    let (len, team) = (items.len(), team());
    match team.turn() {
        _ if len < 2 || team.threads() == 1 => items.with_producer(InOrder(work)),
        Some(turn) => items.with_producer(Shared { turn, len, parts: len.min(PARTS * team.threads()), work }),
        None => pool().install(|| items.for_each(work)),
    }
}

/// Calls `work(i)` for each `i < count`, in any order, for long pieces of work: whoever is free takes the next.
pub fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    together(count < 2, &|| {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                i if i < count => work(i),
                _ => return,
            }
        }
    });
}

/// Calls `work` on the calling thread and, unless it is `small`, on all others that are free: each takes from what there
/// is to do until nothing is left.
pub fn together(small: bool, work: &(dyn Fn() + Sync)) {
    if small || ALONE.get() {
        return work();
    }
    if rayon::current_thread_index().is_some() {
        return rayon::scope(|scope| {
            (1..rayon::current_num_threads()).for_each(|_| scope.spawn(|_| work()));
            work();
        });
    }
    let team = team();
    match team.turn() {
        _ if team.threads() == 1 => work(),
        Some(turn) => turn.run(team.threads() - 1, work),
        None => pool().install(|| together(false, work)),
    }
}

/// Parts of shared work that a thread has on average: one that is held up elsewhere leaves some to the others.
const PARTS: usize = 4;

struct InOrder<F>(F);

impl<T, F: Fn(T)> ProducerCallback<T> for InOrder<F> {
    type Output = ();

    fn callback<P: Producer<Item = T>>(self, items: P) {
        items.into_iter().for_each(self.0);
    }
}

struct Shared<'a, F> {
    turn: Turn<'a>,
    len: usize,
    parts: usize,
    work: F,
}

impl<T, F: Fn(T) + Sync> ProducerCallback<T> for Shared<'_, F> {
    type Output = ();

    fn callback<P: Producer<Item = T>>(self, mut items: P) {
        let (mut parts, mut len) = (Vec::with_capacity(self.parts), self.len);
        for left in (1..self.parts).rev() {
            let (part, rest) = items.split_at(len / (left + 1));
            len -= len / (left + 1);
            items = rest;
            parts.push(Mutex::new(Some(part)));
        }
        parts.push(Mutex::new(Some(items)));
        let next = AtomicUsize::new(0);
        self.turn.run(self.parts - 1, &|| {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let part = part.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
                part.into_iter().for_each(|part| part.into_iter().for_each(&self.work));
            }
        });
    }
}

/// x = 0. Fresh memory is slow to write for the first time, so that is shared out too.
pub fn zero(x: &mut [f32]) {
    const PART: usize = 1 << 20;
    if x.len() <= PART {
        return x.fill(0.0);
    }
    share(x.par_chunks_mut(PART), |x| x.fill(0.0));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 1, 2, 3 and so on, made by shared work.
    fn count_to(n: usize) -> Vec<usize> {
        let mut numbers = vec![0; n];
        share(numbers.par_chunks_mut(7).enumerate(), |(i, part)| {
            part.iter_mut().enumerate().for_each(|(j, x)| *x += 7 * i + j + 1);
        });
        numbers
    }

    #[test]
    fn shared_work_is_done_once_wherever_it_is_asked_for() {
        for n in [0, 1, 7, 8, 100, 1000] {
            let want: Vec<usize> = (1..=n).collect();
            assert_eq!(count_to(n), want);
            assert_eq!(pool().install(|| count_to(n)), want, "in the pool");
            assert_eq!(alone(true, || count_to(n)), want, "alone");
            assert_eq!(count_to(n), want, "by a thread that has been alone");
            let inside = Mutex::new(Vec::new());
            share((0..3).into_par_iter(), |_| inside.lock().expect("no panic").push(count_to(n)));
            assert_eq!(inside.into_inner().expect("no panic"), vec![want.clone(); 3], "in shared work");
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| count_to(n))).collect();
                all.into_iter().for_each(|one| assert_eq!(one.join().expect("no panic"), want, "by four at once"));
            });
        }
    }

    #[test]
    fn each_piece_is_done_once_wherever_it_is_asked_for() {
        let visits = |n: usize| {
            let visits: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            for_each(n, |i| {
                visits[i].fetch_add(1, Ordering::Relaxed);
            });
            visits.into_iter().map(AtomicUsize::into_inner).collect::<Vec<_>>()
        };
        for n in [0, 1, 2, 100] {
            assert_eq!(visits(n), vec![1; n]);
            assert_eq!(pool().install(|| visits(n)), vec![1; n], "in the pool");
            assert_eq!(alone(true, || visits(n)), vec![1; n], "alone");
            let inside = Mutex::new(Vec::new());
            for_each(2, |_| inside.lock().expect("no panic").push(visits(n)));
            assert_eq!(inside.into_inner().expect("no panic"), vec![vec![1; n]; 2], "inside");
        }
    }

    #[test]
    fn the_number_of_threads_can_change() {
        let before = num_threads();
        for threads in [1, 3, before] {
            set_num_threads(threads);
            assert_eq!(count_to(100), (1..=100).collect::<Vec<_>>());
            assert_eq!(team().threads(), num_threads());
        }
    }
}
