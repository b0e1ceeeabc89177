//! The element types of tensors: f32, f16, bf16. Arithmetic is always f32; these are storage.

pub use half::{bf16, f16};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The dtype that torch calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16].into_iter().find(|dtype| dtype.name() == name)
    }

    /// torch's name: `float32`, `float16`, `bfloat16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// `f32`, `f16`, `bf16`, as kernels are named.
    pub const fn short(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

/// A storage type. Conversion from f32 rounds to nearest, ties to even; f16 overflows to infinity.
pub trait Element: bytemuck::Pod + Default + PartialEq + Send + Sync + std::fmt::Debug {
    const DTYPE: DType;
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

// The conversions below have no branch and no call, so that loops over them become vectors.

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // 2^112 moves the exponent's bias from 15 to 127, exactly, subnormal numbers included.
        let finite = f32::from_bits(magnitude) * f32::from_bits((112 + 127) << 23);
        let special = f32::from_bits(magnitude | 0x7f80_0000);
        let value = if magnitude >= 0x7c00 << 13 { special } else { finite };
        f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let magnitude = bits & 0x7fff_ffff;
        // Normal results: a smaller bias, then half a unit is added, less one when the last bit kept is even.
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        // Subnormal results: adding 1/2 lets the addition round at the right bit, which is 2^-24.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let rounded = if magnitude < 113 << 23 { subnormal } else { normal };
        let rounded = if magnitude >= (127 + 16) << 23 { special } else { rounded };
        Self::from_bits((rounded | (bits >> 16) & 0x8000) as u16)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        Self::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn every_half_widens_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(same(Element::to_f32(h), h.to_f32()), "f16 {bits:#x}");
            assert!(same(Element::to_f32(b), b.to_f32()), "bf16 {bits:#x}");
            assert!(h.is_nan() || <f16 as Element>::from_f32(h.to_f32()) == h);
            assert!(b.is_nan() || <bf16 as Element>::from_f32(b.to_f32()) == b);
        }
    }

    /// f32s over all exponents, and next to each half-way point.
    #[test]
    fn rounding_is_to_nearest_ties_to_even() {
        let ties = (0..=u16::MAX).flat_map(|bits| {
            let tie = |x: f32| [x.to_bits().wrapping_sub(1), x.to_bits(), x.to_bits().wrapping_add(1)];
            let middle = f32::from_bits(u32::from(bits) << 16 | 0x8000);
            let next = f16::from_bits(bits.wrapping_add(1)).to_f32();
            tie(middle).into_iter().chain(tie((f16::from_bits(bits).to_f32() + next) / 2.0))
        });
        for bits in ties.chain((0..u32::MAX).step_by(9973)) {
            let x = f32::from_bits(bits);
            let (h, b) = (<f16 as Element>::from_f32(x), <bf16 as Element>::from_f32(x));
            assert!(same(h.to_f32(), f16::from_f32(x).to_f32()), "f16 of {x:e} ({bits:#x})");
            assert!(same(b.to_f32(), bf16::from_f32(x).to_f32()), "bf16 of {x:e} ({bits:#x})");
        }
    }
}
