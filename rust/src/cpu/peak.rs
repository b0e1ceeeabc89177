//! What the vector unit of one core, or the unit for tiles, gives at most: multiply-adds of registers alone.  For
//! benchmarks, which tell how much of it a product reaches.

use std::hint::black_box;
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use super::isa::{Amx, Avx512Bf16};
use super::isa::{Simd, dispatch, isa};
use crate::dtype::DType;

/// Multiplications and additions a second of the calling thread, for products of `dtype` as `matmul` makes them.
pub fn rate(dtype: DType) -> f64 {
    const STEPS: usize = 20_000;
    /// Of several runs the fastest: others were interrupted.
    const RUNS: usize = 50;
    let isa = isa();
    let run = || {
        #[cfg(target_arch = "x86_64")]
        if let (DType::BF16, Some(tiles)) = (dtype, isa.tiles()) {
            return of_tiles(tiles, STEPS);
        }
        #[cfg(target_arch = "x86_64")]
        if let (DType::BF16, Some(pairs)) = (dtype, isa.pairs()) {
            return pairs.run(
                #[inline(always)]
                || of_pairs(pairs, STEPS),
            );
        }
        dispatch!(isa, s => of_vectors(s, STEPS))
    };
    let timed = || {
        let begin = Instant::now();
        let operations = black_box(run());
        operations as f64 / begin.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| timed()).fold(0.0, f64::max)
}

/// `steps` times as many sums as the registers hold and the latency of one asks for; returns the operations.
#[inline(always)]
fn of_vectors<S: Simd>(s: S, steps: usize) -> usize {
    if S::DOZEN { sums::<S, 12>(s, steps) } else { sums::<S, 6>(s, steps) }
}

#[inline(always)]
fn sums<S: Simd, const N: usize>(s: S, steps: usize) -> usize {
    let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(0.25)));
    let mut c = [s.splat(0.0); N];
    for _ in 0..steps {
        for i in 0..N {
            c[i] = s.fma_each(a, b, c[i]);
        }
    }
    let mut out = [0.0; 16];
    for c in c {
        s.store(&mut out, c);
        black_box(&out);
    }
    2 * 16 * N * steps
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn of_pairs(s: Avx512Bf16, steps: usize) -> usize {
    const N: usize = 12;
    let (a, b) = (s.splat_pair(black_box(0x3f00_3f00)), s.splat_pair(black_box(0x3e80_3e80)));
    let mut c = [s.vectors().splat(0.0); N];
    for _ in 0..steps {
        for i in 0..N {
            c[i] = s.add_products(a, b, c[i]);
        }
    }
    let mut out = [0.0; 16];
    for c in c {
        s.vectors().store(&mut out, c);
        black_box(&out);
    }
    4 * 16 * N * steps
}

#[cfg(target_arch = "x86_64")]
fn of_tiles(s: Amx, steps: usize) -> usize {
    s.with_tiles(|tiles| tiles.spin(steps));
    4 * 2 * 16 * 16 * 32 * steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count is right: one tenth of the steps have one tenth of the operations.
    #[test]
    fn operations_are_counted() {
        for isa in super::super::isa::all() {
            let of = |steps| dispatch!(isa, s => of_vectors(s, steps));
            assert_eq!(of(1000), 10 * of(100), "{}", isa.name());
            assert_eq!(of(1) % 192, 0);
        }
        for dtype in [DType::F32, DType::BF16] {
            assert!(rate(dtype).is_finite() && rate(dtype) > 0.0);
        }
    }
}
