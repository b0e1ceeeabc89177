use super::super::heads::Heads;
use super::super::testing::{
    assert_close, check_gradient, dot, each_dtype, place, random, same_on_all_threads, sample,
};
use super::*;

/// Where the operands stand in rows, and the mask of (B, T) tokens.
#[derive(Clone, Copy)]
struct Case<'a> {
    q: Heads,
    k: Heads,
    v: Heads,
    row: usize,
    batch: usize,
    time: usize,
    scale: f32,
    mask: Mask<'a>,
}

impl Case<'_> {
    fn group(&self) -> usize {
        self.q.count / self.k.count
    }

    /// The mask from its definition.
    fn sees(&self, b: usize, t: usize, s: usize) -> bool {
        let document = |t: usize| self.mask.documents.map(|all| all[b * self.time + t]);
        document(t) == document(s)
            && self.mask.left.is_none_or(|left| s + left >= t)
            && self.mask.right.is_none_or(|right| s <= t + right)
    }
}

/// Head a of sequence b, (T, d), out of rows.
fn head(rows: &[f64], s: &Case, row: usize, heads: Heads, b: usize, a: usize) -> Vec<f64> {
    let start = |t| (b * s.time + t) * row + heads.offset + a * heads.stride;
    (0..s.time).flat_map(|t| &rows[start(t)..][..heads.dim]).copied().collect()
}

fn put_back(rows: &mut [f64], from: &[f64], s: &Case, row: usize, heads: Heads, b: usize, a: usize) {
    for (t, from) in from.chunks(heads.dim).enumerate() {
        let at = (b * s.time + t) * row + heads.offset + a * heads.stride;
        rows[at..][..heads.dim].iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
}

/// Query heads in groups of `group` on 2 key/value heads; `interleaved` is NeoX's q|k|v for each head.
fn case(d: usize, time: usize, batch: usize, group: usize, interleaved: bool) -> Case<'static> {
    let heads = |offset, count, stride| Heads { offset, stride, count, dim: d };
    let (n, all) = (2 * group, (2 * group + 4) * d);
    let (q, k, v, row) = if interleaved {
        (heads(0, 2, 3 * d), heads(d, 2, 3 * d), heads(2 * d, 2, 3 * d), 6 * d)
    } else {
        (heads(0, n, d), heads(n * d, 2, d), heads((n + 2) * d, 2, d), all + 3)
    };
    Case { q, k, v, row, batch, time, scale: 1.0 / (d as f32).sqrt(), mask: Mask::CAUSAL }
}

fn run<T: Element>(s: &Case, qkv: &[T], dout: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut out, mut lse) = (place::<T>(dout.len()), place::<f32>(s.batch * s.q.count * s.time));
    let read = |heads| Operand::fused(qkv, heads, s.row, s.batch, s.time).expect("inside the rows");
    let (q, k, v, rows) = (read(s.q), read(s.k), read(s.v), Grid::rows(s.batch, s.time, s.q.count, s.q.dim));
    forward(&Place::new(&mut out, rows).expect("fits"), &mut lse, q, k, v, s.scale, s.mask);
    let mut dqkv = vec![T::default(); qkv.len()];
    let places = Place::fused(&mut dqkv, [s.q, s.k, s.v], s.row, s.batch, s.time);
    let [dq, dk, dv] = places.expect("heads apart");
    let (dout, result) = (Operand::new(dout, rows).expect("fits"), Operand::new(&out, rows).expect("fits"));
    backward(&dq, &dk, &dv, dout, result, &lse, q, k, v, s.scale, s.mask);
    (out, dqkv)
}

