//! Weights before the first step. Each element is addressed by (seed, tensor, element), so neither
//! the thread count nor the order of filling changes a value.

use rayon::prelude::*;

use super::layout::{Param, Role};
use super::random::{Purpose, Stream};
use super::{Init, InitMethod};
use crate::cpu::parallel;

/// Elements of one Philox block.
const BLOCK: usize = 4;
/// Blocks that one thread fills at a time.
const CHUNK: usize = 4096;

/// A matrix's distribution, with its fans resolved.
enum Law {
    Constant(f32),
    Normal { std: f64 },
    Uniform { bound: f64 },
}

impl Law {
    fn of(role: Role, init: &Init) -> Self {
        match role {
            Role::Scale => Self::Constant(1.0),
            Role::Bias => Self::Constant(0.0),
            Role::Matrix { fan_in, fan_out } => Self::matrix(init.method, fan_in + fan_out),
            Role::Output { fan_in, fan_out } => Self::matrix(init.output_method, fan_in + fan_out),
        }
    }

    fn matrix(method: InitMethod, fans: usize) -> Self {
        match method {
            InitMethod::Normal { std } => Self::Normal { std },
            InitMethod::XavierUniform => Self::Uniform { bound: (6.0 / fans as f64).sqrt() },
            InitMethod::XavierNormal => Self::Normal { std: (2.0 / fans as f64).sqrt() },
        }
    }
}

/// Fills one tensor; `ordinal` is its place in the list of parameters.
pub(super) fn fill(values: &mut [f32], param: &Param, ordinal: u32, init: &Init, seed: u64) {
    let stream = Stream::new(seed, Purpose::Init, ordinal);
    match Law::of(param.role, init) {
        Law::Constant(value) => values.fill(value),
        Law::Normal { std } => draw(values, |position| stream.normals(position).map(|z| z * std)),
        Law::Uniform { bound } => draw(values, |position| stream.uniforms(position).map(|u| (2.0 * u - 1.0) * bound)),
    }
}

fn draw(values: &mut [f32], block: impl Fn(u64) -> [f64; BLOCK] + Sync) {
    let fill = |(chunk, values): (usize, &mut [f32])| {
        for (i, four) in values.chunks_mut(BLOCK).enumerate() {
            let drawn = block((chunk * CHUNK + i) as u64);
            four.iter_mut().zip(drawn).for_each(|(value, x)| *value = x as f32);
        }
    };
    parallel::share(values.par_chunks_mut(BLOCK * CHUNK).enumerate(), fill);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(init: InitMethod, output: bool, seed: u64, ordinal: u32) -> Vec<f32> {
        let (fan_in, fan_out) = (128, 384);
        let role = if output { Role::Output { fan_in, fan_out } } else { Role::Matrix { fan_in, fan_out } };
        let param = Param { name: "w".into(), shape: vec![384, 128], offset: 0, len: 384 * 128, decay: true, role };
        let mut values = vec![f32::NAN; param.len];
        let init = Init { method: init, output_method: InitMethod::Normal { std: 0.001 } };
        fill(&mut values, &param, ordinal, &init, seed);
        values
    }

    fn moments(values: &[f32]) -> [f64; 3] {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let central = |power| values.iter().map(|v| (f64::from(*v) - mean).powi(power)).sum::<f64>() / n;
        [mean, central(2).sqrt(), central(4) / central(2).powi(2)]
    }

    #[test]
    fn normal_has_its_moments() {
        let [mean, std, kurtosis] = moments(&filled(InitMethod::Normal { std: 0.02 }, false, 1, 0));
        assert!(mean.abs() < 4.0 * 0.02 / (384.0f64 * 128.0).sqrt(), "{mean}");
        assert!((std / 0.02 - 1.0).abs() < 0.02, "{std}");
        assert!((kurtosis - 3.0).abs() < 0.12, "{kurtosis}");
    }

    #[test]
    fn xavier_has_its_moments() {
        let want = (2.0f64 / 512.0).sqrt();
        let [_, std, kurtosis] = moments(&filled(InitMethod::XavierUniform, false, 1, 0));
        assert!((std / want - 1.0).abs() < 0.02 && (kurtosis - 1.8).abs() < 0.05, "{std} {kurtosis}");
        let [_, std, kurtosis] = moments(&filled(InitMethod::XavierNormal, false, 1, 0));
        assert!((std / want - 1.0).abs() < 0.02 && (kurtosis - 3.0).abs() < 0.12, "{std} {kurtosis}");
    }

    #[test]
    fn outputs_have_their_own_method() {
        let [_, std, _] = moments(&filled(InitMethod::Normal { std: 0.02 }, true, 1, 0));
        assert!((std / 0.001 - 1.0).abs() < 0.02, "{std}");
    }

    #[test]
    fn addressed_by_seed_tensor_and_element() {
        let base = filled(InitMethod::Normal { std: 0.02 }, false, 1, 0);
        assert_eq!(base, filled(InitMethod::Normal { std: 0.02 }, false, 1, 0));
        assert_ne!(base, filled(InitMethod::Normal { std: 0.02 }, false, 2, 0));
        assert_ne!(base, filled(InitMethod::Normal { std: 0.02 }, false, 1, 1));
        let neighbours: f64 = base.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / base.len() as f64;
        assert!(neighbours.abs() < 4.0 * 0.0004 / (base.len() as f64).sqrt(), "{neighbours}");
    }
}
