//! The promises that a model must keep before anything is built from it.

use super::model_file::{Kind, MAX_SCORE, ModelFile, Piece};
use crate::error::{Error, Result};

/// # Errors
/// `Tokenizer` naming the piece and the promise it breaks.
pub(super) fn check(file: &ModelFile<'_>) -> Result<()> {
    if file.pieces.is_empty() {
        return Err(Error::Tokenizer("the model has no pieces; is it a SentencePiece `.model` file?".to_owned()));
    }
    for (id, piece) in file.pieces.iter().enumerate() {
        check_piece(id, piece)?;
    }
    check_unknown(file)?;
    check_bytes(file)
}

fn check_piece(id: usize, piece: &Piece<'_>) -> Result<()> {
    if piece.text.is_empty() {
        return Err(Error::Tokenizer(format!("piece {id} is empty")));
    }
    if piece.text.contains('\0') && !(piece.text == "\0" && piece.kind == Kind::Unused) {
        return Err(Error::Tokenizer(format!("piece {id} contains a NUL character")));
    }
    if piece.score.is_nan() || piece.score.abs() > MAX_SCORE {
        let Piece { text, score, .. } = piece;
        return Err(Error::Tokenizer(format!(
            "the score of piece {id} ({text:?}) is {score}, not within {MAX_SCORE:e}"
        )));
    }
    Ok(())
}

fn check_unknown(file: &ModelFile<'_>) -> Result<()> {
    let unknown = file.pieces.iter().filter(|p| p.kind == Kind::Unknown).count();
    if unknown > 1 {
        return Err(Error::Tokenizer(format!("the model has {unknown} pieces of type UNKNOWN; one is allowed")));
    }
    if unknown == 0 && !file.byte_fallback {
        return Err(Error::Tokenizer("the model has no piece of type UNKNOWN and no byte fallback".to_owned()));
    }
    Ok(())
}

fn check_bytes(file: &ModelFile<'_>) -> Result<()> {
    let mut found = [false; 256];
    for (id, piece) in file.pieces.iter().enumerate().filter(|(_, p)| p.kind == Kind::Byte) {
        if !file.byte_fallback {
            let text = format!("byte piece {id} ({:?}) is there although `byte_fallback` is off", piece.text);
            return Err(Error::Tokenizer(text));
        }
        let byte = byte_of(piece.text)
            .ok_or_else(|| Error::Tokenizer(format!("byte piece {id} must look like <0x0A>, not {:?}", piece.text)))?;
        found[usize::from(byte)] = true;
    }
    match found.iter().position(|f| !f) {
        Some(byte) if file.byte_fallback => {
            Err(Error::Tokenizer(format!("`byte_fallback` is on and the byte piece <0x{byte:02X}> is missing")))
        }
        _ => Ok(()),
    }
}

/// `<0x0A>` -> 10; capital digits only, as SentencePiece writes them.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if digits.len() != 2 || !digits.bytes().all(is_digit) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
