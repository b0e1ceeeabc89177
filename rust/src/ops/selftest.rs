//! Every op in f32 on this machine, forward and backward on small odd shapes, against its f64 reference.

#[cfg(feature = "cuda")]
pub mod cuda;

use super::activation::Activation;
use super::attention::{Heads, Mask, Qkv};
use super::linear_cross_entropy::LossOptions;
use super::rotary::Pairing;
use super::{activation, adamw, add, attention, cast, cross_entropy, embedding, gated_mlp, grad_norm, layer_norm};
use super::{linear, linear_cross_entropy, rms_norm, rotary};
use crate::cpu;
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::tensor::{View, ViewMut};

/// One result of one op.
#[derive(Debug, Clone)]
pub struct Check {
    /// `rms_norm.dx`
    pub name: String,
    /// The largest difference from the reference, in parts of the largest exact value.
    pub error: f64,
    /// What `error` may be: about four times what it is on x86-64 with and without AVX2.
    pub bound: f64,
}

impl Check {
    pub fn passed(&self) -> bool {
        // Written so that NaN fails.
        self.error <= self.bound
    }
}

/// Appends the checks of one op.
type Part = fn(&mut Vec<Check>) -> Result<()>;

/// Runs every op; the results in a fixed order.
///
/// # Errors
/// What an op refuses, which would be a fault of this library.
pub fn run() -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let parts: [Part; 14] = [
        embedding_part,
        linear_part,
        rms_norm_part,
        layer_norm_part,
        rotary_part,
        attention_part,
        decode_part,
        activation_part,
        gated_mlp_part,
        add_part,
        cross_entropy_part,
        linear_cross_entropy_part,
        optimizer_part,
        cast_part,
    ];
    parts.iter().try_for_each(|part| part(&mut checks))?;
    Ok(checks)
}

fn compare<T: Element>(checks: &mut Vec<Check>, name: &str, ours: &[T], exact: &[f64], bound: f64) {
    let largest = exact.iter().fold(f64::MIN_POSITIVE, |top, x| top.max(x.abs()));
    let worse = |top: f64, error: f64| if error > top || error.is_nan() { error } else { top };
    let errors = ours.iter().zip(exact).map(|(a, b)| (f64::from(a.to_f32()) - b).abs() / largest);
    checks.push(Check { name: name.into(), error: errors.fold(0.0, worse), bound });
}

/// n numbers in (−2, 2), in f32 and the same in f64.
fn numbers(seed: u32, n: usize) -> (Vec<f32>, Vec<f64>) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    let x: Vec<f32> = (0..n).map(|_| next()).collect();
    let exact = x.iter().map(|x| f64::from(*x)).collect();
    (x, exact)
}

/// A place for a result: what an op leaves out stays NaN and fails.
fn place(n: usize) -> Vec<f32> {
    vec![f32::NAN; n]
}

fn embedding_part(checks: &mut Vec<Check>) -> Result<()> {
    let (rows, d, ids) = (9, 5, [3, 8, 0, 3, 3, 7, 1]);
    let ((table, exact_table), (dy, exact_dy)) = (numbers(1, rows * d), numbers(2, ids.len() * d));
    let (mut y, mut dtable) = (place(ids.len() * d), vec![0.0; rows * d]);
    let dims = [ids.len(), d];
    embedding::forward(ViewMut::new(&mut y, &dims)?, View::new(&table, &[rows, d])?, &ids)?;
    embedding::backward(ViewMut::new(&mut dtable, &[rows, d])?, View::new(&dy, &dims)?, &ids)?;
    use cpu::embedding::reference;
    compare(checks, "embedding.y", &y, &reference::forward(&exact_table, &ids, d), 0.0);
    compare(checks, "embedding.dtable", &dtable, &reference::backward(&exact_dy, &ids, rows, d), 3e-7);
    Ok(())
}

