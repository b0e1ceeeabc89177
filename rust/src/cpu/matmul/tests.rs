use super::super::testing::{assert_close, each_dtype, place, random, same_on_all_threads, sample};
use super::*;
use crate::dtype::bf16;

fn transposed(x: &[f64], cols: usize) -> Vec<f64> {
    (0..x.len()).map(|i| x[i % (x.len() / cols) * cols + i / (x.len() / cols)]).collect()
}

/// All four layouts of the operands, with bias; then C += with narrow and with f32 operands.
fn check<T: Element>(m: usize, k: usize, n: usize) {
    let ((a, exact_a), (b, exact_b), (bias, exact_bias)) =
        (sample::<T>(1, m * k), sample::<T>(2, k * n), sample::<T>(3, n));
    for layout in 0..4 {
        let (a, exact_a) = match layout & 1 {
            0 => (Mat::new(&a, m, k), exact_a.clone()),
            _ => (Mat::new(&a, k, m).t(), transposed(&exact_a, m)),
        };
        let (b, exact_b) = match layout & 2 {
            0 => (Mat::new(&b, k, n), exact_b.clone()),
            _ => (Mat::new(&b, n, k).t(), transposed(&exact_b, k)),
        };
        let what = format!("{m}x{k}x{n} layout {layout}");
        let exact = reference::matmul(&exact_a, &exact_b, m, k, n);
        let mut c = place::<T>(m * n);
        matmul(&mut c, a, b, None);
        assert_close(&what, &c, &exact, 16.0);
        let biased: Vec<f64> = exact.iter().zip(exact_bias.iter().cycle()).map(|(x, b)| x + b).collect();
        matmul(&mut c, a, b, Some(&bias));
        assert_close(&what, &c, &biased, 16.0);
        let mut sums: Vec<f32> = random(4, m * n).iter().map(|x| *x as f32).collect();
        let total: Vec<f64> = exact.iter().zip(&sums).map(|(x, c)| x + f64::from(*c)).collect();
        matmul_add(&mut sums, a, b);
        assert_close(&what, &sums, &total, 16.0);
    }
}

fn small<T: Element>() {
    let odd = [(5, 16, 129), (16, 129, 5), (3, 300, 70), (129, 5, 16), (31, 17, 33), (26, 19, 131), (70, 64, 45)];
    for (m, k, n) in odd.into_iter().chain([(1, 1, 1)]) {
        check::<T>(m, k, n);
    }
}

#[test]
fn fast_equals_reference() {
    each_dtype!(small);
}

/// More than one block of the inner index, of any kernel, and more than one band of columns.
fn blocks_and_bands_of<T: Element>() {
    check::<T>(26, 771, 2048 + 5);
}

#[test]
fn blocks_and_bands() {
    each_dtype!(blocks_and_bands_of);
    check::<bf16>(40, 1035, 523);
}

#[test]
fn nothing_to_add() {
    let mut c = [1.0f32; 6];
    matmul_add(&mut c, Mat::new(&[0.0f32; 0], 2, 0), Mat::new(&[0.0f32; 0], 0, 3));
    assert_eq!(c, [1.0; 6]);
    matmul(&mut c, Mat::new(&[0.0f32; 0], 2, 0), Mat::new(&[0.0f32; 0], 0, 3), Some(&[1.0, 2.0, 3.0]));
    assert_eq!(c, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}

/// Rows with something between them, the last of which ends with the data.
fn rows_apart_of<T: Element>() {
    let (m, k, n, row) = (64, 96, 33, 101);
    let ((a, exact_a), (b, exact_b)) = (sample::<T>(1, (m - 1) * row + k), sample::<T>(2, k * n));
    let dense: Vec<f64> = (0..m * k).map(|i| exact_a[i / k * row + i % k]).collect();
    let mut c = place::<T>(m * n);
    matmul(&mut c, Mat { data: &a, rows: m, cols: k, row, col: 1 }, Mat::new(&b, k, n), None);
    assert_close("rows apart", &c, &reference::matmul(&dense, &exact_b, m, k, n), 16.0);
}

#[test]
fn rows_apart() {
    each_dtype!(rows_apart_of);
}

#[test]
fn mixed_types() {
    let ((a, exact_a), (b, exact_b)) = (sample::<f32>(1, 30 * 40), sample::<bf16>(2, 40 * 50));
    let mut c = place::<bf16>(30 * 50);
    matmul(&mut c, Mat::new(&a, 30, 40), Mat::new(&b, 40, 50), None);
    assert_close("f32·bf16", &c, &reference::matmul(&exact_a, &exact_b, 30, 40, 50), 16.0);
}

fn threads_change_nothing_in<T: Element>(k: usize) {
    let ((a, _), (b, _)) = (sample::<T>(1, 129 * k), sample::<T>(2, k * 130));
    for m in [2, 17, 129] {
        same_on_all_threads("matmul", || {
            let mut c = place::<T>(m * 130);
            matmul(&mut c, Mat::new(&a[..m * k], m, k), Mat::new(&b, k, 130), None);
            c
        });
    }
}

#[test]
fn threads_change_nothing() {
    threads_change_nothing_in::<f32>(300);
    threads_change_nothing_in::<bf16>(1100);
}

/// NaN and infinities reach the rows and columns that they belong to, and padding spreads them no further.
fn specials_stay_in_their_lines<T: Element>() {
    let (m, k, n) = (29, 35, 37);
    let ((mut a, _), (mut b, _)) = (sample::<T>(1, m * k), sample::<T>(2, k * n));
    a[28 * k + 34] = T::from_f32(f32::NAN);
    b[34 * n + 36] = T::from_f32(f32::INFINITY);
    for (a, b) in [(Mat::new(&a, m, k), Mat::new(&b, k, n)), (Mat::new(&b, k, n).t(), Mat::new(&a, m, k).t())] {
        let mut c = place::<f32>(m * n);
        let straight = a.rows == m;
        matmul(&mut c, a, b, None);
        for (at, c) in c.iter().enumerate() {
            let (i, j) = if straight { (at / n, at % n) } else { (at % m, at / m) };
            let as_expected = match (i, j) {
                (28, _) => c.is_nan(),
                (_, 36) => c.is_infinite(),
                _ => c.is_finite(),
            };
            assert!(as_expected, "({i}, {j}) is {c}");
        }
    }
}

#[test]
fn specials() {
    each_dtype!(specials_stay_in_their_lines);
}

/// Elements below the least normal number count, or as 0 where the instruction for pairs of bf16 is used.
#[test]
fn tiny_elements() {
    for isa in crate::cpu::isa::all() {
        crate::cpu::isa::with(isa, || {
            let (a, b) = (vec![bf16::from_bits(0x0040); 30 * 2], vec![bf16::from_f32(120f32.exp2()); 2 * 30]);
            let mut c = place::<f32>(30 * 30);
            matmul(&mut c, Mat::new(&a, 30, 2), Mat::new(&b, 2, 30), None);
            let want = if ["amx", "avx512bf16"].contains(&isa.name()) { 0.0 } else { (-6f32).exp2() };
            assert_eq!(c, vec![want; 30 * 30], "{}", isa.name());
        });
    }
}

#[test]
#[should_panic(expected = "inner extents")]
fn wrong_extents_are_refused() {
    matmul(&mut [0.0f32; 4], Mat::new(&[0.0f32; 4], 2, 2), Mat::new(&[0.0f32; 6], 3, 2), None);
}
