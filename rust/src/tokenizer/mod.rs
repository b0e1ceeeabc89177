//! SentencePiece tokenizers.