fn linear_part(checks: &mut Vec<Check>) -> Result<()> {
    let (n, i, o) = (7, 129, 33);
    let ((x, exact_x), (w, exact_w)) = (numbers(1, n * i), numbers(2, o * i));
    let ((b, exact_b), (dy, exact_dy)) = (numbers(3, o), numbers(4, n * o));
    let (mut y, mut dx) = (place(n * o), place(n * i));
    let (mut dw, mut db) = (vec![0.0; o * i], vec![0.0; o]);
    let (vx, vw, vdy) = (View::new(&x, &[n, i])?, View::new(&w, &[o, i])?, View::new(&dy, &[n, o])?);
    linear::forward(ViewMut::new(&mut y, &[n, o])?, vx, vw, Some(View::new(&b, &[o])?))?;
    linear::backward_input(ViewMut::new(&mut dx, &[n, i])?, vdy, vw)?;
    linear::backward_weight(ViewMut::new(&mut dw, &[o, i])?, Some(ViewMut::new(&mut db, &[o])?), vdy, vx, true)?;
    let exact = cpu::linear::reference::backward(&exact_dy, &exact_x, &exact_w, i);
    compare(checks, "linear.y", &y, &cpu::linear::reference::forward(&exact_x, &exact_w, &exact_b, i), 2e-6);
    compare(checks, "linear.dx", &dx, &exact.0, 2e-6);
    compare(checks, "linear.dw", &dw, &exact.1, 2e-6);
    compare(checks, "linear.dbias", &db, &exact.2, 2e-6);
    Ok(())
}

fn rms_norm_part(checks: &mut Vec<Check>) -> Result<()> {
    let (n, d, eps) = (5, 33, 1e-6);
    let ((x, exact_x), (dy, exact_dy), (w, exact_w)) = (numbers(1, n * d), numbers(2, n * d), numbers(3, d));
    let (mut y, mut dx, mut rstd, mut dw) = (place(n * d), place(n * d), place(n), vec![0.0; d]);
    let (vx, vw, dims) = (View::new(&x, &[n, d])?, View::new(&w, &[d])?, [n, d]);
    rms_norm::forward(ViewMut::new(&mut y, &dims)?, &mut rstd, vx, vw, eps)?;
    let (vdx, vdw) = (ViewMut::new(&mut dx, &dims)?, ViewMut::new(&mut dw, &[d])?);
    rms_norm::backward(vdx, vdw, View::new(&dy, &dims)?, vx, &rstd, vw, None)?;
    let (mut exact_y, mut exact_dx, mut exact_dw) = (Vec::new(), Vec::new(), vec![0.0; d]);
    for (x, dy) in exact_x.chunks(d).zip(exact_dy.chunks(d)) {
        exact_y.extend(cpu::rms_norm::reference::forward(x, &exact_w, eps));
        let (dx, dw) = cpu::rms_norm::reference::backward(dy, x, &exact_w, eps);
        exact_dx.extend(dx);
        exact_dw.iter_mut().zip(dw).for_each(|(sum, dw)| *sum += dw);
    }
    compare(checks, "rms_norm.y", &y, &exact_y, 6e-7);
    compare(checks, "rms_norm.dx", &dx, &exact_dx, 6e-7);
    compare(checks, "rms_norm.dw", &dw, &exact_dw, 6e-7);
    Ok(())
}