fn check<T: Element>(s: Case) {
    let (d, batch, time, scale, n) = (s.q.dim, s.batch, s.time, f64::from(s.scale), s.q.count);
    let (places, width) = (Heads { offset: 0, stride: d, count: n, dim: d }, n * d);
    let ((qkv, exact_qkv), (dout, exact_dout)) =
        (sample::<T>(1, batch * time * s.row), sample::<T>(2, batch * time * width));
    let (out, dqkv) = run(&s, &qkv, &dout);
    let (mut exact, mut exact_d) = (vec![0.0; out.len()], vec![0.0; qkv.len()]);
    for (b, a) in (0..batch).flat_map(|b| (0..n).map(move |a| (b, a))) {
        let part = |heads, a| head(&exact_qkv, &s, s.row, heads, b, a);
        let (h, sees) = (a / s.group(), |t: usize, key: usize| s.sees(b, t, key));
        let (hq, hk, hv) = (part(s.q, a), part(s.k, h), part(s.v, h));
        put_back(&mut exact, &reference::forward(&hq, &hk, &hv, d, scale, sees), &s, width, places, b, a);
        let dout = head(&exact_dout, &s, width, places, b, a);
        let (dq, dk, dv) = reference::backward(&dout, &hq, &hk, &hv, d, scale, sees);
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
        check::<T>(Case { mask: Mask::NONE, ..case(d, time, batch, group, layout) });
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
            check::<f32>(Case { mask: Mask::NONE, ..case(16, KEYS + ROWS + 1, 1, 1, false) });
        });
    }
}

#[test]
fn threads_change_nothing() {
    let s = case(16, 2 * ROWS + 1, 2, 3, false);
    let (qkv, dout) = (sample::<f32>(1, 2 * s.time * s.row).0, sample::<f32>(2, 2 * s.time * 6 * 16).0);
    let all = documents(&[50, 3], 2, s.time);
    for mask in [Mask::CAUSAL, Mask { left: Some(30), right: Some(2), documents: Some(&all) }] {
        same_on_all_threads("attention", || {
            let (mut out, dqkv) = run(&Case { mask, ..s }, &qkv, &dout);
            out.extend(dqkv);
            out
        });
    }
}

#[test]
fn scores_far_apart() {
    // Without subtracting the maximum exp would overflow; with it, one key takes all.
    let s = Case { scale: 1.0, ..case(16, 9, 1, 1, true) };
    let qkv: Vec<f32> = sample::<f32>(1, 9 * s.row).0.iter().map(|x| x * 100.0).collect();
    let (out, dqkv) = run(&s, &qkv, &vec![1.0; 9 * 32]);
    assert!(out.iter().chain(&dqkv).all(|x| x.is_finite()));
}

#[test]
fn overlapping_heads_are_refused() {
    let s = case(4, 2, 1, 1, true);
    let mut data = vec![0.0f32; 2 * s.row];
    assert!(Place::fused(&mut data, [s.q, s.k, s.v], s.row, 1, 2).is_some());
    let k = Heads { offset: 3, ..s.k };
    assert!(Place::fused(&mut data, [s.q, k, s.v], s.row, 1, 2).is_none());
    assert!(Place::fused(&mut data, [s.q, s.k, s.v], s.row, 1, 3).is_none());
}

#[test]
fn decode_equals_the_last_row() {
    let (d, length) = (5, 37);
    let ((q, exact_q), (k, exact_k)) = (sample::<f32>(1, d), sample::<f32>(2, length * d));
    let (v, exact_v) = sample::<f32>(3, length * d);
    let mut out = place::<f32>(d);
    decode(&mut out, &q, &k, &v, 1, 1, d, length, 0.5);
    let queries: Vec<f64> = exact_q.iter().copied().cycle().take(length * d).collect();
    let exact = reference::forward(&queries, &exact_k, &exact_v, d, 0.5, |t, s| s <= t);
    assert_close("out", &out, &exact[(length - 1) * d..], 16.0);
}

#[test]
fn reference_gradients() {
    let (q, k, v, dout) = (random(1, 15), random(2, 15), random(3, 15), random(4, 15));
    let masks: [fn(usize, usize) -> bool; 3] = [|t, s| s <= t, |_, _| true, |t, s| t / 2 == s / 2];
    for sees in masks {
        let (dq, dk, dv) = reference::backward(&dout, &q, &k, &v, 3, 0.7, sees);
        check_gradient("dq", |q| dot(&dout, &reference::forward(q, &k, &v, 3, 0.7, sees)), &q, &dq);
        check_gradient("dk", |k| dot(&dout, &reference::forward(&q, k, &v, 3, 0.7, sees)), &k, &dk);
        check_gradient("dv", |v| dot(&dout, &reference::forward(&q, &k, v, 3, 0.7, sees)), &v, &dv);
    }
}

