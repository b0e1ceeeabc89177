//! Attention, softmax(q·kᵀ·scale)·v, causal or over all keys, in blocks of query rows and keys.
//!
//! The (T, T) matrix never exists: a thread holds `ROWS` × `KEYS` scores at a time. The forward pass corrects its sums
//! when a later block of keys brings a larger score (online softmax); the backward pass makes the probabilities again
//! from the log-sum-exp. Tiles that the causal mask hides are skipped.
//!
//! Keys, values and what else is read by columns is packed once a head, see `micro`; everything is f32 inside.

mod backward;
mod decode;
mod forward;

pub use backward::backward;
pub use decode::decode;
pub use forward::forward;

use super::isa::Simd;
use super::matmul::Mat;
use super::micro::{MR, NR, Tile, pack, scale_add, tile_rows};
use crate::dtype::Element;

pub mod reference {
    /// One head: q, k, v are (T, d); returns (T, d).
    pub fn forward(q: &[f64], k: &[f64], v: &[f64], d: usize, scale: f64, causal: bool) -> Vec<f64> {
        let (mut out, time) = (vec![0.0; q.len()], q.len() / d);
        for t in 0..time {
            let seen = if causal { t + 1 } else { time };
            let score = |s: usize| (0..d).map(|i| q[t * d + i] * k[s * d + i]).sum::<f64>() * scale;
            let top = (0..seen).map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = (0..seen).map(|s| (score(s) - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (s, weight) in weights.iter().enumerate() {
                (0..d).for_each(|i| out[t * d + i] += weight / total * v[s * d + i]);
            }
        }
        out
    }

    /// (dq, dk, dv) of one head; dout is (T, d).
    pub fn backward(
        dout: &[f64],
        q: &[f64],
        k: &[f64],
        v: &[f64],
        d: usize,
        scale: f64,
        causal: bool,
    ) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let dot = |a: &[f64], t: usize, b: &[f64], s: usize| (0..d).map(|i| a[t * d + i] * b[s * d + i]).sum::<f64>();
        for t in 0..q.len() / d {
            let seen = if causal { t + 1 } else { q.len() / d };
            let scores: Vec<f64> = (0..seen).map(|s| dot(q, t, k, s) * scale).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|score| (score - top).exp() / total).collect();
            let mean: f64 = (0..seen).map(|s| p[s] * dot(dout, t, v, s)).sum();
            for s in 0..seen {
                let dscore = p[s] * (dot(dout, t, v, s) - mean) * scale;
                for i in 0..d {
                    dq[t * d + i] += dscore * k[s * d + i];
                    dk[s * d + i] += dscore * q[t * d + i];
                    dv[s * d + i] += p[s] * dout[t * d + i];
                }
            }
        }
        (dq, dk, dv)
    }
}

/// Heads inside a fused projection: head a of token t begins at t·row + offset + a·stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub offset: usize,
    pub stride: usize,
    pub count: usize,
    pub dim: usize,
}

impl Heads {
    /// One past the last element in a row.
    pub fn end(&self) -> usize {
        if self.count == 0 { 0 } else { self.offset + (self.count - 1) * self.stride + self.dim }
    }
}

/// Where queries, keys and values stand, and how many tokens there are.
#[derive(Debug, Clone, Copy)]
pub struct Qkv {
    pub q: Heads,
    pub k: Heads,
    pub v: Heads,
    /// Elements from one token to the next.
    pub row: usize,
    pub batch: usize,
    pub time: usize,
    pub scale: f32,
    /// Whether a query sees only the keys up to its own place.
    pub causal: bool,
}

impl Qkv {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.q.count / self.k.count
    }

    /// Whether no element belongs to two heads.
    pub fn disjoint(&self) -> bool {
        let starts = |h: Heads| (0..h.count).map(move |a| h.offset + a * h.stride);
        let mut ranges: Vec<_> =
            [self.q, self.k, self.v].into_iter().flat_map(|h| starts(h).map(move |at| (at, at + h.dim))).collect();
        ranges.sort_unstable();
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0)
    }
}

/// Query rows that one thread works on at a time, in tiles of `MR`.
const ROWS: usize = 16 * MR;
/// Keys of one block: whole tiles both ways.
const KEYS: usize = 5 * MR * NR / 2;

