//! Random numbers by address: Philox4x32-10 of (seed, stream, position). No state, so neither the
//! thread count nor a resume changes a value.

use crate::philox::philox;

/// What the numbers are for; streams never share a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Init = 0,
    Sampling = 1,
}

/// An addressable sequence of blocks of four 32-bit words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    key: [u32; 2],
    purpose: u32,
    index: u32,
}

impl Stream {
    /// `index`: which tensor, or which sequence.
    pub(super) fn new(seed: u64, purpose: Purpose, index: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], purpose: purpose as u32, index }
    }

    /// The four words at `position`.
    pub(super) fn block(&self, position: u64) -> [u32; 4] {
        philox([position as u32, (position >> 32) as u32, self.index, self.purpose], self.key)
    }

    /// Four values of U(0, 1), each from 32 bits, never 0 or 1.
    pub(super) fn uniforms(&self, position: u64) -> [f64; 4] {
        self.block(position).map(open_unit)
    }

    /// One value of U(0, 1) from 53 bits, never 0 or 1.
    pub(super) fn uniform(&self, position: u64) -> f64 {
        let [high, low, ..] = self.block(position);
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 12;
        (bits as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Four values of N(0, 1): Box-Muller on two pairs.
    pub(super) fn normals(&self, position: u64) -> [f64; 4] {
        let [a, b, c, d] = self.uniforms(position);
        let pair = |u: f64, v: f64| {
            let radius = (-2.0 * u.ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
            [radius * cos, radius * sin]
        };
        let ([p, q], [r, s]) = (pair(a, b), pair(c, d));
        [p, q, r, s]
    }
}

fn open_unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_purposes_differ() {
        let block = |seed, purpose, index| Stream::new(seed, purpose, index).block(7);
        let base = block(1, Purpose::Init, 0);
        for other in [block(2, Purpose::Init, 0), block(1, Purpose::Sampling, 0), block(1, Purpose::Init, 1)] {
            assert_ne!(base, other);
        }
        assert_ne!(block(1, Purpose::Init, 0), block(1 | 1 << 32, Purpose::Init, 0));
    }

    #[test]
    fn uniforms_stay_inside_the_open_interval() {
        assert!(open_unit(0) > 0.0 && open_unit(u32::MAX) < 1.0);
        let stream = Stream::new(3, Purpose::Sampling, 0);
        let mean = (0..10_000).map(|i| stream.uniform(i)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.015, "{mean}");
    }
}
