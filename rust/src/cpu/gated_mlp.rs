//! h = act(gate)·up (SwiGLU, GeGLU), its backward recomputing act.  gate_up (N, 2F) holds [gate | up] in each row.

use rayon::prelude::*;

use super::activation::{by_kind, slope, value};
use super::isa::simd;
use super::parallel::install;
use crate::dtype::Element;
use crate::ops::activation::Activation;

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