fn layer_norm_part(checks: &mut Vec<Check>) -> Result<()> {
    let (n, d, eps) = (5, 33, 1e-5);
    let ((x, exact_x), (dy, exact_dy)) = (numbers(1, n * d), numbers(2, n * d));
    let ((w, exact_w), (b, exact_b)) = (numbers(3, d), numbers(4, d));
    let (mut y, mut dx, mut mean, mut rstd) = (place(n * d), place(n * d), place(n), place(n));
    let (mut dw, mut db, dims) = (vec![0.0; d], vec![0.0; d], [n, d]);
    let (vx, vw, vb) = (View::new(&x, &dims)?, View::new(&w, &[d])?, View::new(&b, &[d])?);
    layer_norm::forward(ViewMut::new(&mut y, &dims)?, &mut mean, &mut rstd, vx, vw, Some(vb), eps)?;
    let (vdx, vdw, vdb) = (ViewMut::new(&mut dx, &dims)?, ViewMut::new(&mut dw, &[d])?, ViewMut::new(&mut db, &[d])?);
    layer_norm::backward(vdx, vdw, Some(vdb), View::new(&dy, &dims)?, vx, &mean, &rstd, vw, None)?;
    let (mut exact_y, mut exact_dx) = (Vec::new(), Vec::new());
    let (mut exact_dw, mut exact_db) = (vec![0.0; d], vec![0.0; d]);
    for (x, dy) in exact_x.chunks(d).zip(exact_dy.chunks(d)) {
        exact_y.extend(cpu::layer_norm::reference::forward(x, &exact_w, &exact_b, eps));
        let (dx, dw) = cpu::layer_norm::reference::backward(dy, x, &exact_w, eps);
        exact_dx.extend(dx);
        exact_dw.iter_mut().zip(dw).for_each(|(sum, dw)| *sum += dw);
        exact_db.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    compare(checks, "layer_norm.y", &y, &exact_y, 6e-7);
    compare(checks, "layer_norm.dx", &dx, &exact_dx, 6e-7);
    compare(checks, "layer_norm.dw", &dw, &exact_dw, 6e-7);
    compare(checks, "layer_norm.dbias", &db, &exact_db, 6e-7);
    Ok(())
}

fn rotary_part(checks: &mut Vec<Check>) -> Result<()> {
    let (time, ndims, base, heads) = (7, 6, 10_000.0, Heads { offset: 1, stride: 10, count: 2, dim: 10 });
    let (row, halves) = (22, rotary::Table::new(time, ndims, base));
    let neighbours = halves.clone().with_pairing(Pairing::Neighbours);
    for (name, table, op, sign) in [
        ("rotary.y", &halves, rotary::forward as fn(&mut [f32], _, _, _, _, &_, _) -> _, 1.0),
        ("rotary.dx", &halves, rotary::backward, -1.0),
        ("rotary.y, interleaved", &neighbours, rotary::forward, 1.0),
        ("rotary.dx, interleaved", &neighbours, rotary::backward, -1.0),
    ] {
        let (mut qkv, mut exact) = numbers(1, time * row);
        op(&mut qkv, row, heads, 1, time, table, 0)?;
        for (t, exact) in exact.chunks_mut(row).enumerate() {
            for head in exact[1..21].chunks_mut(10) {
                let exact = cpu::rotary::reference::rotate(head, ndims, table.pairing(), t, base, sign);
                head.copy_from_slice(&exact);
            }
        }
        compare(checks, name, &qkv, &exact, 6e-7);
    }
    Ok(())
}

/// Column a of width d of rows (T, width).
fn head(rows: &[f64], width: usize, at: usize, d: usize) -> Vec<f64> {
    rows.chunks(width).flat_map(|row| &row[at..at + d]).copied().collect()
}

fn add_head(rows: &mut [f64], from: &[f64], width: usize, at: usize, d: usize) {
    for (row, from) in rows.chunks_mut(width).zip(from.chunks(d)) {
        row[at..at + d].iter_mut().zip(from).for_each(|(sum, x)| *sum += x);
    }
}

/// Two query heads on one key/value head, a window of 51 keys.
fn attention_part(checks: &mut Vec<Check>) -> Result<()> {
    let (time, d, row, scale) = (69, 16, 64, 0.25);
    let heads = |offset, count| Heads { offset, stride: d, count, dim: d };
    let (q, k, v) = (heads(0, 2), heads(2 * d, 1), heads(3 * d, 1));
    let ((qkv, exact_qkv), (dout, exact_dout)) = (numbers(1, time * row), numbers(2, time * 2 * d));
    let (mut out, mut lse, mut dqkv) = (place(time * 2 * d), place(2 * time), place(time * row));
    let dims = [1, time, 2 * d];
    let s = Qkv { q, k, v, row, batch: 1, time, scale, mask: Mask { left: Some(50), ..Mask::CAUSAL } };
    attention::forward(ViewMut::new(&mut out, &dims)?, &mut lse, &qkv, &s)?;
    let (vdout, vout) = (View::new(&dout, &dims)?, View::new(&out, &dims)?);
    attention::backward(&mut dqkv, vdout, vout, &lse, &qkv, &s)?;
    let (mut exact, mut exact_d) = (vec![0.0; time * 2 * d], vec![0.0; time * row]);
    let (hk, hv, scale) = (head(&exact_qkv, row, 2 * d, d), head(&exact_qkv, row, 3 * d, d), f64::from(scale));
    let sees = |t: usize, s: usize| s <= t && s + 50 >= t;
    for a in 0..2 {
        use cpu::attention::reference;
        let (hq, hdout) = (head(&exact_qkv, row, a * d, d), head(&exact_dout, 2 * d, a * d, d));
        add_head(&mut exact, &reference::forward(&hq, &hk, &hv, d, scale, sees), 2 * d, a * d, d);
        let (dq, dk, dv) = reference::backward(&hdout, &hq, &hk, &hv, d, scale, sees);
        add_head(&mut exact_d, &dq, row, a * d, d);
        add_head(&mut exact_d, &dk, row, 2 * d, d);
        add_head(&mut exact_d, &dv, row, 3 * d, d);
    }
    compare(checks, "attention.out", &out, &exact, 2e-6);
    compare(checks, "attention.dqkv", &dqkv, &exact_d, 2e-6);
    Ok(())
}

fn decode_part(checks: &mut Vec<Check>) -> Result<()> {
    let (d, length, scale) = (16, 37, 0.25);
    let (q, exact_q) = numbers(1, d);
    let ((keys, exact_k), (values, exact_v)) = (numbers(2, length * d), numbers(3, length * d));
    let mut out = place(d);
    attention::decode(&mut out, &q, &keys, &values, 1, 1, d, length, scale)?;
    let queries = exact_q.repeat(length);
    let sees = |t: usize, s: usize| s <= t;
    let exact = cpu::attention::reference::forward(&queries, &exact_k, &exact_v, d, f64::from(scale), sees);
    compare(checks, "attention.decode", &out, &exact[(length - 1) * d..], 2e-6);
    Ok(())
}

const KINDS: [(&str, Activation); 4] = [
    ("gelu", Activation::Gelu),
    ("gelu_tanh", Activation::GeluTanh),
    ("silu", Activation::Silu),
    ("relu", Activation::Relu),
];

fn activation_part(checks: &mut Vec<Check>) -> Result<()> {
    let n = 129;
    let ((x, exact_x), (dy, exact_dy)) = (numbers(1, n), numbers(2, n));
    for (name, kind) in KINDS {
        use cpu::activation::reference;
        let (mut y, mut dx) = (place(n), place(n));
        activation::forward(ViewMut::new(&mut y, &[n])?, View::new(&x, &[n])?, kind)?;
        activation::backward(ViewMut::new(&mut dx, &[n])?, View::new(&dy, &[n])?, View::new(&x, &[n])?, kind)?;
        let exact: Vec<f64> = exact_x.iter().map(|x| reference::forward(*x, kind)).collect();
        compare(checks, &format!("activation.{name}.y"), &y, &exact, 6e-7);
        let exact: Vec<f64> = exact_x.iter().zip(&exact_dy).map(|(x, dy)| dy * reference::slope(*x, kind)).collect();
        compare(checks, &format!("activation.{name}.dx"), &dx, &exact, 6e-7);
    }
    Ok(())
}

fn gated_mlp_part(checks: &mut Vec<Check>) -> Result<()> {
    let (n, f) = (5, 33);
    let ((x, exact_x), (dh, exact_dh)) = (numbers(1, n * 2 * f), numbers(2, n * f));
    for (name, kind) in KINDS {
        use cpu::gated_mlp::reference;
        let (mut h, mut dx) = (place(n * f), place(n * 2 * f));
        let (vx, vdh) = (View::new(&x, &[n, 2 * f])?, View::new(&dh, &[n, f])?);
        gated_mlp::forward(ViewMut::new(&mut h, &[n, f])?, vx, kind)?;
        gated_mlp::backward(ViewMut::new(&mut dx, &[n, 2 * f])?, vdh, vx, kind)?;
        let (mut exact_h, mut exact_d) = (vec![0.0; n * f], vec![0.0; n * 2 * f]);
        for i in 0..n * f {
            let (gate, up) = (i / f * 2 * f + i % f, i / f * 2 * f + f + i % f);
            exact_h[i] = reference::forward(exact_x[gate], exact_x[up], kind);
            (exact_d[gate], exact_d[up]) = reference::backward(exact_dh[i], exact_x[gate], exact_x[up], kind);
        }
        compare(checks, &format!("gated_mlp.{name}.h"), &h, &exact_h, 6e-7);
        compare(checks, &format!("gated_mlp.{name}.dgate_up"), &dx, &exact_d, 6e-7);
    }
    Ok(())
}

fn add_part(checks: &mut Vec<Check>) -> Result<()> {
    let n = 129;
    let ((a, exact_a), (b, exact_b), mut y) = (numbers(1, n), numbers(2, n), place(n));
    add::forward(ViewMut::new(&mut y, &[n])?, View::new(&a, &[n])?, View::new(&b, &[n])?)?;
    compare(checks, "add.y", &y, &cpu::add::reference::forward(&exact_a, &exact_b), 1e-7);
    Ok(())
}

fn cross_entropy_part(checks: &mut Vec<Check>) -> Result<()> {
    use cpu::cross_entropy::reference;
    let (n, v) = (5, 129);
    let options = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-3 };
    let (targets, (logits, exact)) = ([5, 128, -1, 0, 77], numbers(1, n * v));
    let (mut losses, mut d) = (place(n), place(n * v));
    let view = View::new(&logits, &[n, v])?;
    let mut sums = vec![cross_entropy::RowSum { top: 0.0, total: 0.0 }; n];
    cross_entropy::forward(&mut losses, &mut sums, view, &targets, &options)?;
    cross_entropy::backward(ViewMut::new(&mut d, &[n, v])?, view, &sums, &targets, 1.0, &options)?;
    let rows = || exact.chunks(v).zip(&targets);
    let exact_losses: Vec<f64> = rows().map(|(l, t)| reference::forward(l, *t, &options)).collect();
    let exact_d: Vec<f64> = rows().flat_map(|(l, t)| reference::backward(l, *t, &options)).collect();
    compare(checks, "cross_entropy.losses", &losses, &exact_losses, 6e-7);
    compare(checks, "cross_entropy.dlogits", &d, &exact_d, 6e-7);
    Ok(())
}

