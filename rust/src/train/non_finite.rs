//! Naming what is NaN or infinite.

use super::compute::{Arena, Compute};
use crate::error::Result;
use crate::model::{Decoder, Param};

/// The first weight that is not finite. No later step can mend it.
pub(super) fn in_weights(decoder: &Decoder, compute: &dyn Compute) -> Result<Option<String>> {
    let Some((place, value)) = compute.first_non_finite(Arena::Weights, 0..decoder.num_params())? else {
        return Ok(None);
    };
    let param = decoder.params().iter().find(|param| param.range().contains(&place));
    Ok(param.map(|param| format!("weight `{}` holds {value} at element {}", param.name, place - param.offset)))
}

/// Where in the backward pass it began: of the parameters whose gradient is not finite, the one
/// nearest to the loss, for all before it inherit the fault.
pub(super) fn in_gradients(decoder: &Decoder, compute: &dyn Compute) -> Result<Option<String>> {
    let fault = |param: &Param| compute.first_non_finite(Arena::Gradients, param.range());
    let (mut nearest, mut count) = (None, 0);
    for param in decoder.params() {
        if let Some(found) = fault(param)? {
            (nearest, count) = (Some((&param.name, found)), count + 1);
        }
    }
    let others = match count {
        0 | 1 => String::new(),
        n => format!(" (and of {} tensors before it)", n - 1),
    };
    let told = |(name, (place, value))| format!("the gradient of `{name}` holds {value} at element {place}{others}");
    Ok(nearest.map(told))
}
