//! Decoders of `tokenizer.json`. Special tokens vanish before, as with `skip_special_tokens=True`.

use super::json::At;
use super::letters::Letters;
use super::normalize::replaced;
use super::pattern::Pattern;
use super::split::Prepend;
use crate::error::Result;

enum Step {
    ByteLevel(Letters),
    ByteFallback,
    Fuse,
    Replace { pattern: Pattern, content: String },
    Strip { content: char, start: usize, stop: usize },
    Metaspace { symbol: char, drops_first: bool },
}

/// Without a decoder tokens are joined by spaces.
pub(super) struct Decoder {
    steps: Vec<Step>,
    join: &'static str,
}

impl Decoder {
    /// # Errors
    /// `UnsupportedModel` naming a component that is not supported.
    pub(super) fn read(at: Option<&At<'_>>) -> Result<Self> {
        let mut steps = Vec::new();
        if let Some(at) = at {
            read_into(at, &mut steps)?;
        }
        Ok(Self { steps, join: if at.is_some() { "" } else { " " } })
    }

    pub(super) fn run(&self, mut tokens: Vec<String>) -> String {
        for step in &self.steps {
            tokens = step.run(tokens);
        }
        tokens.join(self.join)
    }
}

fn read_into(at: &At<'_>, steps: &mut Vec<Step>) -> Result<()> {
    steps.push(match at.kind()? {
        "Sequence" => {
            let items = at.need("decoders")?.items()?;
            return items.iter().try_for_each(|item| read_into(item, steps));
        }
        "ByteLevel" => Step::ByteLevel(Letters::new()),
        "ByteFallback" => Step::ByteFallback,
        "Fuse" => Step::Fuse,
        "Replace" => {
            Step::Replace { pattern: replaced(&at.need("pattern")?)?, content: at.need_text("content")?.to_owned() }
        }
        "Strip" => {
            let size = |key| Ok::<_, crate::error::Error>(usize::try_from(at.number(key)?).unwrap_or(usize::MAX));
            Step::Strip { content: at.need_character("content")?, start: size("start")?, stop: size("stop")? }
        }
        "Metaspace" => Step::Metaspace {
            symbol: at.need_character("replacement")?,
            drops_first: Prepend::read(at)? != Prepend::Never,
        },
        other => return Err(at.refused(&format!("the decoder {other}"))),
    });
    Ok(())
}

impl Step {
    fn run(&self, tokens: Vec<String>) -> Vec<String> {
        match self {
            Self::ByteLevel(letters) => {
                let bytes = |token: String| letters.bytes(&token).unwrap_or_else(|| token.into_bytes());
                let bytes: Vec<u8> = tokens.into_iter().flat_map(bytes).collect();
                vec![String::from_utf8_lossy(&bytes).into_owned()]
            }
            Self::ByteFallback => byte_fallback(tokens),
            Self::Fuse => vec![tokens.concat()],
            Self::Replace { pattern, content } => tokens.iter().map(|token| replace(pattern, content, token)).collect(),
            Self::Strip { content, start, stop } => {
                tokens.iter().map(|token| strip(token, *content, *start, *stop).to_owned()).collect()
            }
            Self::Metaspace { symbol, drops_first } => {
                let spaced = |(at, token): (usize, String)| {
                    token.replace(*symbol, if at == 0 && *drops_first { "" } else { " " })
                };
                tokens.into_iter().enumerate().map(spaced).collect()
            }
        }
    }
}

fn replace(pattern: &Pattern, content: &str, token: &str) -> String {
    let (mut out, mut done) = (String::new(), 0);
    if token.is_empty() {
        return out;
    }
    pattern.each_match(token, |from, to| {
        out.push_str(&token[done..from]);
        out.push_str(content);
        done = to;
    });
    out.push_str(&token[done..]);
    out
}

fn strip(token: &str, content: char, start: usize, stop: usize) -> &str {
    let mut rest = token;
    for _ in 0..start {
        let Some(shorter) = rest.strip_prefix(content) else { break };
        rest = shorter;
    }
    for _ in 0..stop {
        let Some(shorter) = rest.strip_suffix(content) else { break };
        rest = shorter;
    }
    rest
}

/// Runs of `<0xE3>` become their characters, or one U+FFFD a byte where they are not UTF-8.
fn byte_fallback(tokens: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(tokens.len());
    let mut bytes = Vec::new();
    for token in tokens {
        match byte_of(&token) {
            Some(byte) => bytes.push(byte),
            None => {
                flush(&mut bytes, &mut out);
                out.push(token);
            }
        }
    }
    flush(&mut bytes, &mut out);
    out
}

fn flush(bytes: &mut Vec<u8>, out: &mut Vec<String>) {
    if bytes.is_empty() {
        return;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => out.push(text.to_owned()),
        Err(_) => out.extend(bytes.iter().map(|_| char::REPLACEMENT_CHARACTER.to_string())),
    }
    bytes.clear();
}

/// Digits of either case count, unlike in encoding.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let sound = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if sound { u8::from_str_radix(digits, 16).ok() } else { None }
}
