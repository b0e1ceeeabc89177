//! Attention, softmax(q·kᵀ·scale)·v over the keys that a mask leaves, with grouped key/value heads (Ainslie et al.
//! 2023, arXiv 2305.13245). Queries, keys and values stand in one tensor, or each in its own, read where they are.

pub use crate::cpu::attention::{Document, Grid, Heads, Mask, Operand, Place};

use crate::cpu::attention as cpu;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut};

/// Where queries, keys and values stand in the rows of one tensor, how many tokens there are, and what they see.
#[derive(Debug, Clone, Copy)]
pub struct Qkv<'a> {
    pub q: Heads,
    pub k: Heads,
    pub v: Heads,
    /// Elements from one token to the next.
    pub row: usize,
    pub batch: usize,
    pub time: usize,
    pub scale: f32,
    pub mask: Mask<'a>,
}

fn unsupported<T>(what: String) -> Result<T> {
    Err(Error::UnsupportedInput(what))
}

fn check_scale(op: &'static str, scale: f32) -> Result<()> {
    if scale > 0.0 && scale.is_finite() {
        return Ok(());
    }
    unsupported(format!("{op}: `scale` must be positive and finite, got {scale}"))
}

impl Qkv<'_> {
    fn check(&self, op: &'static str, len: usize) -> Result<()> {
        super::expect_len(op, "qkv", self.batch * self.time * self.row, len)
    }

    fn no_fit<T>(&self, op: &'static str) -> Result<T> {
        unsupported(format!(
            "{op}: heads do not fit: {} query, {} key, {} value heads, rows of {} elements; key heads must divide query heads",
            self.q.count, self.k.count, self.v.count, self.row
        ))
    }

    /// Whether heads stand in the rows, and apart.
    fn inside(&self) -> bool {
        let all = [self.q, self.k, self.v];
        crate::cpu::heads::disjoint(all) && all.iter().all(|heads| heads.end() <= self.row)
    }

    fn operands<'d, T: Element>(&self, op: &'static str, qkv: &'d [T]) -> Result<[Operand<'d, T>; 3]> {
        self.check(op, qkv.len())?;
        let (all, inside) = ([self.q, self.k, self.v], self.inside());
        match all.map(|heads| Operand::fused(qkv, heads, self.row, self.batch, self.time)) {
            [Some(q), Some(k), Some(v)] if inside => Ok([q, k, v]),
            _ => self.no_fit(op),
        }
    }

    fn outputs(&self) -> [usize; 3] {
        [self.batch, self.time, self.q.count * self.q.dim]
    }

    fn rows(&self) -> Grid {
        Grid::rows(self.batch, self.time, self.q.count, self.q.dim)
    }
}

/// out (B, T, A·d); lse (B, A, T) is kept for the backward pass.
///
/// # Errors
/// `Shape`; `UnsupportedInput` when the heads do not fit each other.
pub fn forward<T: Element>(mut out: ViewMut<T>, lse: &mut [f32], qkv: &[T], s: &Qkv) -> Result<()> {
    let [q, k, v] = s.operands("attention", qkv)?;
    out.expect("attention", "out", &s.outputs())?;
    let Some(out) = Place::new(out.data(), s.rows()) else { return s.no_fit("attention") };
    forward_apart(&out, lse, q, k, v, s.scale, s.mask)
}

/// Overwrites the places of q, k and v in dqkv.
///
/// # Errors
/// As `forward`.
pub fn backward<T: Element>(
    dqkv: &mut [T],
    dout: View<T>,
    out: View<T>,
    lse: &[f32],
    qkv: &[T],
    s: &Qkv,
) -> Result<()> {
    let op = "attention.backward";
    let [q, k, v] = s.operands(op, qkv)?;
    super::expect_len(op, "dqkv", qkv.len(), dqkv.len())?;
    dout.expect(op, "dout", &s.outputs())?;
    out.expect(op, "out", &s.outputs())?;
    let (dout, out) = (Operand::new(dout.data(), s.rows()), Operand::new(out.data(), s.rows()));
    match (Place::fused(dqkv, [s.q, s.k, s.v], s.row, s.batch, s.time), dout, out) {
        (Some(places), Some(dout), Some(out)) => backward_apart(&places, dout, out, lse, q, k, v, s.scale, s.mask),
        _ => s.no_fit(op),
    }
}

