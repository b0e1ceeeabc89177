//! The only place that asks the CPU what it can do.
//!
//! A kernel is one `#[inline(always)]` body over plain slices, generic in [`Simd`]. [`dispatch!`] compiles it once an
//! instruction set and picks one at run time:
//!
//! ```text
//! let isa = isa::isa();                               // on the calling thread, before the work is shared out
//! dispatch!(isa, s => rows(s, y, x, w, eps))          // `s` says what the copy of `rows` may use
//! ```
//!
//! What a body calls must be inlined into it, or it is compiled for the baseline, where `fma` calls libm and is 50
//! times slower. So a body calls `#[inline(always)]` functions alone, and lends no closure to a function that is not:
//! scratch is taken and work is shared out around `dispatch!`, never inside.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128, __m128i, __m256, __m512, __m512bh, _MM_HINT_T0, _MM_HINT_T1, _MM_TRANSPOSE4_PS, _mm_cvtsi64_si128,
    _mm_prefetch, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi16, _mm_unpacklo_epi32, _mm_unpacklo_epi64,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps,
};
use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
pub use amx::{Amx, Left, Sums, Tile, Tiles};

/// What a compiled copy of a kernel may use.
pub trait Simd: Copy + Send + Sync {
    /// Whether [`Simd::fma`] is one instruction; our own matrix kernel is used only then.
    const FMA: bool;
    /// Whether there are registers for a dozen sums that are one [`Simd::Vector`] each.
    const DOZEN: bool;

    /// Sixteen numbers side by side, for the inner loops of products: there the compiler's own choice of vectors is
    /// not dependable.
    type Vector: Copy;

    /// a·b + c: rounded once where the copy has FMA, twice where not (there `mul_add` would call libm).
    fn fma(self, a: f32, b: f32, c: f32) -> f32;

    fn splat(self, x: f32) -> Self::Vector;
    fn load(self, x: &[f32; 16]) -> Self::Vector;
    fn store(self, to: &mut [f32; 16], x: Self::Vector);
    /// [`Simd::fma`] of each.
    fn fma_each(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}

/// What the target guarantees: SSE2 on x86-64, NEON on aarch64.
#[derive(Debug, Clone, Copy)]
pub struct Baseline;

impl Simd for Baseline {
    const FMA: bool = false;
    const DOZEN: bool = false;

    type Vector = [f32; 16];

    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16], x: [f32; 16]) {
        *to = x;
    }

    #[inline(always)]
    fn fma_each(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

/// Proof that this CPU has AVX2, FMA and F16C; made by [`detect`] alone.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    const FMA: bool = true;
    const DOZEN: bool = false;

    type Vector = [__m256; 2];

    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: `self` exists only on a CPU that reports avx2 and fma; so do the three below.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [__m256; 2] {
        let (halves, _) = x.as_chunks::<8>();
        // SAFETY: as in `splat`; each half holds eight numbers, and the load asks for no alignment.
        unsafe { [_mm256_loadu_ps(halves[0].as_ptr()), _mm256_loadu_ps(halves[1].as_ptr())] }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16], x: [__m256; 2]) {
        let (halves, _) = to.as_chunks_mut::<8>();
        for (half, x) in halves.iter_mut().zip(x) {
            // SAFETY: as in `load`.
            unsafe { _mm256_storeu_ps(half.as_mut_ptr(), x) };
        }
    }

    #[inline(always)]
    fn fma_each(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as in `splat`.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Runs `body`, everything inlined into it compiled for AVX2, FMA and F16C.
    #[inline(always)]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        // SAFETY: `self` exists only on a CPU that reports avx2, fma and f16c.
        unsafe { compiled(body) }
    }
}

