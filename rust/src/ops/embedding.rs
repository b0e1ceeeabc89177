//! y[i] = table[ids[i]].

use crate::cpu::embedding as cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::tensor::{View, ViewMut};

/// y (N, D), table (V, D), ids (N).
///
/// # Errors
/// `Shape`; `UnsupportedInput` naming the position of an id outside the table.
pub fn forward<T: Element>(mut y: ViewMut<T>, table: View<T>, ids: &[i32]) -> Result<()> {
    let d = table.shape().last();
    super::expect_some("embedding", "table", &[d])?;
    y.expect("embedding", "y", &[ids.len(), d])?;
    super::expect_ids("embedding", "ids", ids, table.shape().rows(), None)?;
    cpu::forward(y.data(), table.data(), ids, d);
    Ok(())
}

/// dtable (V, D) += the rows of dy (N, D), in the order of the tokens.
///
/// # Errors
/// As `forward`.
pub fn backward<T: Element>(mut dtable: ViewMut<f32>, dy: View<T>, ids: &[i32]) -> Result<()> {
    let d = dtable.shape().last();
    super::expect_some("embedding.backward", "dtable", &[d])?;
    dy.expect("embedding.backward", "dy", &[ids.len(), d])?;
    super::expect_ids("embedding.backward", "ids", ids, dtable.shape().rows(), None)?;
    cpu::backward(dtable.data(), dy.data(), ids, d);
    Ok(())
}

/// The same on a GPU.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::super::{expect_ids, expect_some};
    use crate::cuda::{Buffer, Stream, View, ViewMut, embedding as device};
    use crate::dtype::Element;
    use crate::error::{Error, Result};

    /// Ids on a device. Kernels take them as they are: they are checked on the way there.
    pub struct Ids {
        ids: Buffer<i32>,
        limit: usize,
        ignore: Option<i32>,
    }

    impl Ids {
        /// Ids inside of `0..limit`, or `ignore`.
        ///
        /// # Errors
        /// `UnsupportedInput` naming the position of one that is not; `Device`.
        pub fn new(on: &Arc<Stream>, op: &'static str, ids: &[i32], limit: usize, ignore: Option<i32>) -> Result<Self> {
            expect_ids(op, "ids", ids, limit, ignore)?;
            Ok(Self { ids: on.upload(ids)?, limit, ignore })
        }

        /// The ids for an op whose table or vocabulary has `rows`.
        pub(in crate::ops) fn within(
            &self,
            op: &'static str,
            rows: usize,
            ignore: Option<i32>,
        ) -> Result<View<'_, i32>> {
            if self.limit > rows || self.ignore.is_some() && self.ignore != ignore {
                return Err(Error::UnsupportedInput(format!(
                    "{op}: ids were checked against {} rows and {:?} to be ignored, not against {rows} and {ignore:?}",
                    self.limit, self.ignore
                )));
            }
            self.ids.view(&[self.ids.len()])
        }
    }

    /// y (N, D), table (V, D), ids (N).
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` for ids of a larger table; `Device`.
    pub fn forward<T: Element>(on: &Stream, y: ViewMut<T>, table: View<T>, ids: &Ids) -> Result<()> {
        let d = table.shape().last();
        expect_some("embedding", "table", &[d])?;
        let ids = ids.within("embedding", table.shape().rows(), None)?;
        y.shape().expect("embedding", "y", &[ids.shape().count(), d])?;
        device::forward(on, y, table, ids)
    }

    /// dtable (V, D) += the rows of dy (N, D), in the order of the tokens.
    ///
    /// # Errors
    /// As `forward`.
    pub fn backward<T: Element>(on: &Arc<Stream>, dtable: ViewMut<f32>, dy: View<T>, ids: &Ids) -> Result<()> {
        let d = dtable.shape().last();
        expect_some("embedding.backward", "dtable", &[d])?;
        let ids = ids.within("embedding.backward", dtable.shape().rows(), None)?;
        dy.shape().expect("embedding.backward", "dy", &[ids.shape().count(), d])?;
        device::backward(on, dtable, dy, ids)
    }
}