/// Head `a` of sequence `b` inside rows of `row`: (T, d).
fn head<T>(data: &[T], row: usize, heads: Heads, time: usize, b: usize, a: usize) -> Mat<'_, T> {
    Mat { data: &data[b * time * row + heads.offset + a * heads.stride..], rows: time, cols: heads.dim, row, col: 1 }
}

/// The numbers of `panels_of(x)`.
fn panels_len(rows: usize, inner: usize) -> usize {
    rows.next_multiple_of(NR) * inner
}

/// x (rows, inner) as panels of `NR` rows, to multiply with xᵀ from the left; times `factor`.
#[inline(always)]
fn panels_of<T: Element>(panels: &mut [f32], x: Mat<T>, factor: f32) {
    for (p, panel) in panels.chunks_exact_mut(NR * x.cols).enumerate() {
        pack::<T, NR>(panel, x, p * NR, 0);
    }
    if factor != 1.0 {
        for x in panels {
            *x *= factor;
        }
    }
}

/// out (n, d) = the rows `first..first + n` of x, times `factor`; further rows of `out` are 0.
#[inline(always)]
fn rows_of<T: Element>(out: &mut [f32], x: Mat<T>, first: usize, n: usize, factor: f32) {
    let (used, rest) = out.split_at_mut(n * x.cols);
    for (i, out) in used.chunks_exact_mut(x.cols).enumerate() {
        for (out, x) in out.iter_mut().zip(x.line(first + i)) {
            *out = x.to_f32() * factor;
        }
    }
    rest.fill(0.0);
}

/// A block of queries `first..first + rows` against keys `from..from + keys`.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
    from: usize,
    keys: usize,
    causal: bool,
}

impl Block {
    /// How many keys of the block row i sees.
    fn seen(&self, i: usize) -> usize {
        if !self.causal {
            return self.keys;
        }
        (self.first + i + 1).saturating_sub(self.from).min(self.keys)
    }

    /// How many keys the tile of rows that begins at i sees.
    fn seen_by_tile(&self, i: usize) -> usize {
        self.seen(self.rows.min(i + MR) - 1)
    }

    /// The first row that sees key k of the block.
    fn seen_from(&self, k: usize) -> usize {
        if self.causal { (self.from + k).saturating_sub(self.first) } else { 0 }
    }

    /// The blocks of keys for the queries `first..first + rows` of `time`.
    fn all(first: usize, rows: usize, time: usize, causal: bool) -> impl Iterator<Item = Self> {
        let end = if causal { first + rows } else { time };
        (0..end).step_by(KEYS).map(move |from| Self { first, rows, from, keys: KEYS.min(end - from), causal })
    }
}

/// out (ROWS, KEYS) = a (ROWS, d) · bᵀ for the tiles of the block that the mask leaves; b in panels over all keys.
#[inline(always)]
fn scores<S: Simd>(s: S, out: &mut [f32], a: &[f32], b: &[f32], block: Block, d: usize) {
    let panels = b[block.from * d..].chunks_exact(NR * d).take(block.keys.div_ceil(NR));
    for (p, panel) in panels.enumerate() {
        let start = block.seen_from(p * NR) / MR * MR;
        for i in (start..block.rows).step_by(MR) {
            let sums: Tile<S, MR> = tile_rows(s, rows_at(a, d, i, 0, d), panel);
            for (r, sums) in sums.into_iter().enumerate() {
                s.store(piece(out, (i + r) * KEYS + p * NR), sums);
            }
        }
    }
}

/// `NR` elements from `at` on.
#[inline(always)]
fn piece(data: &mut [f32], at: usize) -> &mut [f32; NR] {
    data[at..].first_chunk_mut().expect("a row of a tile")
}

/// Columns `from..from + n` of the rows i..i + MR of a (_, stride).
#[inline(always)]
fn rows_at(a: &[f32], stride: usize, i: usize, from: usize, n: usize) -> [&[f32]; MR] {
    std::array::from_fn(|r| &a[(i + r) * stride + from..][..n])
}

