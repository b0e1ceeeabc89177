//! h = act(gate)·up (SwiGLU, GeGLU), its backward recomputing act.  gate_up (N, 2F) holds [gate | up] in each row.

use rayon::prelude::*;

use super::activation::{slope, value};
use super::parallel::install;
use crate::dtype::Element;
use crate::ops::activation::Activation;

pub fn forward<T: Element>(h: &mut [T], gate_up: &[T], kind: Activation, f: usize) {
    install(|| {
        h.par_chunks_mut(f).zip(gate_up.par_chunks(2 * f)).for_each(|(h, gate_up)| {
            let (gate, up) = gate_up.split_at(f);
            for ((h, gate), up) in h.iter_mut().zip(gate).zip(up) {
                *h = T::from_f32(value(gate.to_f32(), kind) * up.to_f32());
            }
        });
    });
}

pub fn backward<T: Element>(dgate_up: &mut [T], dh: &[T], gate_up: &[T], kind: Activation, f: usize) {
    install(|| {
        dgate_up.par_chunks_mut(2 * f).zip(dh.par_chunks(f)).zip(gate_up.par_chunks(2 * f)).for_each(
            |((d, dh), gate_up)| {
                let (gate, up) = gate_up.split_at(f);
                let (dgate, dup) = d.split_at_mut(f);
                for i in 0..f {
                    let (g, u, dh) = (gate[i].to_f32(), up[i].to_f32(), dh[i].to_f32());
                    dgate[i] = T::from_f32(dh * u * slope(g, kind));
                    dup[i] = T::from_f32(dh * value(g, kind));
                }
            },
        );
    });
}
