//! What a SentencePiece `.model` file says, checked but not yet built into anything.

use super::wire::{Message, Value};
use crate::error::{Error, Result};

/// No real model comes near these; they bound the memory that a hostile file can claim.
const MAX_PIECES: usize = 1 << 22;
const MAX_PIECE_BYTES: usize = 8000;
/// Sums over a text stay far below the largest f32.
pub(super) const MAX_SCORE: f32 = 1e20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// Whether the piece lives among the strings that text can match. The others are reserved:
    /// SentencePiece looks their names up in a table of its own.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    Unigram,
    Bpe,
}

#[derive(Debug)]
pub(super) struct NormalizerSpec<'a> {
    pub(super) name: &'a str,
    pub(super) charsmap: &'a [u8],
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

impl Default for NormalizerSpec<'_> {
    fn default() -> Self {
        Self {
            name: "",
            charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

#[derive(Debug)]
pub(super) struct ModelFile<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
    pub(super) model_type: ModelType,
    pub(super) byte_fallback: bool,
    pub(super) whitespace_as_suffix: bool,
    pub(super) unk_surface: &'a str,
    /// The names of unk, bos, eos, pad.
    pub(super) special_names: [&'a str; 4],
    pub(super) normalizer: NormalizerSpec<'a>,
    pub(super) denormalizer: Option<NormalizerSpec<'a>>,
}

impl<'a> ModelFile<'a> {
    /// # Errors
    /// `Tokenizer` for anything that is not a sound model of a supported kind.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut file = Self::empty();
        let mut message = Message::new(bytes, "model", 0);
        while let Some((number, value)) = message.next_field()? {
            file.field(number, value, &message)?;
        }
        file.drop_null_pieces();
        super::checks::check(&file)?;
        Ok(file)
    }

    pub(super) fn empty() -> Self {
        Self {
            pieces: Vec::new(),
            model_type: ModelType::Unigram,
            byte_fallback: false,
            whitespace_as_suffix: false,
            unk_surface: " \u{2047} ",
            special_names: ["<unk>", "<s>", "</s>", "<pad>"],
            normalizer: NormalizerSpec::default(),
            denormalizer: None,
        }
    }

    fn field(&mut self, number: u32, value: Value<'a>, message: &Message<'a>) -> Result<()> {
        match number {
            1 => {
                let bytes = value.bytes(message, "pieces")?;
                let piece = self.piece(Message::new(bytes, "piece", message.position() - bytes.len()))?;
                self.pieces.push(piece);
            }
            2 => {
                let bytes = value.bytes(message, "trainer_spec")?;
                self.trainer(Message::new(bytes, "trainer_spec", message.position() - bytes.len()))?;
            }
            3 => {
                let bytes = value.bytes(message, "normalizer_spec")?;
                let spec = Message::new(bytes, "normalizer_spec", message.position() - bytes.len());
                read_normalizer(&mut self.normalizer, spec)?;
            }
            5 => {
                let bytes = value.bytes(message, "denormalizer_spec")?;
                let spec = Message::new(bytes, "denormalizer_spec", message.position() - bytes.len());
                read_normalizer(self.denormalizer.get_or_insert_default(), spec)?;
            }
            _ => {} // self_test_data and extensions change no ids
        }
        Ok(())
    }

    fn piece(&self, mut message: Message<'a>) -> Result<Piece<'a>> {
        let id = self.pieces.len();
        let mut piece = Piece { text: "", score: 0.0, kind: Kind::Normal };
        while let Some((number, value)) = message.next_field()? {
            match number {
                1 => piece.text = value.text(&message, "piece")?,
                2 => piece.score = value.float(&message, "score")?,
                3 => piece.kind = kind(value.varint(&message, "type")?, id)?,
                _ => {}
            }
        }
        if piece.text.len() >= MAX_PIECE_BYTES {
            return Err(Error::Tokenizer(format!("piece {id} is longer than {MAX_PIECE_BYTES} bytes")));
        }
        if id >= MAX_PIECES {
            return Err(Error::Tokenizer(format!("models with more than {MAX_PIECES} pieces are not supported")));
        }
        Ok(piece)
    }

    fn trainer(&mut self, mut message: Message<'a>) -> Result<()> {
        while let Some((number, value)) = message.next_field()? {
            match number {
                3 => self.model_type = model_type(value.varint(&message, "model_type")?)?,
                24 => self.whitespace_as_suffix = value.flag(&message, "treat_whitespace_as_suffix")?,
                35 => self.byte_fallback = value.flag(&message, "byte_fallback")?,
                44 => self.unk_surface = value.text(&message, "unk_surface")?,
                45..=48 => {
                    let name = value.text(&message, "special piece")?;
                    if !name.is_empty() {
                        self.special_names[number as usize - 45] = name;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// With byte fallback, a lone NUL piece (some converters add it) is never used.
    fn drop_null_pieces(&mut self) {
        if self.byte_fallback {
            self.pieces.iter_mut().filter(|p| p.text == "\0").for_each(|p| p.kind = Kind::Unused);
        }
    }
}

fn kind(value: u64, id: usize) -> Result<Kind> {
    Ok(match value {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => return Err(Error::Tokenizer(format!("piece {id} has type {value}; known types are 1 to 6"))),
    })
}

fn model_type(value: u64) -> Result<ModelType> {
    let refused = |name| {
        let text = format!("models of type {name} are not supported; UNIGRAM and BPE are");
        Err(Error::Tokenizer(text))
    };
    match value {
        1 => Ok(ModelType::Unigram),
        2 => Ok(ModelType::Bpe),
        3 => refused("WORD"),
        4 => refused("CHAR"),
        _ => refused(&format!("{value}")),
    }
}

fn read_normalizer<'a>(spec: &mut NormalizerSpec<'a>, mut message: Message<'a>) -> Result<()> {
    while let Some((number, value)) = message.next_field()? {
        match number {
            1 => spec.name = value.text(&message, "name")?,
            2 => spec.charsmap = value.bytes(&message, "precompiled_charsmap")?,
            3 => spec.add_dummy_prefix = value.flag(&message, "add_dummy_prefix")?,
            4 => spec.remove_extra_whitespaces = value.flag(&message, "remove_extra_whitespaces")?,
            5 => spec.escape_whitespaces = value.flag(&message, "escape_whitespaces")?,
            _ => {}
        }
    }
    Ok(())
}
