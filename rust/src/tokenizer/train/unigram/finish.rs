//! The vocabulary: the required characters and the best other pieces, best first.

use std::cmp::Ordering;

use super::pieces::Pieces;
use crate::tokenizer::train::text::FIRST;

/// By this the score of one more missing character rises.
const MISSING_STEP: f64 = 1e-4;

/// A piece of the vocabulary, as codes, and its score.
pub(super) type Scored = (Vec<u32>, f64);

/// All characters of the alphabet (by falling frequency in `chars`), then the pieces with the highest
/// scores, `size` in all where there are so many. A character that is no piece gets about
/// the lowest score.
pub(super) fn vocabulary(pieces: &Pieces, chars: &[char], size: usize) -> Vec<Scored> {
    let mut alone = vec![None; chars.len()];
    for piece in pieces.numbers().filter(|p| pieces.length(*p) == 1) {
        alone[pieces.text(piece)[0] as usize] = Some(pieces.scores[piece as usize]);
    }
    let lowest = pieces.scores[1..].iter().copied().fold(0.0, f64::min);
    let mut missing = 0.0;
    let mut vocabulary: Vec<Scored> = Vec::with_capacity(size);
    for code in FIRST..chars.len() as u32 {
        let score = alone[code as usize].unwrap_or_else(|| {
            let score = lowest + missing;
            missing += MISSING_STEP;
            score
        });
        vocabulary.push((vec![code], score));
    }
    let others = pieces.numbers().filter(|p| pieces.length(*p) > 1);
    let mut others: Vec<Scored> = others.map(|p| (pieces.text(p).to_vec(), pieces.scores[p as usize])).collect();
    let order = |a: &Scored, b: &Scored| by_score(a, b, chars);
    others.sort_by(order);
    others.truncate(size.saturating_sub(vocabulary.len()));
    vocabulary.append(&mut others);
    vocabulary.sort_by(order);
    vocabulary
}

/// Highest score first, of equals the smaller string.
fn by_score(a: &Scored, b: &Scored, chars: &[char]) -> Ordering {
    let text = |s: &Scored| s.0.iter().map(|c| chars[*c as usize]).collect::<Vec<_>>();
    b.1.total_cmp(&a.1).then_with(|| text(a).cmp(&text(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_and_the_best_other_pieces() {
        let chars = ['\t', '▅', 'a', 'b', 'c', 'd'];
        let texts: [&[u32]; 5] = [&[2], &[4], &[2, 3], &[3, 4], &[2, 2]];
        let ends = [1, 2, 4, 6, 8];
        let (pieces, _) = Pieces::new(texts.concat(), &ends, &[-1.0, -7.0, -3.0, -2.0, -3.0], &chars).unwrap();
        let found = vocabulary(&pieces, &chars, 6);
        let string = |codes: &[u32]| codes.iter().map(|c| chars[*c as usize]).collect::<String>();
        let found: Vec<(String, f64)> = found.iter().map(|(codes, score)| (string(codes), *score)).collect();
        // "ab" and "aa" are equal: the smaller string. "b" and "d" are missing.
        let want = [("a", -1.0), ("bc", -2.0), ("aa", -3.0), ("d", -7.0 + 1e-4), ("b", -7.0), ("c", -7.0)];
        assert_eq!(found, want.map(|(text, score)| (text.to_owned(), score)));
    }
}