/// Proof that this CPU has AVX-512 F, BW, CD, DQ and VL besides all of [`Avx2`]; made by [`detect`] alone.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512 {
    avx2: Avx2,
    /// What products of bf16 may use besides.
    pairs: Option<Avx512Bf16>,
    tiles: Option<Amx>,
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    const FMA: bool = true;
    const DOZEN: bool = true;

    type Vector = __m512;

    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        self.avx2.fma(a, b, c)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists only on a CPU that reports avx512f; so do the three below.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        // SAFETY: as in `splat`; the array holds the sixteen numbers, and the load asks for no alignment.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16], x: __m512) {
        // SAFETY: as in `load`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn fma_each(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// Runs `body`, everything inlined into it compiled for AVX-512.
    #[inline(always)]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c")]
        fn compiled<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        // SAFETY: `self` exists only on a CPU that reports all of these.
        unsafe { compiled(body) }
    }
}

/// Proof that this CPU multiplies pairs of bf16 (AVX512_BF16) besides all of [`Avx512`]; made by [`detect`] alone.
///
/// Products of bf16 alone gain from it and ask for it; [`dispatch!`] gives every kernel the copy for [`Avx512`].
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512Bf16(());

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// What the rest of such a kernel uses.
    #[inline(always)]
    pub fn vectors(self) -> Avx512 {
        Avx512 { avx2: Avx2(()), pairs: Some(self), tiles: None }
    }

    /// Sixteen pairs; the first of each is the low half.
    #[inline(always)]
    pub fn load_pairs(self, x: &[u32; 16]) -> __m512bh {
        // SAFETY: `self` exists only on a CPU that reports avx512f; the array holds the sixteen pairs, the load asks for
        // no alignment, and both vectors are 512 plain bits.
        unsafe { std::mem::transmute(_mm512_loadu_si512(x.as_ptr().cast())) }
    }

    #[inline(always)]
    pub fn splat_pair(self, pair: u32) -> __m512bh {
        // SAFETY: as in `load_pairs`.
        unsafe { std::mem::transmute(_mm512_set1_epi32(pair.cast_signed())) }
    }

    /// c + both products of each pair. Numbers below the least normal one, read or made, are 0.
    #[inline(always)]
    pub fn add_products(self, a: __m512bh, b: __m512bh, c: __m512) -> __m512 {
        // SAFETY: `self` exists only on a CPU that reports avx512bf16 and avx512f.
        unsafe { _mm512_dpbf16_ps(c, a, b) }
    }

    /// Pairs of a low and a high half.
    #[inline(always)]
    pub fn interleave(self, low: [u16; 4], high: [u16; 4]) -> [u32; 4] {
        // SAFETY: `self` exists only on a CPU that reports avx2; all types are plain bits of equal lengths.
        unsafe {
            let (low, high) = (std::mem::transmute::<[u16; 4], i64>(low), std::mem::transmute::<[u16; 4], i64>(high));
            std::mem::transmute(_mm_unpacklo_epi16(_mm_cvtsi64_si128(low), _mm_cvtsi64_si128(high)))
        }
    }

    /// Rows become columns.
    #[inline(always)]
    pub fn transpose(self, rows: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
        // SAFETY: `self` exists only on a CPU that reports avx2; both types of a row are 128 plain bits.
        unsafe {
            let [a, b, c, d] = std::mem::transmute::<[[u32; 4]; 4], [__m128i; 4]>(rows);
            let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            std::mem::transmute::<[__m128i; 4], [[u32; 4]; 4]>([
                _mm_unpacklo_epi64(ab, cd),
                _mm_unpackhi_epi64(ab, cd),
                _mm_unpacklo_epi64(ab_high, cd_high),
                _mm_unpackhi_epi64(ab_high, cd_high),
            ])
        }
    }

    /// Runs `body`, everything inlined into it compiled for AVX-512 with AVX512_BF16.
    #[inline(always)]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c")]
        fn compiled<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        // SAFETY: `self` exists only on a CPU that reports all of these.
        unsafe { compiled(body) }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Isa {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Isa {
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(Avx512 { pairs: None, .. }) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(Avx512 { tiles: None, .. }) => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(Avx512 { tiles: Some(_), .. }) => "amx",
        }
    }

    /// What products of bf16 may use besides [`dispatch!`], where the CPU has it.
    #[cfg(target_arch = "x86_64")]
    pub fn pairs(self) -> Option<Avx512Bf16> {
        match self {
            Self::Avx512(avx512) => avx512.pairs,
            _ => None,
        }
    }

    /// What they use rather, where the CPU has it and the system allows it.
    #[cfg(target_arch = "x86_64")]
    pub fn tiles(self) -> Option<Amx> {
        match self {
            Self::Avx512(avx512) => avx512.tiles,
            _ => None,
        }
    }
}

