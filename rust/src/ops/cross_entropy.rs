//! Cross-entropy of logits that exist; `linear_cross_entropy` does without them.

pub use crate::cpu::cross_entropy::{LossOptions, RowSum};

use crate::cpu::cross_entropy as cpu;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut};

/// torch's targets, int64, as the kernels take them. An ignored one becomes `IGNORED`.
///
/// # Errors
/// `UnsupportedInput` naming a target that is neither a class nor `ignore_index`.
pub fn targets_of(targets: &[i64], ignore_index: i64, classes: usize) -> Result<Vec<i32>> {
    let mut ids = Vec::with_capacity(targets.len());
    for (at, target) in targets.iter().enumerate() {
        let id = i32::try_from(*target).ok().filter(|id| usize::try_from(*id).is_ok_and(|id| id < classes));
        match id {
            _ if *target == ignore_index => ids.push(IGNORED),
            Some(id) => ids.push(id),
            None => {
                let what = format!("`target` holds class {target} at position {at}, outside 0..{classes}");
                return Err(Error::UnsupportedInput(format!(
                    "cross_entropy: {what}; ignored targets must equal ignore_index ({ignore_index})"
                )));
            }
        }
    }
    Ok(ids)
}

/// What `targets_of` writes for an ignored target: `LossOptions::ignore_index` of the same call.
pub const IGNORED: i32 = -1;

/// (Σ of the losses, how many targets are not ignored), what a mean is made of.
pub fn total(losses: &[f32], targets: &[i32], o: &LossOptions) -> (f64, usize) {
    (losses.iter().map(|loss| f64::from(*loss)).sum(), counted(targets, o))
}

/// How many targets are not ignored.
pub fn counted(targets: &[i32], o: &LossOptions) -> usize {
    targets.iter().filter(|target| **target != o.ignore_index).count()
}

fn check<T: Element>(
    op: &'static str,
    logits: View<T>,
    sums: &[RowSum],
    targets: &[i32],
    o: &LossOptions,
) -> Result<usize> {
    let v = logits.shape().last();
    super::expect_len(op, "sums", targets.len(), sums.len())?;
    logits.expect(op, "logits", &[targets.len(), v])?;
    super::expect_some(op, "logits", &[v])?;
    super::expect_ids(op, "targets", targets, v, Some(o.ignore_index))?;
    Ok(v)
}

/// losses (N) of logits (N, V) and targets (N), and the sums (N) of the rows for the backward pass; an ignored target
/// has loss 0.
///
/// # Errors
/// `Shape`; `UnsupportedInput` naming a target outside the vocabulary.
pub fn forward<T: Element>(
    losses: &mut [f32],
    sums: &mut [RowSum],
    logits: View<T>,
    targets: &[i32],
    options: &LossOptions,
) -> Result<()> {
    let v = check("cross_entropy", logits, sums, targets, options)?;
    super::expect_len("cross_entropy", "losses", targets.len(), losses.len())?;
    cpu::forward(losses, sums, logits.data(), targets, options, v);
    Ok(())
}

/// dlogits (N, V), from the sums of `forward`; `grad_scale` is d(total)/d(loss of a token).
///
/// # Errors
/// As `forward`.
pub fn backward<T: Element>(
    mut dlogits: ViewMut<T>,
    logits: View<T>,
    sums: &[RowSum],
    targets: &[i32],
    grad_scale: f32,
    options: &LossOptions,
) -> Result<()> {
    let v = check("cross_entropy.backward", logits, sums, targets, options)?;
    dlogits.expect("cross_entropy.backward", "dlogits", logits.shape().dims())?;
    cpu::backward(dlogits.data(), logits.data(), sums, targets, grad_scale, options, v);
    Ok(())
}

/// On a GPU: losses, gradient or both in one launch.
#[cfg(feature = "cuda")]
pub mod cuda {
    use super::super::embedding::cuda::Ids;
    use super::super::expect_some;
    use super::LossOptions;
    use crate::cuda::{Stream, View, ViewMut, cross_entropy as device};
    use crate::dtype::Element;
    use crate::error::Result;
    use crate::tensor::Shape;

    fn check<'a>(logits: Shape, losses: Option<Shape>, targets: &'a Ids, o: &LossOptions) -> Result<View<'a, i32>> {
        let v = logits.last();
        expect_some("cross_entropy", "logits", &[v])?;
        let targets = targets.within("cross_entropy", v, Some(o.ignore_index))?;
        let n = targets.shape().count();
        logits.expect("cross_entropy", "logits", &[n, v])?;
        losses.map_or(Ok(()), |losses| losses.expect("cross_entropy", "losses", &[n]))?;
        Ok(targets)
    }

    pub(in crate::ops) fn numbers(grad_scale: f32, o: &LossOptions) -> device::Numbers {
        let LossOptions { ignore_index, label_smoothing, z_loss } = *o;
        device::Numbers { grad_scale, ignore_index, label_smoothing, z_loss }
    }

    /// losses (N) and dlogits (N, V) of logits (N, V); `grad_scale` is d(total)/d(loss of a token).
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` for targets of a larger vocabulary; `Device`.
    pub fn forward_backward<T: Element>(
        on: &Stream,
        losses: Option<ViewMut<f32>>,
        dlogits: Option<ViewMut<T>>,
        logits: View<T>,
        targets: &Ids,
        grad_scale: f32,
        options: &LossOptions,
    ) -> Result<()> {
        let targets = check(logits.shape(), losses.as_ref().map(ViewMut::shape), targets, options)?;
        if let Some(d) = &dlogits {
            d.shape().expect("cross_entropy", "dlogits", logits.shape().dims())?;
        }
        device::run(on, losses, dlogits, logits, targets, numbers(grad_scale, options))
    }

    /// The same with dlogits in the place of the logits.
    ///
    /// # Errors
    /// As `forward_backward`.
    pub fn in_place<T: Element>(
        on: &Stream,
        losses: Option<ViewMut<f32>>,
        logits: ViewMut<T>,
        targets: &Ids,
        grad_scale: f32,
        options: &LossOptions,
    ) -> Result<()> {
        let targets = check(logits.shape(), losses.as_ref().map(ViewMut::shape), targets, options)?;
        device::in_place(on, losses, logits, targets, numbers(grad_scale, options))
    }
}
