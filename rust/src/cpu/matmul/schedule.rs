//! The order of the pieces of a product, such that no thread stands still between two blocks.
//!
//! A phase is one band of columns and one block of the inner index: its block of B is packed, then the rows of C are made,
//! a task at a time. While the rows of one phase are made, B is packed for the next, into the other of two buffers.
//! Threads take pieces in one order and wait for what theirs needs, all of which comes earlier in it: so somebody is
//! at it, and the waiting ends.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Piece {
    /// Some columns of the block of B, into the buffer `phase % 2`.
    Pack { phase: usize, group: usize },
    /// Some rows of C.
    Multiply { phase: usize, task: usize },
}

pub(super) struct Schedule {
    phases: usize,
    /// Pieces that the block of a phase is packed in.
    groups: usize,
    next: AtomicUsize,
    /// Pieces that are packed. Those of a phase begin when those of all earlier ones are done.
    packed: AtomicUsize,
    /// For each task, the phases that are done.
    multiplied: Vec<AtomicU32>,
    /// A piece has panicked: nobody waits any more.
    failed: AtomicBool,
}

impl Schedule {
    pub(super) fn new(phases: usize, groups: usize, tasks: usize) -> Self {
        Self {
            phases,
            groups,
            next: AtomicUsize::new(0),
            packed: AtomicUsize::new(0),
            multiplied: (0..tasks).map(|_| AtomicU32::new(0)).collect(),
            failed: AtomicBool::new(false),
        }
    }

    /// The pieces in order: B of the first phase; then for each phase half of its tasks, B of the next, the other half.
    fn piece(&self, i: usize) -> Option<Piece> {
        let Some(i) = i.checked_sub(self.groups) else { return Some(Piece::Pack { phase: 0, group: i }) };
        let (tasks, half) = (self.multiplied.len(), self.multiplied.len() / 2);
        let (phase, i) = (i / (tasks + self.groups), i % (tasks + self.groups));
        match i {
            _ if phase + 1 >= self.phases => {
                (phase < self.phases && i < tasks).then_some(Piece::Multiply { phase, task: i })
            }
            _ if i < half => Some(Piece::Multiply { phase, task: i }),
            _ if i < half + self.groups => Some(Piece::Pack { phase: phase + 1, group: i - half }),
            _ => Some(Piece::Multiply { phase, task: i - self.groups }),
        }
    }

    /// B is packed up to before this phase, and of the rows nobody is at the phase before the last.
    fn may_begin(&self, piece: Piece) -> bool {
        let done = |task: usize| self.multiplied[task].load(Ordering::Acquire) as usize;
        let packed = self.packed.load(Ordering::Acquire);
        match piece {
            Piece::Pack { phase, .. } => {
                packed >= phase * self.groups && (0..self.multiplied.len()).all(|task| done(task) + 1 >= phase)
            }
            Piece::Multiply { phase, task } => packed >= (phase + 1) * self.groups && done(task) == phase,
        }
    }