/// Every instruction set that this CPU can run, the best one last.
fn detect() -> Vec<Isa> {
    let mut all = vec![Isa::Baseline];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        all.push(Isa::Avx2(Avx2(())));
        let (f, bw, cd) = (
            is_x86_feature_detected!("avx512f"),
            is_x86_feature_detected!("avx512bw"),
            is_x86_feature_detected!("avx512cd"),
        );
        if f && bw && cd && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
            let avx512 = Avx512 { avx2: Avx2(()), pairs: None, tiles: None };
            all.push(Isa::Avx512(avx512));
            if is_x86_feature_detected!("avx512bf16") {
                let (pairs, with_pairs) = (Avx512Bf16(()), Avx512 { pairs: Some(Avx512Bf16(())), ..avx512 });
                all.push(Isa::Avx512(with_pairs));
                all.extend(Amx::detect(pairs).map(|tiles| Isa::Avx512(Avx512 { tiles: Some(tiles), ..with_pairs })));
            }
        }
    }
    all
}

/// The best, or the one that `LLMJP_ISA` names, if this CPU has it.
static CHOSEN: LazyLock<Isa> = LazyLock::new(|| {
    let all = detect();
    let best = all[all.len() - 1];
    let Ok(name) = std::env::var("LLMJP_ISA") else { return best };
    all.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(&name)).unwrap_or(best)
});

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// The instruction set to use: chosen once; `LLMJP_ISA=baseline` forces the fallback.
#[inline]
pub fn isa() -> Isa {
    #[cfg(test)]
    if let Some(isa) = FORCED.get() {
        return isa;
    }
    *CHOSEN
}

/// Runs `work` with `isa` on this thread: how tests reach the fallback.
#[cfg(test)]
pub(crate) fn with<R>(isa: Isa, work: impl FnOnce() -> R) -> R {
    let before = FORCED.replace(Some(isa));
    let result = work();
    FORCED.set(before);
    result
}

/// Every instruction set that this CPU can run.
#[cfg(test)]
pub(crate) fn all() -> Vec<Isa> {
    detect()
}

/// Asks for the cache line where `x` points, a while before it is needed; nothing where no instruction says so.
#[inline(always)]
pub fn prefetch<T>(x: *const T) {
    // SAFETY: SSE, which has it, is part of x86-64; it changes nothing and cannot fault, wherever `x` points.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(x.cast());
    }
}

/// The same, no nearer than the L2 cache.
#[inline(always)]
pub fn prefetch_l2<T>(x: *const T) {
    // SAFETY: as in `prefetch`.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(x.cast());
    }
}

/// Rows become columns.
#[inline(always)]
pub fn transpose(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE, which has these, is part of x86-64; both types of a row are 128 plain bits.
    unsafe {
        let [mut a, mut b, mut c, mut d] = std::mem::transmute::<[[f32; 4]; 4], [__m128; 4]>(rows);
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        std::mem::transmute::<[__m128; 4], [[f32; 4]; 4]>([a, b, c, d])
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
}

/// `dispatch!(isa, s => body)`: `body`, compiled for the instruction set; `s` is its [`Simd`].
macro_rules! dispatch {
    ($isa:expr, $s:ident => $body:expr) => {
        match $isa {
            $crate::cpu::isa::Isa::Baseline => {
                let $s = $crate::cpu::isa::Baseline;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::isa::Isa::Avx2($s) => $s.run(
                #[inline(always)]
                || $body,
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::isa::Isa::Avx512($s) => $s.run(
                #[inline(always)]
                || $body,
            ),
        }
    };
}

pub(crate) use dispatch;