/// Documents of these lengths, one after another, as often as tokens go.
fn documents(lengths: &[usize], batch: usize, time: usize) -> Vec<Document> {
    let mut all = Vec::new();
    for _ in 0..batch {
        let (start, mut begin) = (all.len(), 0);
        for length in lengths.iter().cycle() {
            let end = time.min(begin + length);
            all.resize(start + end, (begin, end));
            begin = end;
            if end == time {
                break;
            }
        }
    }
    all
}

fn windows_and_documents<T: Element>() {
    let time = ROWS + 7;
    let all = [documents(&[1, 17, 3, 64], 2, time), documents(&[5], 2, time)];
    for (left, right) in [(Some(0), Some(0)), (Some(20), Some(0)), (Some(3), Some(5)), (None, Some(1)), (Some(7), None)]
    {
        check::<T>(Case { mask: Mask { left, right, documents: None }, ..case(16, time, 1, 2, false) });
    }
    for (left, right) in [(None, Some(0)), (Some(4), Some(0)), (None, None), (Some(2), Some(9))] {
        for documents in &all {
            let mask = Mask { left, right, documents: Some(documents) };
            check::<T>(Case { mask, ..case(5, time, 2, 1, true) });
        }
    }
}

#[test]
fn masks_follow_the_reference() {
    each_dtype!(windows_and_documents);
}

/// Documents and windows that begin and end inside blocks of keys, before and after them.
#[test]
fn masks_over_many_blocks() {
    let time = 2 * KEYS + ROWS + 1;
    let all = documents(&[KEYS + 1, ROWS - 2, 9], 1, time);
    for isa in crate::cpu::isa::all() {
        crate::cpu::isa::with(isa, || {
            for left in [KEYS - 1, KEYS, KEYS + NR + 1] {
                check::<f32>(Case { mask: Mask { left: Some(left), ..Mask::CAUSAL }, ..case(16, time, 1, 1, true) });
            }
            for (left, right) in [(None, Some(0)), (Some(50), Some(0)), (None, None)] {
                let mask = Mask { left, right, documents: Some(&all) };
                check::<f32>(Case { mask, ..case(16, time, 1, 1, false) });
            }
        });
    }
}

/// An end of a window or of a document that is one key off is seen.
#[test]
fn a_mask_one_off_is_seen() {
    let time = ROWS + 1;
    let (right, wrong) = (documents(&[40], 1, time), documents(&[41], 1, time));
    let window = |left| Mask { left: Some(left), ..Mask::CAUSAL };
    let of = |documents| Mask { documents: Some(documents), ..Mask::CAUSAL };
    for (mask, other) in [(window(9), window(10)), (of(&right[..]), of(&wrong[..]))] {
        let s = Case { mask, ..case(16, time, 1, 1, true) };
        let (qkv, dout) = (sample::<f32>(1, time * s.row).0, sample::<f32>(2, time * 32).0);
        let ((out, dqkv), (out2, dqkv2)) = (run(&s, &qkv, &dout), run(&Case { mask: other, ..s }, &qkv, &dout));
        let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() > 1e-3).count();
        assert!(differ(&out, &out2) > 16 && differ(&dqkv, &dqkv2) > 16);
    }
}

/// No mask but one that leaves all keys is computed, bit for bit.
#[test]
fn a_mask_that_hides_nothing() {
    let s = case(16, KEYS + 3, 1, 2, false);
    let (qkv, dout) = (sample::<f32>(1, s.time * s.row).0, sample::<f32>(2, s.time * 64).0);
    let one = vec![(0, s.time); s.time];
    let mask = Mask { left: Some(s.time), right: Some(0), documents: Some(&one) };
    assert!(run(&s, &qkv, &dout) == run(&Case { mask, ..s }, &qkv, &dout));
}
