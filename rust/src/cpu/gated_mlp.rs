//! h = act(gate)·up (SwiGLU, GeGLU), its backward recomputing act.  gate_up (N, 2F) holds [gate | up] in each row.

use rayon::prelude::*;

use super::activation::{Activation, both, for_kind, map2};
use super::isa::{dispatch, isa};
use super::parallel::share;
use crate::dtype::Element;

pub mod reference {
    use super::super::activation::{Activation, reference};

    pub fn forward(gate: f64, up: f64, kind: Activation) -> f64 {
        reference::forward(gate, kind) * up
    }

    /// (dgate, dup).
    pub fn backward(dh: f64, gate: f64, up: f64, kind: Activation) -> (f64, f64) {
        (dh * up * reference::slope(gate, kind), dh * reference::forward(gate, kind))
    }
}

pub fn forward<T: Element>(h: &mut [T], gate_up: &[T], kind: Activation, f: usize) {
    if f == 0 {
        return;
    }
    let isa = isa();
    share(h.par_chunks_mut(f).zip(gate_up.par_chunks(2 * f)).with_min_len(4), |(h, gate_up)| {
        let (gate, up) = gate_up.split_at(f);
        for_kind!(kind, K => dispatch!(isa, s => map2(h, gate, up, |gate, up| both(s, gate, K).0 * up)));
    });
}

/// dgate = dh·up·act′(gate);  dup = dh·act(gate).
pub fn backward<T: Element>(dgate_up: &mut [T], dh: &[T], gate_up: &[T], kind: Activation, f: usize) {
    if f == 0 {
        return;
    }
    let isa = isa();
    let rows = dgate_up.par_chunks_mut(2 * f).zip(dh.par_chunks(f)).zip(gate_up.par_chunks(2 * f));
    share(rows.with_min_len(4), |((d, dh), gate_up)| {
        for_kind!(kind, K => dispatch!(isa, s => row(d, dh, gate_up, |gate| both(s, gate, K))));
    });
}

/// Elements that one task makes where gate and up stand apart.
const BLOCK: usize = 1 << 14;

/// The same with gate and up in tensors of their own, each like h.
pub fn forward_apart<T: Element>(h: &mut [T], gate: &[T], up: &[T], kind: Activation) {
    let isa = isa();
    share(h.par_chunks_mut(BLOCK).zip(gate.par_chunks(BLOCK)).zip(up.par_chunks(BLOCK)), |((h, gate), up)| {
        for_kind!(kind, K => dispatch!(isa, s => map2(h, gate, up, |gate, up| both(s, gate, K).0 * up)));
    });
}

/// The same with all of them apart.
pub fn backward_apart<T: Element>(dgate: &mut [T], dup: &mut [T], dh: &[T], gate: &[T], up: &[T], kind: Activation) {
    let isa = isa();
    let out = dgate.par_chunks_mut(BLOCK).zip(dup.par_chunks_mut(BLOCK));
    let blocks = out.zip(dh.par_chunks(BLOCK)).zip(gate.par_chunks(BLOCK)).zip(up.par_chunks(BLOCK));
    share(blocks, |((((dgate, dup), dh), gate), up)| {
        for_kind!(kind, K => dispatch!(isa, s => parts(dgate, dup, dh, gate, up, |gate| both(s, gate, K))));
    });
}

#[inline(always)]
fn row<T: Element>(dgate_up: &mut [T], dh: &[T], gate_up: &[T], act: impl Fn(f32) -> (f32, f32)) {
    let (gate, up) = gate_up.split_at(dh.len());
    let (dgate, dup) = dgate_up.split_at_mut(dh.len());
    parts(dgate, dup, dh, gate, up, act);
}

#[inline(always)]
fn parts<T: Element>(dgate: &mut [T], dup: &mut [T], dh: &[T], gate: &[T], up: &[T], act: impl Fn(f32) -> (f32, f32)) {
    for ((((dgate, dup), dh), gate), up) in dgate.iter_mut().zip(dup).zip(dh).zip(gate).zip(up) {
        let (value, slope) = act(gate.to_f32());
        let dh = dh.to_f32();
        *dgate = T::from_f32(dh * up.to_f32() * slope);
        *dup = T::from_f32(dh * value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_gradient, each_dtype, place, random, sample};
    use super::*;

    const KINDS: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu];

    fn follows_the_reference<T: Element>() {
        let (n, f) = (5, 17);
        let (gate_up, exact_gate_up) = sample::<T>(1, n * 2 * f);
        let (dh, exact_dh) = sample::<T>(2, n * f);
        for kind in KINDS {
            let (mut h, mut d) = (place::<T>(n * f), place::<T>(n * 2 * f));
            forward(&mut h, &gate_up, kind, f);
            backward(&mut d, &dh, &gate_up, kind, f);
            let (mut exact_h, mut exact_d) = (vec![0.0; n * f], vec![0.0; n * 2 * f]);
            for i in 0..n * f {
                let (gate, up) = (i / f * 2 * f + i % f, i / f * 2 * f + f + i % f);
                let (g, u) = (exact_gate_up[gate], exact_gate_up[up]);
                exact_h[i] = reference::forward(g, u, kind);
                (exact_d[gate], exact_d[up]) = reference::backward(exact_dh[i], g, u, kind);
            }
            assert_close("h", &h, &exact_h, 4.0);
            assert_close("dgate_up", &d, &exact_d, 4.0);
            let part = |from: usize| -> Vec<T> {
                gate_up.chunks(2 * f).flat_map(|row| row[from..from + f].to_vec()).collect()
            };
            let (gate, up) = (part(0), part(f));
            let (mut apart, mut dgate, mut dup) = (place::<T>(n * f), place::<T>(n * f), place::<T>(n * f));
            forward_apart(&mut apart, &gate, &up, kind);
            backward_apart(&mut dgate, &mut dup, &dh, &gate, &up, kind);
            assert_eq!(apart, h);
            let both = dgate.chunks(f).zip(dup.chunks(f));
            assert_eq!(both.flat_map(|(gate, up)| [gate, up].concat()).collect::<Vec<_>>(), d);
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn reference_gradients() {
        for (kind, pair) in
            KINDS.iter().flat_map(|kind| random(3, 20).chunks(2).map(|p| (*kind, p.to_vec())).collect::<Vec<_>>())
        {
            let (dgate, dup) = reference::backward(0.7, pair[0], pair[1], kind);
            check_gradient("gated_mlp", |x| 0.7 * reference::forward(x[0], x[1], kind), &pair, &[dgate, dup]);
        }
    }
}
