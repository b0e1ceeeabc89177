//! Random numbers by address: Philox4x32-10 of (seed, stream, position). No state, so neither the
//! thread count nor a resume changes a value.

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

/// Philox4x32 with 10 rounds (Salmon et al. 2011): two multiplications a round, mixed with the key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let [a, b] = [u64::from(counter[0]) * MULTIPLIERS[0], u64::from(counter[2]) * MULTIPLIERS[1]];
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 distribution.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

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
