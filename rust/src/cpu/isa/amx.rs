//! AMX: eight registers that are tiles of 16 rows of 64 bytes, and the instruction that multiplies tiles of bf16.  The
//! only file with `asm!`: stable Rust has no names for these instructions.

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, __m256i, __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm512_castsi128_si512, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_inserti32x4, _mm512_or_si512, _mm512_slli_epi32, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::marker::PhantomData;

use super::{Avx512, Avx512Bf16};
use crate::dtype::bf16;

/// What a register holds: of A 16 rows of 32 inner indices, of B 16 pairs of inner indices of 16 columns.
pub type Tile = [[u32; 16]; 16];
/// What it holds of C.
pub type Sums = [[f32; 16]; 16];

/// Proof that this CPU has AMX for bf16 besides AVX512_BF16, and that the system lets this process use it; made by
/// [`Amx::detect`] alone.
#[derive(Debug, Clone, Copy)]
pub struct Amx(Avx512Bf16);

impl Amx {
    pub(super) fn detect(pairs: Avx512Bf16) -> Option<Self> {
        (has_instructions() && permitted()).then_some(Self(pairs))
    }

    /// What the rest of such a kernel uses.
    #[inline(always)]
    pub fn pairs(self) -> Avx512Bf16 {
        self.0
    }

    #[inline(always)]
    pub fn vectors(self) -> Avx512 {
        self.0.vectors()
    }

    /// Runs `work` with the registers configured, then frees them: other code of this thread that uses them configures
    /// them in its own way, and switching between threads is slower while they are in use. `work` must not call this.
    #[inline(always)]
    pub fn with_tiles<R>(self, work: impl FnOnce(&Tiles) -> R) -> R {
        /// Palette 1, then at byte 16 the bytes of a row, at byte 48 the rows of each of eight registers.
        static CONFIGURATION: [u8; 64] = {
            let mut all = [0; 64];
            all[0] = 1;
            let mut i = 0;
            while i < 8 {
                (all[16 + 2 * i], all[48 + i]) = (64, 16);
                i += 1;
            }
            all
        };
        // SAFETY: `self` proves that the instruction exists and may be used; it reads the 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags, readonly))
        };
        work(&Tiles(PhantomData))
    }
}

/// Of a CPU with AVX-512.
impl Amx {
    /// Rounds to nearest, ties to even. Numbers below the least normal one are 0.
    #[inline(always)]
    pub fn narrow(self, low: __m512, high: __m512) -> [bf16; 32] {
        // SAFETY: `self` exists only on a CPU that reports avx512bf16; both types are 512 plain bits.
        unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// Pairs of what stands in two lines, the first in the low half.
    #[inline(always)]
    pub fn interleave(self, to: [&mut [u32; 16]; 2], low: &[bf16; 32], high: &[bf16; 32]) {
        for (half, to) in to.into_iter().enumerate() {
            // SAFETY: `self` exists only on a CPU that reports avx512f. The loads read half a line each, the store
            // writes the sixteen pairs; none asks for alignment.
            unsafe {
                let wide =
                    |x: &[bf16; 32]| _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast::<__m256i>().add(half)));
                let pairs = _mm512_or_si512(wide(low), _mm512_slli_epi32::<16>(wide(high)));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
            }
        }
    }

    /// Pairs of rows become columns.
    #[inline(always)]
    pub fn transpose(self, tile: &mut Tile, lines: &Tile) {
        // SAFETY: `self` exists only on a CPU that reports avx512f. Each load reads 16 of the 64 bytes of a line, each
        // store writes a row of the tile; neither asks for alignment.
        unsafe {
            for k in 0..4 {
                let quarter = |i: usize| _mm_loadu_si128(lines[i].as_ptr().cast::<__m128i>().add(k));
                // In lane l the pairs 4k..4k + 4 of line 4l + i: inserted as they are read, which needs no shuffle.
                let four = |i: usize| {
                    let x = _mm512_castsi128_si512(quarter(i));
                    let x = _mm512_inserti32x4::<1>(x, quarter(4 + i));
                    let x = _mm512_inserti32x4::<2>(x, quarter(8 + i));
                    _mm512_inserti32x4::<3>(x, quarter(12 + i))
                };
                let [a, b, c, d] = [four(0), four(1), four(2), four(3)];
                let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
                let columns = [
                    _mm512_unpacklo_epi64(ab, cd),
                    _mm512_unpackhi_epi64(ab, cd),
                    _mm512_unpacklo_epi64(ab_high, cd_high),
                    _mm512_unpackhi_epi64(ab_high, cd_high),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_si512(tile[4 * k + i].as_mut_ptr().cast(), column);
                }
            }
        }
    }
}

