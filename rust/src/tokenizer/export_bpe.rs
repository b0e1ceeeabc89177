//! The list of merges that a SentencePiece BPE model leaves unsaid.
//!
//! There, two neighbours merge where their concatenation is a piece, the highest score first and
//! the leftmost of equals. Hugging Face has a list of pairs: here every way to cut a piece into two
//! pieces, in the order of the pieces' scores.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::export::cannot;
use super::model_file::{Kind, ModelFile};
use crate::error::Result;

/// # Errors
/// `UnsupportedModel` for what a list of pairs cannot say.
pub(super) fn model_json(file: &ModelFile<'_>) -> Result<Value> {
    let vocab: Map<String, Value> =
        file.pieces.iter().enumerate().map(|(id, piece)| (piece.text.to_owned(), json!(id))).collect();
    let unknown = file.pieces.iter().find(|p| p.kind == Kind::Unknown).map(|p| p.text);
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": file.byte_fallback,
        "ignore_merges": false, "vocab": vocab, "merges": merges(file)?,
    }))
}

fn merges<'f>(file: &ModelFile<'f>) -> Result<Vec<[&'f str; 2]>> {
    let texts: HashMap<&str, f32> =
        file.pieces.iter().filter(|p| p.kind.is_text()).map(|piece| (piece.text, piece.score)).collect();
    check_characters(file, &texts)?;
    let mut cuts: Vec<(f32, &str, Vec<usize>)> = texts
        .iter()
        .map(|(text, score)| (*score, *text, cuts(text, &texts)))
        .filter(|(_, _, cuts)| !cuts.is_empty())
        .collect();
    cuts.sort_by(|a, b| b.0.total_cmp(&a.0));
    if let Some(pair) = cuts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(cannot(&format!("BPE models with one score for two pieces ({:?}, {:?})", pair[0].1, pair[1].1)));
    }
    let pairs = cuts.iter().flat_map(|(_, text, cuts)| cuts.iter().map(|cut| text.split_at(*cut)));
    Ok(pairs.map(|(left, right)| [left, right]).collect())
}

/// Merging begins with characters, which must all be pieces there, and none of them reserved.
fn check_characters(file: &ModelFile<'_>, texts: &HashMap<&str, f32>) -> Result<()> {
    let mut buffer = [0; 4];
    let characters: HashSet<char> = texts.keys().flat_map(|text| text.chars()).collect();
    if let Some(missing) = characters.iter().find(|c| !texts.contains_key(&*c.encode_utf8(&mut buffer))) {
        return Err(cannot(&format!("BPE models with characters that are no piece by themselves ({missing:?})")));
    }
    let reserved = file.pieces.iter().filter(|p| !p.kind.is_text());
    match reserved.filter(|p| p.text.chars().count() == 1).map(|p| p.text).next() {
        Some(text) => Err(cannot(&format!("BPE models with a reserved piece of one character ({text:?})"))),
        None => Ok(()),
    }
}

/// Where `text` can be cut into two pieces. Two cuts of one piece compete where it overlaps with
/// itself, `x y z` with `xy == yz`: the leftmost goes first, so the cut behind `x` comes before the
/// cut behind `y`. Where both orders are asked for, as in runs of one character, symbols grow from
/// the left, so the longer left part comes first.
fn cuts(text: &str, texts: &HashMap<&str, f32>) -> Vec<usize> {
    let is_cut = |at: &usize| {
        let (left, right) = text.split_at(*at);
        texts.contains_key(left) && texts.contains_key(right)
    };
    let mut cuts: Vec<usize> = text.char_indices().skip(1).map(|(at, _)| at).filter(is_cut).collect();
    cuts.reverse();
    let overlaps = |x: usize| text.as_bytes().starts_with(&text.as_bytes()[x..]);
    for later in (0..cuts.len()).rev() {
        let (x, y) = (cuts[later], text.len() - cuts[later]);
        let Some(earlier) = cuts[..later].iter().position(|cut| *cut == y) else { continue };
        if overlaps(x) && !overlaps(y) {
            cuts.swap(earlier, later);
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts_of(text: &str) -> Vec<usize> {
        let texts: Vec<&str> = (0..text.len()).flat_map(|a| (a + 1..=text.len()).map(move |b| &text[a..b])).collect();
        cuts(text, &texts.into_iter().map(|text| (text, 0.0)).collect())
    }

    #[test]
    fn overlapping_pieces_merge_on_the_left() {
        // In `ab aba ba` the cut behind `ab` must win, in runs the longer left part.
        assert_eq!(cuts_of("aaa"), [2, 1]);
        assert_eq!(cuts_of("abc"), [2, 1]);
        let cuts = cuts_of("ababa");
        let place = |cut| cuts.iter().position(|c| *c == cut);
        assert!(place(2) < place(3), "{cuts:?}");
        assert!(place(4) < place(1), "{cuts:?}");
    }
}
