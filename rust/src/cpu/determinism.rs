//! Every op gives the same bits with 1, 2, 3 and 7 threads, on each instruction set.  (Products and attention: in
//! their own files.)

use super::activation::Activation;
use super::heads::Heads;
use super::testing::{place, same_on_all_threads, sample};
use super::{activation, adamw, add, cast, cross_entropy, embedding, gated_mlp, grad_norm, layer_norm};
use super::{linear, linear_cross_entropy, rms_norm, rotary};
use crate::dtype::{Element, bf16};
use crate::interrupt::Interrupt;

/// More rows than one task takes, of an odd width.
const N: usize = 131;
const D: usize = 37;

fn numbers<T: Element>(seed: u64, n: usize) -> Vec<T> {
    sample::<T>(seed, n).0
}

fn norms<T: Element>() {
    let (x, dy, w) = (numbers::<T>(1, N * D), numbers::<T>(2, N * D), numbers::<T>(3, D));
    same_on_all_threads("rms_norm", || {
        let (mut y, mut sum, mut rstd) = (place::<T>(N * D), place::<T>(N * D), place::<f32>(N));
        let (mut dx, mut dw) = (place::<T>(N * D), vec![0.0; D]);
        rms_norm::forward_add(&mut y, &mut sum, &mut rstd, &x, &dy, &w, 1e-6, D);
        rms_norm::backward(&mut dx, &mut dw, &dy, &sum, &rstd, &w, Some(&x), D);
        cast::from_f32(&mut sum[..D], &dw);
        [y, sum, dx].concat()
    });
    same_on_all_threads("layer_norm", || {
        let (mut y, mut sum) = (place::<T>(N * D), place::<T>(N * D));
        let (mut mean, mut rstd) = (place::<f32>(N), place::<f32>(N));
        let (mut dx, mut dw, mut db) = (place::<T>(N * D), vec![0.0; D], vec![0.0; D]);
        layer_norm::forward_add(&mut y, &mut sum, &mut mean, &mut rstd, &x, &dy, &w, Some(&w), 1e-6, D);
        layer_norm::backward(&mut dx, &mut dw, Some(&mut db), &dy, &sum, &mean, &rstd, &w, Some(&x), D);
        cast::from_f32(&mut sum[..D], &dw);
        cast::from_f32(&mut sum[D..2 * D], &db);
        [y, sum, dx].concat()
    });
}

#[test]
fn norms_in_any_type() {
    norms::<f32>();
    norms::<bf16>();
}

#[test]
fn element_by_element() {
    let (a, b) = (numbers::<f32>(1, 1 << 17), numbers::<f32>(2, 1 << 17));
    same_on_all_threads("activation", || {
        let (mut y, mut dx, mut sum) = (place::<f32>(a.len()), place::<f32>(a.len()), place::<f32>(a.len()));
        activation::forward(&mut y, &a, Activation::Gelu);
        activation::backward(&mut dx, &b, &a, Activation::GeluTanh);
        add::forward(&mut sum, &a, &b);
        [y, dx, sum].concat()
    });
    same_on_all_threads("gated_mlp", || {
        let (mut h, mut d) = (place::<f32>(1 << 10), place::<f32>(1 << 11));
        gated_mlp::forward(&mut h, &a[..1 << 11], Activation::Silu, 64);
        gated_mlp::backward(&mut d, &b[..1 << 10], &a[..1 << 11], Activation::Silu, 64);
        [h, d].concat()
    });
    same_on_all_threads("rotary", || {
        let (mut x, heads) = (a[..1 << 14].to_vec(), Heads { offset: 0, stride: 16, count: 2, dim: 16 });
        rotary::rotate(&mut x, 32, heads, 256, &rotary::Table::new(256, 8, 1e4), 0, 1.0);
        x
    });
}

#[test]
fn sums_over_everything() {
    let g = numbers::<f32>(1, 300_001);
    same_on_all_threads("grad_norm", || vec![grad_norm::sum_of_squares(&g) as f32]);
    same_on_all_threads("adamw", || {
        let (mut p, mut m, mut v) = (g.clone(), g.clone(), vec![0.5; g.len()]);
        let (lr, beta1, beta2, eps, weight_decay) = (1e-3, 0.9, 0.95, 1e-8, 0.1);
        let step = adamw::Step { lr, beta1, beta2, eps, weight_decay, grad_scale: 0.5, step: 2, dither: None };
        adamw::step(&mut p, &mut m, &mut v, &g, &step);
        [p, m, v].concat()
    });
}

#[test]
fn weights_and_losses() {
    let (v, ids): (usize, Vec<i32>) = (257, (0..N as i32).map(|i| i * i % 257).collect());
    let (x, w, dy) = (numbers::<f32>(1, N * D), numbers::<f32>(2, v * D), numbers::<f32>(3, N * v));
    same_on_all_threads("embedding", || {
        let mut dtable = vec![0.0; v * D];
        embedding::backward(&mut dtable, &x, &ids, D);
        dtable
    });
    same_on_all_threads("linear", || {
        let (mut dw, mut db) = (vec![0.0; v * D], vec![0.0; v]);
        linear::backward_weight(&mut dw, Some(&mut db), &dy, &x, N, D, v, true);
        [dw, db].concat()
    });
    same_on_all_threads("cross_entropy", || {
        let (mut losses, mut d) = (place::<f32>(N), place::<f32>(N * v));
        let mut sums = vec![cross_entropy::RowSum { top: 0.0, total: 0.0 }; N];
        cross_entropy::forward(&mut losses, &mut sums, &dy, &ids, &Default::default(), v);
        cross_entropy::backward(&mut d, &dy, &sums, &ids, 0.5, &Default::default(), v);
        [losses, d].concat()
    });
    same_on_all_threads("linear_cross_entropy", || {
        let (mut losses, mut dx, mut dw) = (place::<f32>(N), place::<f32>(N * D), vec![0.0; v * D]);
        let o = linear_cross_entropy::LossOptions { label_smoothing: 0.1, ..Default::default() };
        let run = linear_cross_entropy::forward_backward;
        run(&mut losses, &mut dx, &mut dw, &x, &w, &ids, 0.5, &o, D, v, true, Interrupt::NEVER)
            .expect("never interrupted");
        [losses, dx, dw].concat()
    });
}
