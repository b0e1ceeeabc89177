//! The Mersenne Twister as numpy's `RandomState` uses it: the order of all training data comes from it.

const N: usize = 624;
const M: usize = 397;

/// MT19937, seeded by one 32-bit word. The stream equals `numpy.random.RandomState(seed)`'s.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.regenerate();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn regenerate(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let twisted = (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ twisted;
        }
        self.next = 0;
    }

    /// Uniform in `0..=max`: the lowest bits that can hold `max`, drawn until they do not exceed it.
    pub fn bounded(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let value = if max <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                // High word first.
                (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32())
            };
            if value & mask <= max {
                return value & mask;
            }
        }
    }

    /// Fisher-Yates from the end, as `RandomState.shuffle` on a one-dimensional array.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.bounded(i as u64) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mt19937;

    fn shuffled(n: u32) -> Vec<u32> {
        let mut items: Vec<u32> = (0..n).collect();
        Mt19937::new(1234).shuffle(&mut items);
        items
    }

    #[test]
    fn first_words_equal_numpy() {
        let mut rng = Mt19937::new(1234);
        let words = [(); 4].map(|()| rng.next_u32());
        assert_eq!(words, [822_569_775, 2_137_449_171, 2_671_936_806, 3_512_589_365]);
    }

    #[test]
    fn shuffles_equal_numpy() {
        assert_eq!(shuffled(10), [7, 2, 9, 1, 0, 8, 4, 5, 6, 3]);
        assert_eq!(shuffled(1000)[..6], [681, 990, 155, 768, 438, 363]);
        assert_eq!(shuffled(100_003)[..6], [84826, 74372, 88626, 51882, 11306, 7660]);
    }

    #[test]
    fn bounds_beyond_32_bits_use_two_words() {
        let (mut a, mut b) = (Mt19937::new(7), Mt19937::new(7));
        let max = u64::from(u32::MAX) + 1;
        let mut expected = u64::MAX;
        while expected > max {
            expected = ((u64::from(b.next_u32()) << 32) | u64::from(b.next_u32())) & 0x1_ffff_ffff;
        }
        assert_eq!(a.bounded(max), expected);
        assert_eq!(a.bounded(0), 0);
    }
}