/// Losses, dx and dw by the references.
fn exact_linear_cross_entropy(
    x: &[f64],
    w: &[f64],
    targets: &[i32],
    d: usize,
    scale: f32,
    options: &LossOptions,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    use cpu::linear_cross_entropy::reference;
    let v = w.len() / d;
    let logits = cpu::linear::reference::forward(x, w, &vec![0.0; v], d);
    let rows = || logits.chunks(v).zip(targets);
    let losses = rows().map(|(l, t)| reference::forward(l, *t, options)).collect();
    let slopes = rows().flat_map(|(l, t)| reference::backward(l, *t, options));
    let slopes: Vec<f64> = slopes.map(|g| g * f64::from(scale)).collect();
    let (dx, dw, _) = cpu::linear::reference::backward(&slopes, x, w, d);
    (losses, dx, dw)
}

fn linear_cross_entropy_part(checks: &mut Vec<Check>) -> Result<()> {
    let (n, d, v, scale) = (7, 16, 129, 0.25f32);
    let options = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-3 };
    let targets = [5, 128, -1, 0, 77, 5, 31];
    let ((x, exact_x), (w, exact_w)) = (numbers(1, n * d), numbers(2, v * d));
    let (mut losses, mut dx, mut dw) = (place(n), place(n * d), vec![0.0; v * d]);
    let (vx, vw) = (View::new(&x, &[n, d])?, View::new(&w, &[v, d])?);
    let (vdx, vdw) = (ViewMut::new(&mut dx, &[n, d])?, ViewMut::new(&mut dw, &[v, d])?);
    let op = linear_cross_entropy::forward_backward;
    op(&mut losses, vdx, vdw, vx, vw, &targets, scale, &options, true, Interrupt::NEVER)?;
    let (exact, exact_dx, exact_dw) = exact_linear_cross_entropy(&exact_x, &exact_w, &targets, d, scale, &options);
    compare(checks, "linear_cross_entropy.losses", &losses, &exact, 6e-7);
    compare(checks, "linear_cross_entropy.dx", &dx, &exact_dx, 2e-6);
    compare(checks, "linear_cross_entropy.dw", &dw, &exact_dw, 2e-6);
    linear_cross_entropy::forward(&mut losses, vx, vw, &targets, &options, Interrupt::NEVER)?;
    compare(checks, "linear_cross_entropy.forward", &losses, &exact, 6e-7);
    Ok(())
}

