//! Every op that has a CUDA kernel, in each dtype on a GPU, against its f64 reference on the CPU.
//!
//! Each op takes an odd shape, and one of whole vectors of 16 bytes.

mod attention;

use std::sync::Arc;

use super::{Check, KINDS, compare, exact_linear_cross_entropy};
use crate::cpu;
use crate::cuda::{Buffer, Stream};
use crate::dtype::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::ops::adamw::cuda::{Group, Numbers};
use crate::ops::attention::Heads;
use crate::ops::cross_entropy::LossOptions;
use crate::ops::embedding::cuda::Ids;
use crate::ops::linear_cross_entropy::cuda::{Gradients, in_chunks};
use crate::ops::rotary::Pairing;
use crate::ops::{activation, adamw, add, cast, cross_entropy, embedding, gated_mlp, grad_norm, layer_norm, linear};
use crate::ops::{linear_cross_entropy, rms_norm, rotary};

/// The shapes of ops that work on rows.
const SHAPES: [[usize; 2]; 2] = [[5, 33], [37, 64]];

/// Elements: more than one block has, and not a whole number of vectors.
const MANY: usize = 4101;

/// Tokens, inputs and outputs of linear maps. A square takes a matrix for its transpose.
const PRODUCTS: [[usize; 3]; 3] = [[7, 129, 33], [16, 16, 16], [1, 8, 5]];

/// The checks of one op.
type Part<'a> = fn(&mut Bench<'a>) -> Result<()>;

/// Runs the ops of these names, or all, on the GPU of this number; the results in a fixed order.
///
/// # Errors
/// `Device`: no such GPU, or one that fails. `UnsupportedInput`: no op of this name.
pub fn run(ordinal: usize, only: Option<&[String]>) -> Result<Vec<Check>> {
    let on = Stream::new(ordinal)?;
    let parts = [parts::<f32>(), parts::<f16>(), parts::<bf16>()].concat();
    if let Some(name) = only.into_iter().flatten().find(|name| parts.iter().all(|part| part.1 != *name)) {
        return Err(Error::UnsupportedInput(format!("selftest: no op with CUDA kernels is named `{name}`")));
    }
    let mut bench = Bench { on: &on, checks: Vec::new(), suffix: String::new() };
    for (dtype, name, part) in parts {
        if only.is_none_or(|only| only.iter().any(|op| op == name)) {
            bench.suffix = format!(".{}", dtype.name());
            part(&mut bench)?;
        }
    }
    Ok(bench.checks)
}

/// (dtype, op, its checks)
fn parts<'a, T: Element>() -> Vec<(DType, &'static str, Part<'a>)> {
    let mut parts: Vec<(_, Part<'a>)> = vec![
        ("embedding", |bench| SHAPES.into_iter().try_for_each(|shape| bench.embedding::<T>(shape))),
        ("rms_norm", |bench| SHAPES.into_iter().try_for_each(|shape| bench.rms_norm::<T>(shape))),
        ("layer_norm", |bench| SHAPES.into_iter().try_for_each(|shape| bench.layer_norm::<T>(shape))),
        ("gated_mlp", |bench| SHAPES.into_iter().try_for_each(|shape| bench.gated_mlp::<T>(shape))),
        ("cross_entropy", |bench| SHAPES.into_iter().try_for_each(|shape| bench.cross_entropy::<T>(shape))),
        ("rotary", |bench| [3, 8].into_iter().try_for_each(|half| bench.rotary::<T>(half))),
        ("column_sums", Bench::column_sums::<T>),
        ("linear", |bench| PRODUCTS.into_iter().try_for_each(|sizes| bench.linear::<T>(sizes))),
        ("linear_cross_entropy", Bench::linear_cross_entropy::<T>),
        ("attention", Bench::attention::<T>),
        ("add", Bench::add::<T>),
        ("activation", Bench::activation::<T>),
        ("cast", Bench::cast::<T>),
        ("adamw", Bench::adamw::<T>),
    ];
    if T::DTYPE == DType::F32 {
        parts.push(("grad_norm", Bench::grad_norm));
    }
    parts.into_iter().map(|(name, part)| (T::DTYPE, name, part)).collect()
}