/// (B, T, A, d)
fn extents(grid: &Grid) -> [usize; 4] {
    [grid.batch, grid.time, grid.count, grid.dim]
}

fn check(
    op: &'static str,
    [q, k, v]: [&Grid; 3],
    like: &[(&'static str, &Grid, &Grid)],
    lse: usize,
    scale: f32,
    mask: &Mask,
) -> Result<()> {
    let (grid, kv) = (*q, k.count);
    super::expect_some(op, "heads", &[grid.count, kv, grid.dim])?;
    check_scale(op, scale)?;
    if !grid.count.is_multiple_of(kv) {
        return unsupported(format!("{op}: {kv} key heads must divide {} query heads", grid.count));
    }
    let keys = Grid { count: kv, ..grid };
    for (arg, got, want) in [("key", k, &keys), ("value", v, &keys)].iter().chain(like) {
        if extents(got) != extents(want) {
            let (want, got) = (extents(want).to_vec(), extents(got).to_vec());
            return Err(Error::Shape { op, arg, want, got });
        }
    }
    super::expect_len(op, "lse", grid.batch * grid.count * grid.time, lse)?;
    check_documents(op, mask, grid.batch, grid.time)
}

fn check_documents(op: &'static str, mask: &Mask, batch: usize, time: usize) -> Result<()> {
    let Some(documents) = mask.documents else { return Ok(()) };
    super::expect_len(op, "documents", batch * time, documents.len())?;
    let holds = |(i, (begin, end)): (usize, &Document)| (*begin..*end).contains(&(i % time)) && *end <= time;
    let goes_on = |pair: &[Document]| pair[0] == pair[1] || pair[0].1 == pair[1].0;
    let whole = documents.iter().enumerate().all(holds);
    if whole && documents.chunks(time.max(1)).all(|sequence| sequence.windows(2).all(goes_on)) {
        return Ok(());
    }
    unsupported(format!("{op}: `documents` must be ranges that follow one another and hold each token"))
}

/// out like q, lse (B, A, T); q, k and v stand anywhere.
///
/// # Errors
/// As `forward`.
pub fn forward_apart<T: Element>(
    out: &Place<T>,
    lse: &mut [f32],
    q: Operand<T>,
    k: Operand<T>,
    v: Operand<T>,
    scale: f32,
    mask: Mask,
) -> Result<()> {
    check("attention", [q.grid(), k.grid(), v.grid()], &[("out", out.grid(), q.grid())], lse.len(), scale, &mask)?;
    if !q.grid().is_empty() {
        cpu::forward(out, lse, q, k, v, scale, mask);
    }
    Ok(())
}

/// Overwrites (dq, dk, dv), which stand anywhere.
///
/// # Errors
/// As `forward`.
pub fn backward_apart<T: Element>(
    [dq, dk, dv]: &[Place<T>; 3],
    dout: Operand<T>,
    out: Operand<T>,
    lse: &[f32],
    q: Operand<T>,
    k: Operand<T>,
    v: Operand<T>,
    scale: f32,
    mask: Mask,
) -> Result<()> {
    let like = [
        ("dout", dout.grid(), q.grid()),
        ("out", out.grid(), q.grid()),
        ("dq", dq.grid(), q.grid()),
        ("dk", dk.grid(), k.grid()),
        ("dv", dv.grid(), v.grid()),
    ];
    check("attention.backward", [q.grid(), k.grid(), v.grid()], &like, lse.len(), scale, &mask)?;
    if !q.grid().is_empty() {
        cpu::backward(dq, dk, dv, dout, out, lse, q, k, v, scale, mask);
    }
    Ok(())
}

/// The document of each token, from an id of each token (B, T): a document is a run of one id.
///
/// # Errors
/// `UnsupportedInput` when ids go back: one that comes again would be two documents.
pub fn documents_of_ids(ids: &[i64], batch: usize, time: usize) -> Result<Vec<Document>> {
    super::expect_len("attention", "document_ids", batch * time, ids.len())?;
    let mut documents = Vec::with_capacity(ids.len());
    for (b, ids) in ids.chunks(time.max(1)).enumerate() {
        if let Some(t) = ids.windows(2).position(|pair| pair[1] < pair[0]) {
            return unsupported(format!(
                "attention: `document_ids` must not decrease, but {} follows {} at token {} of sequence {b}",
                ids[t + 1],
                ids[t],
                t + 1
            ));
        }
        let mut begin = 0;
        for run in ids.chunk_by(|a, b| a == b) {
            let end = begin + run.len();
            documents.resize(documents.len() + run.len(), (begin, end));
            begin = end;
        }
    }
    Ok(documents)
}

/// The document of each of `tokens` tokens, from the cumulative lengths 0, l₀, l₀ + l₁, .., `tokens`.
///
/// # Errors
/// `UnsupportedInput` when they are not.
pub fn documents_of_lengths(cumulative: &[i64], tokens: usize) -> Result<Vec<Document>> {
    let whole = cumulative.first() == Some(&0) && cumulative.last().is_some_and(|n| usize::try_from(*n) == Ok(tokens));
    if !whole || cumulative.windows(2).any(|pair| pair[1] < pair[0]) {
        return unsupported(format!(
            "attention: `cu_seq_q` must rise from 0 to the number of tokens, {tokens}; it is {cumulative:?}"
        ));
    }
    let mut documents = Vec::with_capacity(tokens);
    for pair in cumulative.windows(2) {
        let (begin, end) = (pair[0] as usize, pair[1] as usize);
        documents.resize(end, (begin, end));
    }
    Ok(documents)
}

/// One query token (A, d) against a cache of `length` keys and values (length, Kv, d); out (A, d).
///
/// # Errors
/// `Shape`; `UnsupportedInput` when the key heads do not divide the query heads.
pub fn decode<T: Element>(
    out: &mut [T],
    q: &[T],
    keys: &[T],
    values: &[T],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    length: usize,
    scale: f32,
) -> Result<()> {
    super::expect_some("attention.decode", "keys", &[length, kv_heads, head_dim])?;
    super::expect_some("attention.decode", "q", &[heads])?;
    check_scale("attention.decode", scale)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(Error::UnsupportedInput(format!(
            "attention.decode: {kv_heads} heads in `keys` do not divide {heads} heads in `q`"
        )));
    }
    super::expect_len("attention.decode", "q", heads * head_dim, q.len())?;
    super::expect_len("attention.decode", "out", heads * head_dim, out.len())?;
    super::expect_len("attention.decode", "keys", length * kv_heads * head_dim, keys.len())?;
    super::expect_len("attention.decode", "values", length * kv_heads * head_dim, values.len())?;
    cpu::decode(out, q, keys, values, heads, kv_heads, head_dim, length, scale);
    Ok(())
}

/// The same on a GPU, for heads of at most 256 elements.
#[cfg(feature = "cuda")]
pub mod cuda {
    use std::sync::Arc;

    use super::super::{expect_len, expect_some};
    use super::{Document, Grid, Heads, Qkv, check, check_documents, check_scale, unsupported};
    use crate::cuda::{Buffer, Stream, View, ViewMut, attention as device};
    use crate::dtype::Element;
    use crate::error::Result;
    use crate::ops::attention::Mask;

    /// The document of each token, on the device: made once for all layers.
    pub struct Spans(Buffer<i32>);

    impl Spans {
        /// # Errors
        /// `UnsupportedInput` when they are no documents; `Device`.
        pub fn new(on: &Arc<Stream>, documents: &[Document], batch: usize, time: usize) -> Result<Self> {
            let op = "attention";
            check_documents(op, &Mask { documents: Some(documents), ..Mask::NONE }, batch, time)?;
            if i32::try_from(documents.len()).is_err() {
                return unsupported(format!("{op}: {} tokens are too many for documents on a GPU", documents.len()));
            }
            let (mut ends, mut spans) = (Vec::new(), on.alloc::<i32>(2 * documents.len())?);
            for (b, documents) in documents.chunks(time.max(1)).enumerate() {
                ends.extend(documents.chunk_by(|a, b| a == b).map(|run| (b * time + run[0].1) as i32));
            }
            let ends_there = on.upload(&ends)?;
            let dims = [documents.len(), 2];
            device::spans(on, spans.view_mut(&dims)?, ends_there.view(&[ends.len()])?, time)?;
            Ok(Self(spans))
        }
    }

    fn heads(grid: Grid) -> device::Heads {
        let [sequence, token, head] = [grid.sequence, grid.token, grid.head].map(|stride| stride as u64);
        device::Heads { sequence, token, head }
    }

    impl Qkv<'_> {
        /// What the kernels are asked; `qkv` and `lse` are the elements that there are.
        fn problem(&self, op: &'static str, qkv: usize, lse: usize, spans: Option<&Spans>) -> Result<device::Problem> {
            self.check(op, qkv)?;
            let [q, k, v] = [self.q, self.k, self.v].map(|heads| Grid::fused(heads, self.row, self.batch, self.time));
            if !self.inside() {
                return self.no_fit(op);
            }
            check(op, [&q, &k, &v], &[], lse, self.scale, &self.mask)?;
            if let Some(spans) = spans {
                expect_len(op, "spans", 2 * self.batch * self.time, spans.0.len())?;
            }
            let reach = |tokens: Option<usize>| tokens.map_or(-1, |tokens| tokens.min(self.time) as i32);
            let (Ok(time), Ok(count), Ok(d)) =
                (i32::try_from(self.time), u32::try_from(self.q.count), u32::try_from(self.q.dim))
            else {
                return unsupported(format!("{op}: {} tokens or heads of {q:?} are too many for a GPU", self.time));
            };
            let (out, [q, k, v]) = (heads(self.rows()), [q, k, v].map(heads));
            Ok(device::Problem {
                q,
                k,
                v,
                out,
                dout: out,
                dq: q,
                dk: k,
                dv: v,
                heads: count,
                kv_heads: self.k.count as u32,
                d,
                time,
                left: reach(self.mask.left),
                right: reach(self.mask.right),
                scale: self.scale,
                end: 0,
            })
        }

        fn parts<'a, T: Element>(&self, qkv: View<'a, T>) -> [View<'a, T>; 3] {
            [self.q, self.k, self.v].map(|heads| qkv.after(heads.offset))
        }

        fn is_empty(&self) -> bool {
            self.batch == 0 || self.time == 0
        }
    }

    /// What hides documents: `spans`, or what the mask has, brought to the device for this call.
    fn spans_of(on: &Arc<Stream>, s: &Qkv) -> Result<Option<Spans>> {
        s.mask.documents.map(|documents| Spans::new(on, documents, s.batch, s.time)).transpose()
    }

    fn view(spans: Option<&Spans>) -> Result<Option<View<'_, i32>>> {
        spans.map(|spans| spans.0.view(&[spans.0.len() / 2, 2])).transpose()
    }

    /// out (B, T, A·d); lse (B, A, T) is kept for the backward pass. `spans` instead of the documents of the mask
    /// spares the way to the device.
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` when the heads do not fit each other; `Device`.
    pub fn forward<T: Element>(
        on: &Arc<Stream>,
        out: ViewMut<T>,
        lse: ViewMut<f32>,
        qkv: View<T>,
        s: &Qkv,
        spans: Option<&Spans>,
    ) -> Result<()> {
        let p = s.problem("attention", qkv.shape().count(), lse.shape().count(), spans)?;
        out.shape().expect("attention", "out", &s.outputs())?;
        if s.is_empty() {
            return Ok(());
        }
        let made = if spans.is_none() { spans_of(on, s)? } else { None };
        device::forward(on, s.batch, out, lse, s.parts(qkv), view(spans.or(made.as_ref()))?, p)
    }

    /// Overwrites the places of q, k and v in dqkv.
    ///
    /// # Errors
    /// As `forward`.
    pub fn backward<T: Element>(
        on: &Arc<Stream>,
        dqkv: ViewMut<T>,
        dout: View<T>,
        out: View<T>,
        lse: View<f32>,
        qkv: View<T>,
        s: &Qkv,
        spans: Option<&Spans>,
    ) -> Result<()> {
        let op = "attention.backward";
        let p = s.problem(op, qkv.shape().count(), lse.shape().count(), spans)?;
        dqkv.shape().expect(op, "dqkv", qkv.shape().dims())?;
        dout.shape().expect(op, "dout", &s.outputs())?;
        out.shape().expect(op, "out", &s.outputs())?;
        if s.is_empty() {
            return Ok(());
        }
        let made = if spans.is_none() { spans_of(on, s)? } else { None };
        let spans = view(spans.or(made.as_ref()))?;
        device::backward(on, s.batch, s.parts(dqkv.read()), dout, out, lse, s.parts(qkv), spans, p)
    }

    /// How many cached tokens each sequence has, on the device.
    pub struct Lengths {
        lengths: Buffer<i32>,
        longest: usize,
    }

    impl Lengths {
        /// # Errors
        /// `UnsupportedInput` naming a sequence of no token; `Device`.
        pub fn new(on: &Arc<Stream>, lengths: &[usize]) -> Result<Self> {
            let longest = lengths.iter().copied().max().unwrap_or(0);
            if let Some(b) = lengths.iter().position(|length| *length == 0 || i32::try_from(*length).is_err()) {
                let what = format!("sequence {b} has {} cached tokens", lengths[b]);
                return unsupported(format!("attention.decode: {what}; at least 1 is needed, and less than 2^31"));
            }
            let lengths: Vec<i32> = lengths.iter().map(|length| *length as i32).collect();
            Ok(Self { lengths: on.upload(&lengths)?, longest })
        }
    }

    /// Keys of a piece: where pieces begin does not depend on how long a sequence is.
    const PIECE: usize = 256;

    /// out (B, A·d) of one query a sequence, the heads `q` of its row of `queries` (B, row), against the first tokens
    /// of keys and values (B, capacity, Kv·d).
    ///
    /// # Errors
    /// `Shape`; `UnsupportedInput` when the heads do not fit each other; `Device`.
    pub fn decode<T: Element>(
        on: &Arc<Stream>,
        out: ViewMut<T>,
        queries: View<T>,
        q: Heads,
        keys: View<T>,
        values: View<T>,
        lengths: &Lengths,
        left: Option<usize>,
        scale: f32,
    ) -> Result<()> {
        let op = "attention.decode";
        let (batch, row, width) = (lengths.lengths.len(), queries.shape().last(), keys.shape().last());
        let capacity = keys.shape().rows().checked_div(batch).unwrap_or(0);
        expect_some(op, "q", &[q.count, q.dim])?;
        expect_some(op, "keys", &[capacity, width])?;
        check_scale(op, scale)?;
        queries.shape().expect(op, "q", &[batch, row])?;
        keys.shape().expect(op, "keys", &[batch, capacity, width])?;
        values.shape().expect(op, "values", &[batch, capacity, width])?;
        out.shape().expect(op, "out", &[batch, q.count * q.dim])?;
        let kv_heads = width / q.dim;
        if !width.is_multiple_of(q.dim)
            || !q.count.is_multiple_of(kv_heads)
            || q.end() > row
            || lengths.longest > capacity
        {
            return unsupported(format!(
                "{op}: {} heads of {} in rows of {row} and keys of {width} do not fit, or {} tokens a cache of {capacity}",
                q.count, q.dim, lengths.longest
            ));
        }
        let kv = heads(Grid::rows(batch, capacity, kv_heads, q.dim));
        let p = device::Decode {
            q: device::Heads { sequence: row as u64, token: row as u64, head: q.stride as u64 },
            k: kv,
            v: kv,
            heads: q.count as u32,
            kv_heads: kv_heads as u32,
            d: q.dim as u32,
            left: left.map_or(-1, |left| left.min(lengths.longest) as i32),
            piece: PIECE as u32,
            pieces: lengths.longest.div_ceil(PIECE) as u32,
            scale,
            end: 0,
        };
        device::decode(on, out, [queries.after(q.offset), keys, values], lengths.lengths.view(&[batch])?, p)
    }
}