fn optimizer_part(checks: &mut Vec<Check>) -> Result<()> {
    let n = 129;
    let step = adamw::Step {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_scale: 0.5,
        step: 3,
        dither: None,
    };
    let ((mut p, exact_p), (mut m, exact_m), (g, exact_g)) = (numbers(1, n), numbers(2, n), numbers(3, n));
    let mut v: Vec<f32> = m.iter().map(|m| m.abs()).collect();
    let exact: Vec<_> = (0..n)
        .map(|i| cpu::adamw::reference::step(exact_p[i], exact_m[i], exact_m[i].abs(), exact_g[i], &step))
        .collect();
    adamw::step(&mut p, &mut m, &mut v, &g, &step)?;
    compare(checks, "adamw.p", &p, &exact.iter().map(|e| e.0).collect::<Vec<_>>(), 3e-7);
    compare(checks, "adamw.m", &m, &exact.iter().map(|e| e.1).collect::<Vec<_>>(), 3e-7);
    compare(checks, "adamw.v", &v, &exact.iter().map(|e| e.2).collect::<Vec<_>>(), 3e-7);
    let (ours, exact) = (grad_norm::sum_of_squares(&g), cpu::grad_norm::reference::sum_of_squares(&exact_g));
    checks.push(Check { name: "grad_norm".into(), error: (ours / exact - 1.0).abs(), bound: 1e-14 });
    Ok(())
}