/// n numbers in (−2, 2) of the dtype, and the same in f64.
fn numbers<T: Element>(seed: u32, n: usize) -> (Vec<T>, Vec<f64>) {
    let rounded: Vec<T> = super::numbers(seed, n).0.into_iter().map(T::from_f32).collect();
    let exact = widened(&rounded);
    (rounded, exact)
}

fn widened<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// What rounding to the dtype may add to an error, in parts of the largest value.
fn rounding<T: Element>() -> f64 {
    match T::DTYPE {
        DType::F32 => 0.0,
        DType::F16 => 5e-4,
        DType::BF16 => 4e-3,
    }
}

struct Bench<'a> {
    on: &'a Arc<Stream>,
    checks: Vec<Check>,
    suffix: String,
}

impl Bench<'_> {
    /// Compares a result; `bound` is that of f32.
    fn check<T: Element>(&mut self, name: &str, ours: &Buffer<T>, exact: &[f64], bound: f64) -> Result<()> {
        let name = format!("{name}{}", self.suffix);
        compare(&mut self.checks, &name, &ours.download()?, exact, bound + rounding::<T>());
        Ok(())
    }

    /// A place for a result: what a kernel leaves out stays NaN and fails.
    fn place<T: Element>(&self, n: usize) -> Result<Buffer<T>> {
        self.on.upload(&vec![T::from_f32(f32::NAN); n])
    }

    fn embedding<T: Element>(&mut self, [rows, d]: [usize; 2]) -> Result<()> {
        // More than the 256 tokens of a tile that the kernel counts over.
        let ids: Vec<i32> = (0..300).map(|i| i * i % rows as i32).collect();
        let (n, on) = (ids.len(), self.on);
        let ((table, exact_table), (dy, exact_dy)) = (numbers::<T>(1, rows * d), numbers::<T>(2, n * d));
        let (mut y, mut dtable) = (self.place::<T>(n * d)?, on.zeros::<f32>(rows * d)?);
        let (on_device, table, dy) =
            (Ids::new(on, "embedding", &ids, rows, None)?, on.upload(&table)?, on.upload(&dy)?);
        embedding::cuda::forward(on, y.view_mut(&[n, d])?, table.view(&[rows, d])?, &on_device)?;
        embedding::cuda::backward(on, dtable.view_mut(&[rows, d])?, dy.view(&[n, d])?, &on_device)?;
        use cpu::embedding::reference;
        compare(
            &mut self.checks,
            &format!("embedding.y{}", self.suffix),
            &y.download()?,
            &reference::forward(&exact_table, &ids, d),
            0.0,
        );
        self.check("embedding.dtable", &dtable, &reference::backward(&exact_dy, &ids, rows, d), 3e-7)
    }

    fn rms_norm<T: Element>(&mut self, dims: [usize; 2]) -> Result<()> {
        let ([n, d], on, eps) = (dims, self.on, 1e-6);
        let ((x, exact_x), (dy, exact_dy), (w, exact_w)) =
            (numbers::<T>(1, n * d), numbers::<T>(2, n * d), numbers::<T>(3, d));
        let (residual, exact_residual) = numbers::<T>(4, n * d);
        let (mut y, mut sum, mut rstd) = (self.place::<T>(n * d)?, self.place::<T>(n * d)?, self.place::<f32>(n)?);
        let (mut dx, mut dw) = (self.place::<T>(n * d)?, on.zeros::<f32>(d)?);
        let (ux, udy, uw, residual_) = (on.upload(&x)?, on.upload(&dy)?, on.upload(&w)?, on.upload(&residual)?);
        let (vx, vw, vdy, vr) = (ux.view(&dims)?, uw.view(&[d])?, udy.view(&dims)?, residual_.view(&dims)?);
        let reference = |x: &[f64]| -> Vec<f64> {
            x.chunks(d).flat_map(|x| cpu::rms_norm::reference::forward(x, &exact_w, eps)).collect()
        };
        rms_norm::cuda::forward_add(
            on,
            y.view_mut(&dims)?,
            sum.view_mut(&dims)?,
            rstd.view_mut(&[n])?,
            vx,
            vr,
            vw,
            eps,
        )?;
        let total: Vec<f64> = exact_x.iter().zip(&exact_residual).map(|(a, b)| a + b).collect();
        let kept = widened(&sum.download()?);
        self.check("rms_norm.sum", &sum, &total, 6e-8)?;
        self.check("rms_norm.y_of_sum", &y, &reference(&kept), 6e-7)?;
        rms_norm::cuda::forward(on, y.view_mut(&dims)?, rstd.view_mut(&[n])?, vx, vw, eps)?;
        self.check("rms_norm.y", &y, &reference(&exact_x), 6e-7)?;
        let (vdx, vdw) = (dx.view_mut(&dims)?, dw.view_mut(&[d])?);
        rms_norm::cuda::backward(on, vdx, vdw, vdy, vx, rstd.view(&[n])?, vw, Some(vr))?;
        let (mut exact_dx, mut exact_dw) = (Vec::new(), vec![0.0; d]);
        for ((x, dy), more) in exact_x.chunks(d).zip(exact_dy.chunks(d)).zip(exact_residual.chunks(d)) {
            let (dx, dw) = cpu::rms_norm::reference::backward(dy, x, &exact_w, eps);
            exact_dx.extend(dx.iter().zip(more).map(|(dx, more)| dx + more));
            exact_dw.iter_mut().zip(dw).for_each(|(sum, dw)| *sum += dw);
        }
        self.check("rms_norm.dx", &dx, &exact_dx, 6e-7)?;
        self.check("rms_norm.dw", &dw, &exact_dw, 6e-7)
    }

    fn layer_norm<T: Element>(&mut self, dims: [usize; 2]) -> Result<()> {
        let ([n, d], on, eps) = (dims, self.on, 1e-5);
        let ((x, exact_x), (dy, exact_dy)) = (numbers::<T>(1, n * d), numbers::<T>(2, n * d));
        let ((w, exact_w), (b, exact_b), (r, exact_r)) =
            (numbers::<T>(3, d), numbers::<T>(4, d), numbers::<T>(5, n * d));
        let (mut y, mut sum, mut dx) = (self.place::<T>(n * d)?, self.place::<T>(n * d)?, self.place::<T>(n * d)?);
        let (mut mean, mut rstd, mut dw) = (self.place::<f32>(n)?, self.place::<f32>(n)?, on.zeros::<f32>(2 * d)?);
        let (ux, udy, uw, ub, ur) = (on.upload(&x)?, on.upload(&dy)?, on.upload(&w)?, on.upload(&b)?, on.upload(&r)?);
        let (vx, vdy, vr) = (ux.view(&dims)?, udy.view(&dims)?, ur.view(&dims)?);
        let (vw, vb) = (uw.view(&[d])?, ub.view(&[d])?);
        let reference = |x: &[f64]| -> Vec<f64> {
            x.chunks(d).flat_map(|x| cpu::layer_norm::reference::forward(x, &exact_w, &exact_b, eps)).collect()
        };
        let (vy, vsum) = (y.view_mut(&dims)?, sum.view_mut(&dims)?);
        let (means, rstds) = (mean.view_mut(&[n])?, rstd.view_mut(&[n])?);
        layer_norm::cuda::forward_add(on, vy, vsum, means, rstds, vx, vr, vw, Some(vb), eps)?;
        let total: Vec<f64> = exact_x.iter().zip(&exact_r).map(|(a, b)| a + b).collect();
        let kept = widened(&sum.download()?);
        self.check("layer_norm.sum", &sum, &total, 6e-8)?;
        self.check("layer_norm.y_of_sum", &y, &reference(&kept), 6e-7)?;
        let (means, rstds) = (mean.view_mut(&[n])?, rstd.view_mut(&[n])?);
        layer_norm::cuda::forward(on, y.view_mut(&dims)?, means, rstds, vx, vw, Some(vb), eps)?;
        self.check("layer_norm.y", &y, &reference(&exact_x), 6e-7)?;
        let (vdx, vdw) = (dx.view_mut(&dims)?, dw.view_mut(&[2, d])?);
        let (means, rstds) = (mean.view(&[n])?, rstd.view(&[n])?);
        layer_norm::cuda::backward(on, vdx, vdw, vdy, vx, means, rstds, vw, Some(vr))?;
        let (mut exact_dx, mut exact_dw) = (Vec::new(), vec![0.0; 2 * d]);
        for ((x, dy), more) in exact_x.chunks(d).zip(exact_dy.chunks(d)).zip(exact_r.chunks(d)) {
            let (dx, dw) = cpu::layer_norm::reference::backward(dy, x, &exact_w, eps);
            exact_dx.extend(dx.iter().zip(more).map(|(dx, more)| dx + more));
            exact_dw.iter_mut().zip(dw.iter().chain(dy)).for_each(|(sum, part)| *sum += part);
        }
        self.check("layer_norm.dx", &dx, &exact_dx, 6e-7)?;
        self.check("layer_norm.dw_dbias", &dw, &exact_dw, 6e-7)
    }

    fn gated_mlp<T: Element>(&mut self, dims: [usize; 2]) -> Result<()> {
        let ([n, f], on) = (dims, self.on);
        let ((x, exact_x), (dh, exact_dh)) = (numbers::<T>(1, n * 2 * f), numbers::<T>(2, n * f));
        let rows = || x.chunks(2 * f);
        let gate: Vec<T> = rows().flat_map(|row| &row[..f]).copied().collect();
        let up: Vec<T> = rows().flat_map(|row| &row[f..]).copied().collect();
        let (ux, udh, ugate, uup) = (on.upload(&x)?, on.upload(&dh)?, on.upload(&gate)?, on.upload(&up)?);
        let (vx, vdh, vgate, vup) = (ux.view(&[n, 2 * f])?, udh.view(&dims)?, ugate.view(&dims)?, uup.view(&dims)?);
        for (name, kind) in KINDS {
            use cpu::gated_mlp::reference;
            let (mut exact_h, mut exact_d, mut exact_apart) =
                (vec![0.0; n * f], vec![0.0; n * 2 * f], [vec![], vec![]]);
            for i in 0..n * f {
                let (gate, up) = (i / f * 2 * f + i % f, i / f * 2 * f + f + i % f);
                exact_h[i] = reference::forward(exact_x[gate], exact_x[up], kind);
                (exact_d[gate], exact_d[up]) = reference::backward(exact_dh[i], exact_x[gate], exact_x[up], kind);
                exact_apart[0].push(exact_d[gate]);
                exact_apart[1].push(exact_d[up]);
            }
            let (mut h, mut apart, mut d) =
                (self.place::<T>(n * f)?, self.place::<T>(n * f)?, self.place::<T>(n * 2 * f)?);
            let (mut dgate, mut dup) = (self.place::<T>(n * f)?, self.place::<T>(n * f)?);
            gated_mlp::cuda::forward(on, h.view_mut(&dims)?, vx, kind)?;
            gated_mlp::cuda::forward_apart(on, apart.view_mut(&dims)?, vgate, vup, kind)?;
            gated_mlp::cuda::backward(on, d.view_mut(&[n, 2 * f])?, vdh, vx, kind)?;
            let (vdgate, vdup) = (dgate.view_mut(&dims)?, dup.view_mut(&dims)?);
            gated_mlp::cuda::backward_apart(on, vdgate, vdup, vdh, vgate, vup, kind)?;
            self.check(&format!("gated_mlp.{name}.h"), &h, &exact_h, 6e-7)?;
            self.check(&format!("gated_mlp.{name}.h_apart"), &apart, &exact_h, 6e-7)?;
            self.check(&format!("gated_mlp.{name}.dgate_up"), &d, &exact_d, 6e-7)?;
            self.check(&format!("gated_mlp.{name}.dgate"), &dgate, &exact_apart[0], 6e-7)?;
            self.check(&format!("gated_mlp.{name}.dup"), &dup, &exact_apart[1], 6e-7)?;
        }
        Ok(())
    }

    fn cross_entropy<T: Element>(&mut self, dims: [usize; 2]) -> Result<()> {
        use cpu::cross_entropy::reference;
        let ([n, v], on, scale) = (dims, self.on, 0.5f32);
        let options = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-3 };
        let targets: Vec<i32> = (0..n as i32).map(|i| if i == 2 { -1 } else { i * 7 % v as i32 }).collect();
        let (logits, exact) = numbers::<T>(1, n * v);
        let (mut losses, mut d) = (self.place::<f32>(n)?, self.place::<T>(n * v)?);
        let (mut both, ids) = (on.upload(&logits)?, Ids::new(on, "cross_entropy", &targets, v, Some(-1))?);
        let read = on.upload(&logits)?;
        let (vlosses, vd) = (losses.view_mut(&[n])?, d.view_mut(&dims)?);
        let op = cross_entropy::cuda::forward_backward;
        op(on, Some(vlosses), Some(vd), read.view(&dims)?, &ids, scale, &options)?;
        cross_entropy::cuda::in_place(on, None, both.view_mut(&dims)?, &ids, scale, &options)?;
        let rows = || exact.chunks(v).zip(&targets);
        let exact_losses: Vec<f64> = rows().map(|(l, t)| reference::forward(l, *t, &options)).collect();
        let exact_d: Vec<f64> = rows().flat_map(|(l, t)| reference::backward(l, *t, &options)).collect();
        let exact_d: Vec<f64> = exact_d.iter().map(|d| d * f64::from(scale)).collect();
        self.check("cross_entropy.losses", &losses, &exact_losses, 6e-7)?;
        self.check("cross_entropy.dlogits", &d, &exact_d, 6e-7)?;
        self.check("cross_entropy.in_place", &both, &exact_d, 6e-7)
    }

    /// Two sequences; heads of 2·half + 4 elements, which the table turns in part.
    fn rotary<T: Element>(&mut self, half: usize) -> Result<()> {
        let (on, time, start, dim) = (self.on, 7, 2, 2 * half + 4);
        let heads = Heads { offset: 8, stride: dim + 4, count: 3, dim };
        let (row, tokens) = (heads.end() + 4, 2 * time);
        let table = rotary::Table::new(time + start, 2 * half, 10_000.0);
        let neighbours = table.clone().with_pairing(Pairing::Neighbours);
        for (name, table, backward, sign) in [
            ("rotary.y", &table, false, 1.0),
            ("rotary.dx", &table, true, -1.0),
            ("rotary.y, interleaved", &neighbours, false, 1.0),
        ] {
            let on_device = rotary::cuda::Table::new(on, table, time + start)?;
            let (qkv, mut exact) = numbers::<T>(1, tokens * row);
            let mut turned = on.upload(&qkv)?;
            let view = turned.view_mut(&[tokens, row])?;
            rotary::cuda::rotate(on, view, heads, time, &on_device, start, backward)?;
            // Cosines and sines are rounded to the dtype first, as HF does.
            let rounded = |x: &f32| f64::from(T::from_f32(*x).to_f32());
            for (t, exact) in exact.chunks_mut(row).enumerate() {
                let (cos, sin) = table.at(start + t % time);
                for a in 0..heads.count {
                    let head = &mut exact[heads.offset + a * heads.stride..][..2 * half];
                    for j in 0..half {
                        let (a, b) = match table.pairing() {
                            Pairing::Halves => (j, half + j),
                            Pairing::Neighbours => (2 * j, 2 * j + 1),
                        };
                        let (c, s, u, v) = (rounded(&cos[j]), sign * rounded(&sin[j]), head[a], head[b]);
                        (head[a], head[b]) = (u * c - v * s, v * c + u * s);
                    }
                }
            }
            self.check(name, &turned, &exact, 3e-7)?;
        }
        Ok(())
    }

    /// In one pass, and in two.
    fn column_sums<T: Element>(&mut self) -> Result<()> {
        for rows in [5, 600] {
            let (on, cols) = (self.on, 33);
            let (dy, exact) = numbers::<T>(1, rows * cols);
            let (dy, mut sums) = (on.upload(&dy)?, on.upload(&vec![1.0f32; cols])?);
            linear::cuda::backward_bias(on, sums.view_mut(&[cols])?, dy.view(&[rows, cols])?)?;
            let mut exact_sums = vec![1.0; cols];
            exact.chunks(cols).for_each(|row| exact_sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
            self.check("column_sums", &sums, &exact_sums, 2e-6)?;
        }
        Ok(())
    }

    /// Gradients are added to what is there; sums are exact to f32, whatever the dtype.
    fn linear<T: Element>(&mut self, [n, i, o]: [usize; 3]) -> Result<()> {
        let on = self.on;
        let ((x, exact_x), (w, exact_w)) = (numbers::<T>(1, n * i), numbers::<T>(2, o * i));
        let ((b, exact_b), (dy, exact_dy)) = (numbers::<T>(3, o), numbers::<T>(4, n * o));
        let ((old, exact_old), old_dw) = (numbers::<T>(5, n * i), numbers::<f32>(6, o * i).0);
        let (mut y, mut plain, mut dx) = (self.place::<T>(n * o)?, self.place::<T>(n * o)?, self.place::<T>(n * i)?);
        let (mut sum, mut dw, mut db) = (on.upload(&old)?, on.upload(&old_dw)?, on.upload(&vec![1.0f32; o])?);
        let (ux, uw, ub, udy) = (on.upload(&x)?, on.upload(&w)?, on.upload(&b)?, on.upload(&dy)?);
        let (vx, vw, vb, vdy) = (ux.view(&[n, i])?, uw.view(&[o, i])?, ub.view(&[o])?, udy.view(&[n, o])?);
        linear::cuda::forward(on, y.view_mut(&[n, o])?, vx, vw, Some(vb))?;
        linear::cuda::forward(on, plain.view_mut(&[n, o])?, vx, vw, None)?;
        linear::cuda::backward_input(on, dx.view_mut(&[n, i])?, vdy, vw)?;
        linear::cuda::backward_input_add(on, sum.view_mut(&[n, i])?, vdy, vw)?;
        linear::cuda::backward_weight(on, dw.view_mut(&[o, i])?, Some(db.view_mut(&[o])?), vdy, vx)?;
        use cpu::linear::reference;
        let (exact_dx, exact_dw, exact_db) = reference::backward(&exact_dy, &exact_x, &exact_w, i);
        let plus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        self.check("linear.y", &y, &reference::forward(&exact_x, &exact_w, &exact_b, i), 2e-6)?;
        self.check("linear.y_without_bias", &plain, &reference::forward(&exact_x, &exact_w, &vec![0.0; o], i), 2e-6)?;
        self.check("linear.dx", &dx, &exact_dx, 2e-6)?;
        self.check("linear.dx_added", &sum, &plus(&exact_dx, &exact_old), 2e-6)?;
        self.check("linear.dw", &dw, &plus(&exact_dw, &widened(&old_dw)), 2e-6)?;
        self.check("linear.dbias", &db, &plus(&exact_db, &vec![1.0; o]), 2e-6)
    }

    /// In chunks of three tokens, the last one of a single token.
    fn linear_cross_entropy<T: Element>(&mut self) -> Result<()> {
        let (on, n, d, v, scale) = (self.on, 7, 16, 129, 0.25f32);
        let options = LossOptions { ignore_index: -1, label_smoothing: 0.1, z_loss: 1e-3 };
        let targets = [5, 128, -1, 0, 77, 5, 31];
        let ((x, exact_x), (w, exact_w)) = (numbers::<T>(1, n * d), numbers::<T>(2, v * d));
        let old_dw = numbers::<f32>(3, v * d);
        let (mut losses, mut alone) = (self.place::<f32>(n)?, self.place::<f32>(n)?);
        let (mut dx, mut dw) = (self.place::<T>(n * d)?, on.upload(&old_dw.0)?);
        let (ux, uw, ids) = (on.upload(&x)?, on.upload(&w)?, Ids::new(on, "selftest", &targets, v, Some(-1))?);
        let (vx, vw) = (ux.view(&[n, d])?, uw.view(&[v, d])?);
        let gradients = Gradients { dx: dx.view_mut(&[n, d])?, dw: dw.view_mut(&[v, d])?, scale };
        in_chunks(on, 3, losses.view_mut(&[n])?, vx, vw, &ids, &options, Some(gradients))?;
        linear_cross_entropy::cuda::forward(on, alone.view_mut(&[n])?, vx, vw, &ids, &options)?;
        let (exact, exact_dx, exact_dw) = exact_linear_cross_entropy(&exact_x, &exact_w, &targets, d, scale, &options);
        let exact_dw: Vec<f64> = exact_dw.iter().zip(&old_dw.1).map(|(dw, old)| dw + old).collect();
        self.check("linear_cross_entropy.losses", &losses, &exact, 6e-7)?;
        self.check("linear_cross_entropy.forward", &alone, &exact, 6e-7)?;
        self.check("linear_cross_entropy.dx", &dx, &exact_dx, 2e-6 + rounding::<T>())?;
        self.check("linear_cross_entropy.dw", &dw, &exact_dw, 2e-6 + rounding::<T>())
    }

    fn add<T: Element>(&mut self) -> Result<()> {
        let ((a, exact_a), (b, exact_b), mut y) =
            (numbers::<T>(1, MANY), numbers::<T>(2, MANY), self.place::<T>(MANY)?);
        let (a, b) = (self.on.upload(&a)?, self.on.upload(&b)?);
        add::cuda::forward(self.on, y.view_mut(&[MANY])?, a.view(&[MANY])?, b.view(&[MANY])?)?;
        self.check("add.y", &y, &cpu::add::reference::forward(&exact_a, &exact_b), 1e-7)
    }

    fn activation<T: Element>(&mut self) -> Result<()> {
        use cpu::activation::reference;
        let ((x, exact_x), (dy, exact_dy)) = (numbers::<T>(1, MANY), numbers::<T>(2, MANY));
        let (on, ux, udy) = (self.on, self.on.upload(&x)?, self.on.upload(&dy)?);
        let (vx, vdy) = (ux.view(&[MANY])?, udy.view(&[MANY])?);
        for (name, kind) in KINDS {
            let (mut y, mut dx) = (self.place::<T>(MANY)?, self.place::<T>(MANY)?);
            activation::cuda::forward(on, y.view_mut(&[MANY])?, vx, kind)?;
            activation::cuda::backward(on, dx.view_mut(&[MANY])?, vdy, vx, kind)?;
            let exact: Vec<f64> = exact_x.iter().map(|x| reference::forward(*x, kind)).collect();
            self.check(&format!("activation.{name}.y"), &y, &exact, 6e-7)?;
            let slopes = exact_x.iter().zip(&exact_dy).map(|(x, dy)| dy * reference::slope(*x, kind));
            self.check(&format!("activation.{name}.dx"), &dx, &slopes.collect::<Vec<_>>(), 6e-7)?;
        }
        Ok(())
    }

    fn cast<T: Element>(&mut self) -> Result<()> {
        let ((x, exact), mut y) = (numbers::<f32>(3, MANY), self.place::<T>(MANY)?);
        cast::cuda::from_f32(self.on, y.view_mut(&[MANY])?, self.on.upload(&x)?.view(&[MANY])?)?;
        self.exactly("cast", &y, &exact)
    }

    /// Rounding is exact or wrong.
    fn exactly<T: Element>(&mut self, name: &str, ours: &Buffer<T>, exact: &[f64]) -> Result<()> {
        let exact: Vec<f64> = exact.iter().map(|x| cpu::cast::reference::round(*x, T::DTYPE)).collect();
        compare(&mut self.checks, &format!("{name}{}", self.suffix), &ours.download()?, &exact, 0.0);
        Ok(())
    }

    /// Two groups, an empty one between them.
    fn adamw<T: Element>(&mut self) -> Result<()> {
        let (on, n, scale) = (self.on, 1031, 0.5f32);
        let numbers_ = Numbers { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3 };
        let group = |end, weight_decay| Group { end, weight_decay };
        let groups = [group(515, 0.1), group(515, 7.0), group(n, 0.0)];
        let ((p, exact_p), (m, exact_m), (g, exact_g)) =
            (numbers::<f32>(1, n), numbers::<f32>(2, n), numbers::<f32>(3, n));
        let v: Vec<f32> = m.iter().map(|m| m.abs()).collect();
        let exact: Vec<_> = (0..n)
            .map(|i| {
                let Numbers { lr, beta1, beta2, eps, step } = numbers_;
                let weight_decay = if i < 515 { 0.1 } else { 0.0 };
                let step = adamw::Step { lr, beta1, beta2, eps, weight_decay, grad_scale: scale, step, dither: None };
                cpu::adamw::reference::step(exact_p[i], exact_m[i], exact_m[i].abs(), exact_g[i], &step)
            })
            .collect();
        let (mut p, mut m, mut v, mut low) = (on.upload(&p)?, on.upload(&m)?, on.upload(&v)?, self.place::<T>(n)?);
        let (g, scale) = (on.upload(&g)?, on.upload(&[scale])?);
        let (vp, vm, vv, vlow) = (p.view_mut(&[n])?, m.view_mut(&[n])?, v.view_mut(&[n])?, low.view_mut(&[n])?);
        adamw::cuda::step(on, vp, vm, vv, Some(vlow), g.view(&[n])?, scale.view(&[1])?, &groups, &numbers_)?;
        self.check("adamw.p", &p, &exact.iter().map(|e| e.0).collect::<Vec<_>>(), 3e-7)?;
        self.check("adamw.m", &m, &exact.iter().map(|e| e.1).collect::<Vec<_>>(), 3e-7)?;
        self.check("adamw.v", &v, &exact.iter().map(|e| e.2).collect::<Vec<_>>(), 3e-7)?;
        let p = widened(&p.download()?);
        self.exactly("adamw.low", &low, &p)
    }

    /// In several blocks; the place of what is not finite too.
    fn grad_norm(&mut self) -> Result<()> {
        let (on, n, unscale, max) = (self.on, 40_003, 0.5, 1.0);
        let (mut g, exact) = numbers::<f32>(1, n);
        let (device, mut norm, mut scale) = (on.upload(&g)?, self.place::<f32>(1)?, self.place::<f32>(1)?);
        grad_norm::cuda::scale(on, norm.view_mut(&[1])?, scale.view_mut(&[1])?, device.view(&[n])?, unscale, max)?;
        let length = cpu::grad_norm::reference::sum_of_squares(&exact).sqrt() * unscale;
        self.check("grad_norm.norm", &norm, &[length], 1e-7)?;
        self.check("grad_norm.scale", &scale, &[unscale * max / (length + 1e-6)], 1e-7)?;
        g[n - 2] = f32::INFINITY;
        g[n - 7] = f32::NAN;
        for (g, want) in [(&device, None), (&on.upload(&g)?, Some(n - 7))] {
            let found = grad_norm::cuda::first_non_finite(on, g.view(&[n])?)?;
            let error = if found == want { 0.0 } else { f64::INFINITY };
            self.checks.push(Check { name: "grad_norm.first_non_finite".into(), error, bound: 0.0 });
        }
        Ok(())
    }
}
