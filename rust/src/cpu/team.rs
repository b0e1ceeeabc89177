//! Threads that share one piece of work with the thread that has it, and stay awake for a moment afterwards.
//!
//! A rayon pool is asked from outside: a thread of it wakes, wakes the others, and wakes the caller at the end. That
//! is three times what waking a thread takes (30 to 60 µs each on a virtual machine), as long as an op on a megabyte.
//! Here the caller works too, helpers that come late find nothing left to do, and between two ops nobody sleeps.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// How long a thread that waits looks for what it waits for before it sleeps.
const AWAKE: Duration = Duration::from_micros(50);

/// Called once by each thread that takes part; returns when there is nothing left to take.
type Work<'a> = dyn Fn() + Sync + 'a;

/// The calling thread and its helpers.
pub(super) struct Team {
    threads: usize,
    turn: Mutex<()>,
    state: Arc<State>,
}

/// The right to use the team.
pub(super) struct Turn<'a> {
    state: &'a State,
    _held: MutexGuard<'a, ()>,
}

#[derive(Default)]
struct State {
    /// How many works there have been.
    posted: AtomicUsize,
    /// Helpers that are at work; changes under the lock of `slot`.
    inside: AtomicUsize,
    slot: Mutex<Slot>,
    wake: Condvar,
    left: Condvar,
}

#[derive(Default)]
struct Slot {
    work: Option<&'static Work<'static>>,
    asleep: usize,
    ended: bool,
    panic: Option<Box<dyn Any + Send>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// False when it still holds after a moment.
fn soon_ends(holds: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while holds() {
        if begin.elapsed() > AWAKE {
            return false;
        }
        (0..16).for_each(|_| std::hint::spin_loop());
    }
    true
}

impl Team {
    pub(super) fn new(threads: usize) -> Self {
        let state = Arc::new(State::default());
        for i in 1..threads {
            let state = Arc::clone(&state);
            let helper = std::thread::Builder::new().name(format!("llmjp-{i}")).spawn(move || state.help());
            drop(helper.expect("the operating system gives threads"));
        }
        Self { threads, turn: Mutex::new(()), state }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// None while another thread, or this one, has it.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let held = match self.turn.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(), // work has panicked, which `run` has cleared up
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Turn { state: &self.state, _held: held })
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        lock(&self.state.slot).ended = true;
        self.state.wake.notify_all();
    }
}

/// Takes the work away, and waits for those who are at it.
struct Close<'a>(&'a State);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        lock(&self.0.slot).work = None;
        let busy = || self.0.inside.load(Ordering::Acquire) > 0;
        if !soon_ends(busy) {
            let slot = lock(&self.0.slot);
            drop(self.0.left.wait_while(slot, |_| busy()));
        }
    }
}

impl Turn<'_> {
    /// Calls `work` here and, on at most so many threads that must be woken, there.
    ///
    /// # Panics
    /// When `work` does, here or there.
    pub(super) fn run(&self, helpers: usize, work: &Work<'_>) {
        // SAFETY: only the lifetime changes. Helpers find the reference in the slot and use it while they are counted
        // as inside; `Close` empties the slot and waits until none is, also when `work` panics here, before the
        // borrow ends.
        let lasting = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        let close = Close(self.state);
        let mut slot = lock(&self.state.slot);
        slot.work = Some(lasting);
        self.state.posted.fetch_add(1, Ordering::Release);
        let asleep = slot.asleep;
        drop(slot);
        (0..helpers.min(asleep)).for_each(|_| self.state.wake.notify_one());
        work();
        drop(close);
        let panic = lock(&self.state.slot).panic.take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl State {
    /// The life of a helper.
    fn help(&self) {
        let mut seen = 0;
        loop {
            let nothing_new = || self.posted.load(Ordering::Acquire) == seen;
            soon_ends(nothing_new);
            let mut slot = lock(&self.slot);
            while nothing_new() && !slot.ended {
                slot.asleep += 1;
                slot = self.wake.wait(slot).unwrap_or_else(|poisoned| poisoned.into_inner());
                slot.asleep -= 1;
            }
            if slot.ended {
                return;
            }
            seen = self.posted.load(Ordering::Acquire);
            let Some(work) = slot.work else { continue };
            self.inside.fetch_add(1, Ordering::Relaxed);
            drop(slot);
            let result = catch_unwind(AssertUnwindSafe(work));
            let mut slot = lock(&self.slot);
            if let Err(panic) = result {
                slot.panic = Some(panic);
            }
            if self.inside.fetch_sub(1, Ordering::Release) == 1 {
                self.left.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of `count` numbers once, by whoever comes first.
    fn visit(team: &Team, count: usize) -> Vec<usize> {
        let (next, visits) = (AtomicUsize::new(0), (0..count).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let take = || {
            while let Some(visit) = visits.get(next.fetch_add(1, Ordering::Relaxed)) {
                visit.fetch_add(1, Ordering::Relaxed);
            }
        };
        team.turn().expect("free").run(team.threads() - 1, &take);
        visits.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn everything_is_done_once() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            for round in 0..200 {
                assert_eq!(visit(&team, round), vec![1; round], "{threads} threads");
                if round % 50 == 0 {
                    std::thread::sleep(3 * AWAKE); // from their sleep too
                }
            }
        }
    }

    #[test]
    fn helpers_take_part() {
        let (team, here) = (Team::new(2), std::thread::current().id());
        let elsewhere = AtomicUsize::new(0);
        let wait_for_the_other = || {
            if std::thread::current().id() != here {
                elsewhere.store(1, Ordering::Release);
            }
            while elsewhere.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
        };
        team.turn().expect("free").run(1, &wait_for_the_other);
        assert_eq!(elsewhere.into_inner(), 1);
    }

    #[test]
    fn a_panic_comes_back_and_the_team_goes_on() {
        let (team, here) = (Team::new(2), std::thread::current().id());
        for there in [true, false] {
            let began = AtomicUsize::new(0);
            let fail = || {
                began.fetch_add(1, Ordering::AcqRel);
                while began.load(Ordering::Acquire) < 2 {
                    std::thread::yield_now();
                }
                assert!((std::thread::current().id() != here) != there, "as asked");
            };
            let failed = catch_unwind(AssertUnwindSafe(|| team.turn().expect("free").run(1, &fail)));
            assert!(failed.is_err(), "there: {there}");
            assert_eq!(visit(&team, 9), [1; 9]);
        }
    }

    #[test]
    fn one_turn_at_a_time() {
        let team = Team::new(2);
        let turn = team.turn().expect("free");
        turn.run(1, &|| assert!(team.turn().is_none()));
        drop(turn);
        assert!(team.turn().is_some());
    }
}