/// Rounding is exact or wrong: the bound is 0.
fn cast_part(checks: &mut Vec<Check>) -> Result<()> {
    fn one<T: Element>(checks: &mut Vec<Check>) -> Result<()> {
        let (x, exact) = numbers(1, 129);
        let mut y = vec![T::from_f32(f32::NAN); x.len()];
        cast::from_f32(&mut y, &x)?;
        let exact: Vec<f64> = exact.iter().map(|x| cpu::cast::reference::round(*x, T::DTYPE)).collect();
        compare(checks, &format!("cast.{}", T::DTYPE.name()), &y, &exact, 0.0);
        Ok(())
    }
    one::<f16>(checks)?;
    one::<bf16>(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_passes() {
        for check in run().expect("ops take their own selftest") {
            assert!(check.passed(), "{check:?}");
        }
    }

    #[test]
    fn a_wrong_result_fails() {
        let mut checks = Vec::new();
        compare(&mut checks, "wrong", &[1.0f32, 2.0], &[1.0, 2.00001], 1e-6);
        compare(&mut checks, "nan", &[1.0f32, f32::NAN], &[1.0, 2.0], 1e9);
        compare(&mut checks, "right", &[1.0f32, 2.0], &[1.0, 2.0], 0.0);
        assert_eq!(checks.iter().map(Check::passed).collect::<Vec<_>>(), [false, false, true]);
    }
}