/// The registers, configured on this thread.
pub struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: made by `with_tiles` alone, so the instruction exists.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

impl Tiles {
    /// Four products of tiles a step, of whatever the registers hold: the rate of the unit.
    #[inline(always)]
    pub fn spin(&self, steps: usize) {
        if steps == 0 {
            return;
        }
        // SAFETY: `self` proves that the registers are configured; no memory is touched.
        unsafe {
            asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {steps}",
                "jnz 2b",
                steps = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem),
            );
        }
    }

    /// 32 × 32 sums = A·B, of B two tiles a step: `out` has the upper left, upper right, lower left, lower right.
    /// Meanwhile it asks for the cache lines at `soon`, two a step and `stride` bytes apart, where the sums will go, and
    /// for two lines a step of what will be read as A later, from `later` on and from `apart` bytes further on.
    ///
    /// # Panics
    /// When A has other steps than B.
    #[inline(always)]
    pub fn product<T>(
        &self,
        out: &mut [Sums; 4],
        a: Left,
        b: &[[Tile; 2]],
        (soon, stride): (*const T, usize),
        (later, apart): (*const bf16, usize),
    ) {
        let (first, row, second, step) = match a {
            Left::Packed(a) => {
                assert!(a.len() == b.len(), "as many steps of A");
                (a.as_ptr().cast::<u8>(), 64, 1024, 2048usize)
            }
            Left::Rows(a, row) => {
                assert!(a.len() >= 31 * row + 32 * b.len(), "as many steps of A");
                (a.as_ptr().cast::<u8>(), 2 * row, 32 * row, 64)
            }
        };
        if b.is_empty() {
            return out.fill([[0.0; 16]; 16]);
        }
        // SAFETY: `self` proves that the registers are 16 rows of 64 bytes. Each step reads two tiles of B and two of A,
        // which the assertions above keep inside; the four stores fill `out`; to ask for a cache line cannot fault.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + 1*{row}]",
                "tileloadd tmm6, [{b} + 1*{line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + 1*{line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + 1*{row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetchw [{soon}]",
                "prefetchw [{soon} + 1*{stride}]",
                "lea {soon}, [{soon} + 2*{stride}]",
                "prefetcht1 [{later}]",
                "prefetcht1 [{later} + 1*{apart}]",
                "add {later}, 64",
                "add {a}, {step}",
                "add {lower}, {step}",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{out} + 1*{line}], tmm0",
                "tilestored [{out} + 1*{line} + 1024], tmm1",
                "tilestored [{out} + 1*{line} + 2048], tmm2",
                "tilestored [{out} + 1*{line} + 3072], tmm3",
                a = inout(reg) first => _,
                lower = inout(reg) first.add(second) => _,
                b = inout(reg) b.as_ptr() => _,
                steps = inout(reg) b.len() => _,
                out = in(reg) out.as_mut_ptr(),
                soon = inout(reg) soon => _,
                stride = in(reg) stride,
                later = inout(reg) later => _,
                apart = in(reg) apart,
                row = in(reg) row,
                line = in(reg) 64usize,
                step = in(reg) step,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// 32 rows of A.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Two tiles a step.
    Packed(&'a [[Tile; 2]]),
    /// As they stand, so many elements apart.
    Rows(&'a [bf16], usize),
}

/// CPUID says that there are tiles and products of bf16, XCR0 that the system saves their state.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const STATE: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn state() -> u64 {
        // SAFETY: the caller has checked OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe, reason = "unsafe in the oldest Rust that is supported")]
    // SAFETY: a CPU with AVX-512 has these leaves.
    let (one, seven) = unsafe { (__cpuid(1), __cpuid_count(7, 0)) };
    // SAFETY: OSXSAVE says that `xgetbv` may be used.
    one.ecx & OSXSAVE != 0 && seven.edx & BF16_AND_TILE == BF16_AND_TILE && unsafe { state() } & STATE == STATE
}

/// Asks Linux for the state, once for all threads of the process; refused where a thread's stack for signals is too small.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: it takes two numbers and changes what the process may use alone.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