    /// Does pieces until none is left. All threads that take part call this.
    ///
    /// When `work` is called with a piece that packs, nobody reads or writes what it writes; with one that multiplies,
    /// B of its phase is packed and stays, and nobody else is at these rows.
    pub(super) fn run(&self, work: impl Fn(Piece)) {
        struct Failed<'a>(&'a AtomicBool);
        impl Drop for Failed<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        while let Some(piece) = self.piece(self.next.fetch_add(1, Ordering::Relaxed)) {
            if !self.wait_for(piece) {
                return;
            }
            let failed = Failed(&self.failed);
            work(piece);
            std::mem::forget(failed);
            match piece {
                Piece::Pack { .. } => self.packed.fetch_add(1, Ordering::Release),
                Piece::Multiply { task, .. } => self.multiplied[task].fetch_add(1, Ordering::Release) as usize,
            };
        }
    }

    /// False when what it waits for will never be.
    fn wait_for(&self, piece: Piece) -> bool {
        for round in 0.. {
            if self.may_begin(piece) {
                return true;
            }
            if self.failed.load(Ordering::Acquire) {
                return false;
            }
            // Whoever is at it may be waiting for this processor.
            if round % 64 == 63 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        unreachable!("rounds without end")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use super::*;

    const EXTENTS: [(usize, usize, usize); 6] = [(1, 1, 1), (1, 3, 1), (4, 1, 1), (5, 2, 3), (3, 7, 2), (6, 3, 16)];

    #[test]
    fn each_piece_once_after_those_it_needs() {
        for (phases, groups, tasks) in EXTENTS {
            let schedule = Schedule::new(phases, groups, tasks);
            let order: Vec<Piece> = (0..).map_while(|i| schedule.piece(i)).collect();
            let mut seen = HashSet::new();
            for piece in &order {
                let before = match *piece {
                    Piece::Pack { phase, .. } if phase < 2 => vec![],
                    Piece::Pack { phase, .. } => {
                        (0..tasks).map(|task| Piece::Multiply { phase: phase - 2, task }).collect()
                    }
                    Piece::Multiply { phase, .. } => (0..groups).map(|group| Piece::Pack { phase, group }).collect(),
                };
                assert!(before.iter().all(|piece| seen.contains(piece)), "{piece:?} of {order:?}");
                assert!(seen.insert(*piece), "{piece:?} twice");
            }
            assert_eq!(order.len(), phases * (groups + tasks));
            assert!((order.len()..order.len() + 99).all(|i| schedule.piece(i).is_none()));
        }
    }

    /// Threads that stop at random places still find what they need, and no buffer is written while it is read.
    #[test]
    fn threads_keep_to_the_rules() {
        for (phases, groups, tasks) in EXTENTS {
            for threads in [1, 2, 5] {
                let schedule = Schedule::new(phases, groups, tasks);
                let busy: Mutex<HashSet<Piece>> = Mutex::default();
                let done: Mutex<Vec<Piece>> = Mutex::default();
                let work =
                    |piece| {
                        {
                            let mut busy = busy.lock().expect("no panic");
                            let done = done.lock().expect("no panic");
                            match piece {
                                Piece::Pack { phase, .. } => assert!(!busy.iter().any(
                                    |other| matches!(other, Piece::Multiply { phase: p, .. } if p % 2 == phase % 2)
                                )),
                                Piece::Multiply { phase, task } => {
                                    assert!((0..groups).all(|group| done.contains(&Piece::Pack { phase, group })));
                                    assert!(
                                        !busy.iter().any(
                                            |other| matches!(other, Piece::Multiply { task: t, .. } if *t == task)
                                        )
                                    );
                                    assert!(phase == 0 || done.contains(&Piece::Multiply { phase: phase - 1, task }));
                                }
                            }
                            busy.insert(piece);
                        }
                        if let Piece::Multiply { phase, task } = piece
                            && (phase * 7 + task) % 3 == 0
                        {
                            std::thread::sleep(std::time::Duration::from_micros(100));
                        }
                        busy.lock().expect("no panic").remove(&piece);
                        done.lock().expect("no panic").push(piece);
                    };
                std::thread::scope(|scope| {
                    (0..threads).for_each(|_| drop(scope.spawn(|| schedule.run(work))));
                });
                assert_eq!(done.into_inner().expect("no panic").len(), phases * (groups + tasks));
            }
        }
    }

    #[test]
    fn a_panic_lets_nobody_wait_for_ever() {
        let schedule = Schedule::new(3, 2, 4);
        let work = |piece| assert_ne!(piece, Piece::Multiply { phase: 1, task: 0 });
        std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..3).map(|_| scope.spawn(|| catch_unwind(AssertUnwindSafe(|| schedule.run(work))))).collect();
            let failed = all.into_iter().map(|one| one.join().expect("caught")).filter(Result::is_err);
            assert_eq!(failed.count(), 1);
        });
    }
}
