//! Products of training shapes in float32 beside those of other crates: GFLOP/s, all in turns.
//!
//!     cargo run --release --manifest-path benches/matmul_crates/Cargo.toml [rounds]
//!
//! x (N, I), w (O, I), dy (N, O): NT is x·wᵀ, NN is dy·w, TN is dyᵀ·x. As many threads as RAYON_NUM_THREADS says, else 2.

use std::hint::black_box;
use std::time::Instant;

use llmjp_core::cpu::{linear, parallel};

const SHAPES: [(usize, usize, usize); 6] =
    [(2048, 384, 1024), (2048, 384, 384), (512, 768, 2048), (2048, 768, 3072), (2048, 2048, 2048), (1024, 2048, 8192)];

/// Where element (i, j) of a matrix stands.
#[derive(Clone, Copy)]
struct Layout {
    row: isize,
    column: isize,
}

/// c (m, n) = a (m, k) · b (k, n); c is row-major.
struct Product<'a> {
    extents: (usize, usize, usize),
    c: &'a mut [f32],
    a: (&'a [f32], Layout),
    b: (&'a [f32], Layout),
}

fn by_gemm(p: &mut Product, threads: usize) {
    let ((m, n, k), (a, la), (b, lb)) = (p.extents, p.a, p.b);
    // SAFETY: the slices hold all elements that extents and layouts name.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            p.c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            la.column,
            la.row,
            b.as_ptr(),
            lb.column,
            lb.row,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(threads),
        );
    }
}

fn by_faer(p: &mut Product, threads: usize) {
    let ((m, n, k), (a, la), (b, lb)) = (p.extents, p.a, p.b);
    // SAFETY: the slices hold all elements that extents and layouts name.
    let (a, b) = unsafe {
        (
            faer::MatRef::from_raw_parts(a.as_ptr(), m, k, la.row, la.column),
            faer::MatRef::from_raw_parts(b.as_ptr(), k, n, lb.row, lb.column),
        )
    };
    let c = faer::MatMut::from_row_major_slice_mut(p.c, m, n);
    faer::linalg::matmul::matmul(c, faer::Accum::Replace, a, b, 1.0, faer::Par::rayon(threads));
}

fn by_matrixmultiply(p: &mut Product, _: usize) {
    let ((m, n, k), (a, la), (b, lb)) = (p.extents, p.a, p.b);
    // SAFETY: the slices hold all elements that extents and layouts name.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), p.c.as_mut_ptr());
        matrixmultiply::sgemm(m, k, n, 1.0, a, la.row, la.column, b, lb.row, lb.column, 0.0, c, n as isize, 1);
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(9, |rounds| rounds.parse().expect("a number of rounds"));
    let threads = std::env::var("RAYON_NUM_THREADS").map_or(2, |threads| threads.parse().expect("a number of threads"));
    rayon_core::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the system gives threads");
    parallel::set_num_threads(threads);
    println!("float32, {threads} threads, GFLOP/s: medians of {rounds} rounds\n");
    println!("| N x I x O | product | llmjp_core | gemm | faer | matrixmultiply | to the best of the others |");
    println!("|---|---|---|---|---|---|---|");
    for (n, i, o) in SHAPES {
        let (x, w, dy) = (numbers(n * i), numbers(o * i), numbers(n * o));
        let lies = |columns: usize| Layout { row: columns as isize, column: 1 };
        let stands = |columns: usize| Layout { row: 1, column: columns as isize };
        for kind in ["NT", "NN", "TN"] {
            let (extents, a, b) = match kind {
                "NT" => ((n, o, i), (&x[..], lies(i)), (&w[..], stands(i))),
                "NN" => ((n, i, o), (&dy[..], lies(o)), (&w[..], lies(i))),
                _ => ((o, i, n), (&dy[..], stands(o)), (&x[..], lies(i))),
            };
            let (mut c, mut want) = (vec![0.0; extents.0 * extents.1], vec![0.0; extents.0 * extents.1]);
            let mut times = [const { Vec::new() }; 4];
            for _ in 0..=rounds {
                let begin = Instant::now();
                match kind {
                    "NT" => linear::forward(&mut want, &x, &w, None, n, i, o),
                    "NN" => linear::backward_input(&mut want, &dy, &w, n, i, o),
                    _ => linear::backward_weight(&mut want, None, &dy, &x, n, i, o, false),
                }
                times[0].push(begin.elapsed().as_secs_f64());
                for (times, run) in times[1..].iter_mut().zip([by_gemm, by_faer, by_matrixmultiply]) {
                    c.fill(f32::NAN);
                    let begin = Instant::now();
                    run(black_box(&mut Product { extents, c: &mut c, a, b }), threads);
                    times.push(begin.elapsed().as_secs_f64());
                    let far = c.iter().zip(&want).map(|(c, w)| (c - w).abs()).fold(0.0, f32::max);
                    assert!(far <= 1e-3 * (extents.2 as f32).sqrt(), "{kind}: off by {far}");
                }
            }
            let speeds = times.map(|times| 2e-9 * (n * i * o) as f64 / median(times[1..].to_vec()));
            let best = speeds[1..].iter().copied().fold(0.0, f64::max);
            let [ours, a, b, c] = speeds;
            println!("| {n} x {i} x {o} | {kind} | {ours:.0} | {a:.0} | {b:.0} | {c:.0} | {:.2} |", ours / best);
        }
    }
}
