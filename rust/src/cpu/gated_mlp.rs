//! h = act(gate)·up (SwiGLU, GeGLU), its backward recomputing act.  gate_up (N, 2F) holds [gate | up] in each row.

use rayon::prelude::*;

use super::activation::{Activation, by_kind, slope, value};
use super::isa::simd;
use super::parallel::install;
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
    install(|| {
        h.par_chunks_mut(f).zip(gate_up.par_chunks(2 * f)).for_each(|(h, gate_up)| {
            let (gate, up) = gate_up.split_at(f);
            forward_row(h, gate, up, kind);
        });
    });
}

pub fn backward<T: Element>(dgate_up: &mut [T], dh: &[T], gate_up: &[T], kind: Activation, f: usize) {
    install(|| {
        dgate_up.par_chunks_mut(2 * f).zip(dh.par_chunks(f)).zip(gate_up.par_chunks(2 * f)).for_each(
            |((d, dh), gate_up)| {
                let (gate, up) = gate_up.split_at(f);
                let (dgate, dup) = d.split_at_mut(f);
                backward_row(dgate, dup, dh, gate, up, kind);
            },
        );
    });
}

simd! {
    fn forward_row<T>(h: &mut [T], gate: &[T], up: &[T], kind: Activation) {
        by_kind!(kind, KIND => {
            for ((h, gate), up) in h.iter_mut().zip(gate).zip(up) {
                *h = T::from_f32(value(gate.to_f32(), KIND) * up.to_f32());
            }
        });
    }
}

simd! {
    fn backward_row<T>(dgate: &mut [T], dup: &mut [T], dh: &[T], gate: &[T], up: &[T], kind: Activation) {
        by_kind!(kind, KIND => {
            for ((((dgate, dup), dh), gate), up) in dgate.iter_mut().zip(dup.iter_mut()).zip(dh).zip(gate).zip(up) {
                let (g, u, dh) = (gate.to_f32(), up.to_f32(), dh.to_f32());
                *dgate = T::from_f32(dh * u * slope(g, KIND));
                *dup = T::from_f32(dh * value(g, KIND));
            }
        });
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
