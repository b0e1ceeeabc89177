//! What the unit tests of kernels share: inputs, the comparison with the reference, gradients by differences.

use super::isa;
use crate::dtype::{DType, Element};

/// Rounding to f32, half the distance of neighbours at 1.
const UNIT_F32: f64 = 1.0 / (1 << 24) as f64;

/// n numbers in (−2, 2), the same for the same seed (splitmix64).
pub(super) fn random(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 51) as f64 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

/// Random numbers that T holds exactly, as T and as f64.
pub(super) fn sample<T: Element>(seed: u64, n: usize) -> (Vec<T>, Vec<f64>) {
    let stored: Vec<T> = random(seed, n).iter().map(|x| T::from_f32(*x as f32)).collect();
    let exact = stored.iter().map(|x| f64::from(x.to_f32())).collect();
    (stored, exact)
}

/// A place for a result: NaN, so that an element left out is seen.
pub(super) fn place<T: Element>(n: usize) -> Vec<T> {
    vec![T::from_f32(f32::NAN); n]
}

/// Each element within one rounding to T plus `roundings` roundings to f32 of the largest exact value.
pub(super) fn assert_close<T: Element>(what: &str, ours: &[T], exact: &[f64], roundings: f64) {
    assert_eq!(ours.len(), exact.len(), "{what}: number of elements");
    let unit = match T::DTYPE {
        DType::F32 => 0.0,
        DType::F16 => 1.0 / f64::from(1 << 11),
        DType::BF16 => 1.0 / f64::from(1 << 8),
    };
    let largest = exact.iter().fold(0.0f64, |top, x| top.max(x.abs()));
    for (i, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        let error = (f64::from(ours.to_f32()) - exact).abs();
        let own = error - unit * exact.abs() * (1.0 + unit);
        let count = own / (UNIT_F32 * largest);
        assert!(
            count <= roundings,
            "{what} {:?}: element {i} is {ours:?}, not {exact}: {count:.2} roundings",
            T::DTYPE
        );
    }
}

/// `gradient` is that of f at x, by central differences in f64.
pub(super) fn check_gradient(what: &str, f: impl Fn(&[f64]) -> f64, x: &[f64], gradient: &[f64]) {
    assert_eq!(x.len(), gradient.len(), "{what}: number of elements");
    let largest = gradient.iter().fold(1e-3f64, |top, g| top.max(g.abs()));
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        let h = 1e-5;
        let mut at = |x| {
            moved[i] = x;
            f(&moved)
        };
        let slope = (at(x[i] + h) - at(x[i] - h)) / (2.0 * h);
        moved[i] = x[i];
        assert!((slope - gradient[i]).abs() < 1e-7 * largest, "{what}: element {i}: {slope} {}", gradient[i]);
    }
}

/// Σ a·b.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Runs a check for each instruction set of this CPU and each element type.
macro_rules! each_dtype {
    ($check:ident) => {
        for isa in crate::cpu::isa::all() {
            crate::cpu::isa::with(isa, || {
                $check::<f32>();
                $check::<crate::dtype::f16>();
                $check::<crate::dtype::bf16>();
            });
        }
    };
}

pub(super) use each_dtype;

/// `work` gives the same bits with 1, 2, 3 and 7 threads, and called from outside a pool, on each instruction set.
pub(super) fn same_on_all_threads<T: Element>(what: &str, work: impl Fn() -> Vec<T> + Sync) {
    for isa in isa::all() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let result = pool.install(|| isa::with(isa, &work));
            bytemuck::cast_slice::<T, u8>(&result).to_vec()
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert!(one == run(threads), "{what}: {threads} threads give other bits ({})", isa.name());
        }
        let outside = isa::with(isa, &work);
        let same = one == bytemuck::cast_slice::<T, u8>(&outside);
        assert!(same, "{what}: the threads that share work give other bits ({})", isa.name());
    }
}

#[test]
#[should_panic(expected = "element 3")]
fn a_wrong_element_is_seen() {
    let (mut stored, exact) = sample::<f32>(1, 9);
    stored[3] += 1e-5;
    assert_close("x", &stored, &exact, 16.0);
}

#[test]
#[should_panic(expected = "element 0")]
fn an_element_left_out_is_seen() {
    assert_close("x", &place::<crate::dtype::bf16>(2), &[1.0, 2.0], 1e9);
}

#[test]
#[should_panic(expected = "element 1")]
fn a_wrong_gradient_is_seen() {
    check_gradient("x²", |x| x.iter().map(|x| x * x).sum(), &[1.0, 2.0], &[2.0, 4.001]);
}