/// to (ROWS, width) = factors·to + p (ROWS, KEYS) · b, with only the keys that the mask leaves; b (width, `depth`) in
/// panels.
#[inline(always)]
fn by_keys<S: Simd>(s: S, to: &mut [f32], factors: &[f32; ROWS], p: &[f32], b: &[f32], block: Block, depth: usize) {
    let width = to.len() / ROWS;
    for i in (0..block.rows).step_by(MR) {
        let seen = block.seen_by_tile(i);
        let rows = rows_at(p, KEYS, i, 0, seen);
        for (column, panel) in b.chunks_exact(NR * depth).enumerate() {
            let sums: Tile<S, MR> = tile_rows(s, rows, &panel[block.from * NR..][..seen * NR]);
            for (r, sums) in sums.into_iter().enumerate() {
                scale_add(s, piece(to, (i + r) * width + column * NR), factors[i + r], sums);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        assert_close, check_gradient, dot, each_dtype, place, random, same_on_all_threads, sample,
    };
    use super::*;

    /// Head a of sequence b, (T, d), out of rows.
    fn head(rows: &[f64], s: &Qkv, row: usize, heads: Heads, b: usize, a: usize) -> Vec<f64> {
        let start = |t| (b * s.time + t) * row + heads.offset + a * heads.stride;
        (0..s.time).flat_map(|t| &rows[start(t)..][..heads.dim]).copied().collect()
    }

    fn put_back(rows: &mut [f64], from: &[f64], s: &Qkv, row: usize, heads: Heads, b: usize, a: usize) {
        for (t, from) in from.chunks(heads.dim).enumerate() {
            let at = (b * s.time + t) * row + heads.offset + a * heads.stride;
            rows[at..][..heads.dim].iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }

    /// Query heads in groups of `group` on 2 key/value heads; `interleaved` is NeoX's q|k|v for each head.
    fn case(d: usize, time: usize, batch: usize, group: usize, interleaved: bool) -> Qkv {
        let heads = |offset, count, stride| Heads { offset, stride, count, dim: d };
        let (n, all) = (2 * group, (2 * group + 4) * d);
        let (q, k, v, row) = if interleaved {
            (heads(0, 2, 3 * d), heads(d, 2, 3 * d), heads(2 * d, 2, 3 * d), 6 * d)
        } else {
            (heads(0, n, d), heads(n * d, 2, d), heads((n + 2) * d, 2, d), all + 3)
        };
        Qkv { q, k, v, row, batch, time, scale: 1.0 / (d as f32).sqrt(), causal: true }
    }

    fn run<T: Element>(s: &Qkv, qkv: &[T], dout: &[T]) -> (Vec<T>, Vec<T>) {
        let (mut out, mut lse) = (place::<T>(dout.len()), place::<f32>(s.batch * s.q.count * s.time));
        forward(&mut out, &mut lse, qkv, s);
        let mut dqkv = vec![T::default(); qkv.len()];
        backward(&mut dqkv, dout, &out, &lse, qkv, s);
        (out, dqkv)
    }

    fn check<T: Element>(s: Qkv) {
        let (d, batch, time, scale, n) = (s.q.dim, s.batch, s.time, f64::from(s.scale), s.q.count);
        let (places, width) = (Heads { offset: 0, stride: d, count: n, dim: d }, n * d);
        let ((qkv, exact_qkv), (dout, exact_dout)) =
            (sample::<T>(1, batch * time * s.row), sample::<T>(2, batch * time * width));
        let (out, dqkv) = run(&s, &qkv, &dout);
        let (mut exact, mut exact_d) = (vec![0.0; out.len()], vec![0.0; qkv.len()]);
        for (b, a) in (0..batch).flat_map(|b| (0..n).map(move |a| (b, a))) {
            let part = |heads, a| head(&exact_qkv, &s, s.row, heads, b, a);
            let h = a / s.group();
            let (hq, hk, hv) = (part(s.q, a), part(s.k, h), part(s.v, h));
            put_back(&mut exact, &reference::forward(&hq, &hk, &hv, d, scale, s.causal), &s, width, places, b, a);
            let dout = head(&exact_dout, &s, width, places, b, a);
            let (dq, dk, dv) = reference::backward(&dout, &hq, &hk, &hv, d, scale, s.causal);
            put_back(&mut exact_d, &dq, &s, s.row, s.q, b, a);
            put_back(&mut exact_d, &dk, &s, s.row, s.k, b, h);
            put_back(&mut exact_d, &dv, &s, s.row, s.v, b, h);
        }
        assert_close("out", &out, &exact, 16.0);
        // The backward pass reads `out` as stored: its rounding to T comes in through the row sums.
        let stored = match T::DTYPE {
            crate::dtype::DType::F32 => 0.0,
            crate::dtype::DType::F16 => f64::from(1 << 13),
            crate::dtype::DType::BF16 => f64::from(1 << 16),
        };
        assert_close("dqkv", &dqkv, &exact_d, 32.0 + stored);
    }

    fn follows_the_reference<T: Element>() {
        let cases = [(5, ROWS + 3, 2, 2, false), (16, 1, 1, 1, true), (80, 5, 1, 1, true), (96, 16, 1, 4, false)];
        for (d, time, batch, group, layout) in cases {
            check::<T>(case(d, time, batch, group, layout));
            check::<T>(Qkv { causal: false, ..case(d, time, batch, group, layout) });
        }
    }

    #[test]
    fn fast_equals_reference() {
        each_dtype!(follows_the_reference);
    }

    #[test]
    fn more_keys_than_a_block() {
        for isa in crate::cpu::isa::all() {
            crate::cpu::isa::with(isa, || {
                check::<f32>(case(64, KEYS + ROWS + 1, 1, 2, false));
                check::<f32>(case(128, KEYS + 1, 1, 1, true));
                check::<f32>(Qkv { causal: false, ..case(16, KEYS + ROWS + 1, 1, 1, false) });
            });
        }
    }

    #[test]
    fn threads_change_nothing() {
        let s = case(16, 2 * ROWS + 1, 2, 3, false);
        let (qkv, dout) = (sample::<f32>(1, 2 * s.time * s.row).0, sample::<f32>(2, 2 * s.time * 6 * 16).0);
        same_on_all_threads("attention", || {
            let (mut out, dqkv) = run(&s, &qkv, &dout);
            out.extend(dqkv);
            out
        });
    }

    #[test]
    fn scores_far_apart() {
        // Without subtracting the maximum exp would overflow; with it, one key takes all.
        let s = Qkv { scale: 1.0, ..case(16, 9, 1, 1, true) };
        let qkv: Vec<f32> = sample::<f32>(1, 9 * s.row).0.iter().map(|x| x * 100.0).collect();
        let (out, dqkv) = run(&s, &qkv, &vec![1.0; 9 * 32]);
        assert!(out.iter().chain(&dqkv).all(|x| x.is_finite()));
    }

    #[test]
    #[should_panic(expected = "share elements")]
    fn overlapping_heads_are_refused() {
        let s = case(4, 2, 1, 1, true);
        let s = Qkv { k: Heads { offset: 3, ..s.k }, ..s };
        backward(&mut vec![0.0f32; 2 * s.row], &[0.0; 16], &[0.0; 16], &[0.0; 4], &vec![0.0; 2 * s.row], &s);
    }

    #[test]
    fn decode_equals_the_last_row() {
        let (d, length) = (5, 37);
        let ((q, exact_q), (k, exact_k)) = (sample::<f32>(1, d), sample::<f32>(2, length * d));
        let (v, exact_v) = sample::<f32>(3, length * d);
        let mut out = place::<f32>(d);
        decode(&mut out, &q, &k, &v, 1, 1, d, length, 0.5);
        let queries: Vec<f64> = exact_q.iter().copied().cycle().take(length * d).collect();
        let exact = reference::forward(&queries, &exact_k, &exact_v, d, 0.5, true);
        assert_close("out", &out, &exact[(length - 1) * d..], 16.0);
    }

    #[test]
    fn reference_gradients() {
        let (q, k, v, dout) = (random(1, 15), random(2, 15), random(3, 15), random(4, 15));
        for causal in [true, false] {
            let (dq, dk, dv) = reference::backward(&dout, &q, &k, &v, 3, 0.7, causal);
            check_gradient("dq", |q| dot(&dout, &reference::forward(q, &k, &v, 3, 0.7, causal)), &q, &dq);
            check_gradient("dk", |k| dot(&dout, &reference::forward(&q, k, &v, 3, 0.7, causal)), &k, &dk);
            check_gradient("dv", |v| dot(&dout, &reference::forward(&q, &k, v, 3, 0.7, causal)), &v, &dv);
        }
    }
}
