//! Naming what is NaN or infinite.

use crate::model::{Decoder, Param};
use crate::ops::grad_norm::first_non_finite;

/// The first weight that is not finite. No later step can mend it.
pub(super) fn in_weights(decoder: &Decoder, weights: &[f32]) -> Option<String> {
    let place = first_non_finite(weights)?;
    let param = decoder.params().iter().find(|param| param.range().contains(&place))?;
    Some(format!("weight `{}` holds {} at element {}", param.name, weights[place], place - param.offset))
}

/// Where in the backward pass it began: of the parameters whose gradient is not finite, the one
/// nearest to the loss, for all before it inherit the fault.
pub(super) fn in_gradients(decoder: &Decoder, grads: &[f32]) -> Option<String> {
    let faulty = |param: &&Param| first_non_finite(&grads[param.range()]).is_some();
    let all: Vec<&Param> = decoder.params().iter().filter(faulty).collect();
    let nearest = all.last()?;
    let place = first_non_finite(&grads[nearest.range()])?;
    let value = grads[nearest.offset + place];
    let others = match all.len() - 1 {
        0 => String::new(),
        n => format!(" (and of {n} tensors before it)"),
    };
    Some(format!("the gradient of `{}` holds {value} at element {place}{others}", nearest.name))
}
