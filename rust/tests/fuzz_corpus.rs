//! The seeds of the fuzz targets, and some thousand changes of them, through the targets' bodies.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

/// Counts what this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn add(bytes: usize) {
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

fn subtract(bytes: usize) {
    // What another thread made may go here.
    HELD.set(HELD.get().saturating_sub(bytes));
}

// SAFETY: `System` does the work; the counters are plain cells of the thread, which own nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        subtract(layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that `run` needs at most beyond what was there.
fn peak(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    run();
    PEAK.get() - before
}

/// Tables over all characters, whatever the file: the code points are counted once, 4.4 MB.
const TABLES: usize = 24 << 20;
/// A regular expression may be compiled to so much, by its own limit.
const PATTERNS: usize = 96 << 20;
/// Bytes in memory for a byte of a file: a piece of one byte costs a node and its lists.
const FACTOR: usize = 2000;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("the folder of seeds").map(|f| f.expect("a seed")).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    files
        .iter()
        .map(|f| (f.file_name().to_string_lossy().into_owned(), std::fs::read(f.path()).expect("a seed")))
        .collect()
}

/// A small generator of numbers, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % limit.max(1) as u64) as usize
    }
}

/// Lengths and numbers that are at the edge of something, as varints and as text.
const EDGES: [&[u8]; 10] = [
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x10",
    b"\x00\x00\x80\x7f",
    b"\xff\xff\xff\xff",
    b"\0",
    b"4294967296",
    b"-1",
    b"1e999",
    b"[[[[[[[[",
];

fn change(random: &mut Random, seeds: &[(String, Vec<u8>)], file: &mut Vec<u8>) {
    let at = random.below(file.len() + 1);
    let end = (at + 1 + random.below(16)).min(file.len());
    match random.below(8) {
        0 if at < file.len() => file[at] ^= 1 << random.below(8),
        1 if at < file.len() => file[at] = random.below(256) as u8,
        2 => file.truncate(at),
        3 if at < end => _ = file.drain(at..end),
        4 if at < end => {
            let part = file[at..end].to_vec();
            file.splice(at..at, part);
        }
        5 => {
            let edge = EDGES[random.below(EDGES.len())];
            let end = (at + edge.len()).min(file.len());
            file.splice(at..end, edge.iter().copied());
        }
        6 => _ = file.splice(at..at, EDGES[random.below(EDGES.len())].iter().copied()),
        _ => {
            let other = &seeds[random.below(seeds.len())].1;
            let from = random.below(other.len() + 1);
            let to = (from + random.below(64)).min(other.len());
            file.splice(at..end.max(at), other[from..to].iter().copied());
        }
    }
}

/// Times as many changes as usual, and other ones: `FUZZ_TIMES` of a long run.
fn times() -> usize {
    std::env::var("FUZZ_TIMES").map_or(1, |times| times.parse().expect("FUZZ_TIMES is a whole number"))
}

/// Runs `body` over the seeds of a target and `changes` changed ones.
fn replay(target: &str, body: fn(&[u8]), changes: usize, fixed: usize) {
    let seeds = seeds(target);
    assert!(seeds.len() >= 8, "{target} has {} seeds", seeds.len());
    body(&seeds[0].1);
    let run = |name: &str, file: &[u8]| {
        let used = std::panic::catch_unwind(|| peak(|| body(file)));
        let used = used.unwrap_or_else(|_| panic!("{target}, {name}: {}", file.escape_ascii()));
        let limit = fixed + FACTOR * file.len();
        assert!(used <= limit, "{target}, {name}: {} bytes took {used} bytes of memory", file.len());
    };
    seeds.iter().for_each(|(name, file)| run(name, file));
    let mut random = Random(times() as u64);
    for number in 0..changes * times() {
        let (name, seed) = &seeds[random.below(seeds.len())];
        let mut file = seed.clone();
        for _ in 0..1 + random.below(4) {
            change(&mut random, &seeds, &mut file);
        }
        run(&format!("change {number} of {name}"), &file);
    }
}

#[test]
fn model_file() {
    replay("model_file", bodies::model_file, 1200, TABLES);
}

#[test]
fn tokenizer_json() {
    replay("tokenizer_json", bodies::tokenizer_json, 1500, TABLES + PATTERNS);
}

#[test]
fn encode_decode() {
    replay("encode_decode", bodies::encode_decode, 400, TABLES);
}

#[test]
fn memory_is_counted() {
    assert!((1000..5000).contains(&peak(|| drop(std::hint::black_box(vec![0u8; 1000])))));
}
