//! The only place that asks the CPU what it can do.

use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What the target guarantees: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
}

/// Chosen once; `LLMJP_ISA=baseline` forces the fallback.
pub static ISA: LazyLock<Isa> = LazyLock::new(|| {
    if std::env::var("LLMJP_ISA").is_ok_and(|isa| isa.eq_ignore_ascii_case("baseline")) {
        return Isa::Baseline;
    }
    detect()
});

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let all = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    if all { Isa::Avx2 } else { Isa::Baseline }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Baseline
}

/// Writes a safe function whose body is compiled once for each instruction set and chosen at run time.
///
/// The contract: one function, plain identifiers as arguments, optionally one type parameter `<T: Element>`.
/// The body is inlined into each copy, so what it calls must be `#[inline(always)]` to be compiled with it.
macro_rules! simd {
    ($(#[$doc:meta])* $vis:vis fn $name:ident $(<$t:ident>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name $(<$t: $crate::dtype::Element>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$t: $crate::dtype::Element>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$t: $crate::dtype::Element>)? ($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            match *$crate::cpu::isa::ISA {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `ISA` is `Avx2` only on a CPU that reports avx2, fma and f16c.
                $crate::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}

pub(crate) use simd;
