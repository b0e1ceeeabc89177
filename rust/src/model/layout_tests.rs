use super::*;
use crate::model::{Activation, Bias};

fn neox() -> ModelConfig {
    ModelConfig {
        num_layers: 2,
        hidden_size: 12,
        num_attention_heads: 3,
        num_kv_heads: 3,
        head_dim: 4,
        ffn_hidden_size: 20,
        vocab_size: 7,
        max_position_embeddings: 9,
        norm: Norm::LayerNorm,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        gated: false,
        position: Position::Rotary { ndims: 2, base: 1e4 },
        parallel_residual: true,
        bias: Bias { norm: true, attention: true, mlp: true },
        tie_word_embeddings: false,
        sliding_window: None,
    }
}

fn llama() -> ModelConfig {
    ModelConfig {
        norm: Norm::RmsNorm,
        num_kv_heads: 1,
        gated: true,
        activation: Activation::Silu,
        parallel_residual: false,
        bias: Bias { norm: false, attention: false, mlp: false },
        ..neox()
    }
}

fn names(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    Layout::new(config).unwrap().params.into_iter().map(|p| (p.name, p.shape)).collect()
}

#[test]
fn neox_names_shapes_and_order() {
    let all = names(&neox());
    assert_eq!(all.len(), 1 + 2 * 12 + 2 + 1);
    assert_eq!(all[0], ("gpt_neox.embed_in.weight".into(), vec![7, 12]));
    assert_eq!(all[3], ("gpt_neox.layers.0.attention.query_key_value.weight".into(), vec![36, 12]));
    assert_eq!(all[4], ("gpt_neox.layers.0.attention.query_key_value.bias".into(), vec![36]));
    assert_eq!(all[12], ("gpt_neox.layers.0.mlp.dense_4h_to_h.bias".into(), vec![12]));
    assert_eq!(all[27], ("embed_out.weight".into(), vec![7, 12]));
}

#[test]
fn what_one_matmul_reads_is_adjacent() {
    let layout =
        Layout::new(&ModelConfig { bias: Bias { norm: false, attention: true, mlp: true }, ..llama() }).unwrap();
    let start = |name: &str| layout.params.iter().find(|p| p.name == format!("model.layers.1.{name}")).unwrap().range();
    let layer = &layout.layers[1];
    assert_eq!(layer.qkv.weight.start, start("self_attn.q_proj.weight").start);
    assert_eq!(start("self_attn.q_proj.weight").end, start("self_attn.k_proj.weight").start);
    assert_eq!(start("self_attn.k_proj.weight").end, start("self_attn.v_proj.weight").start);
    assert_eq!(layer.qkv.weight.len(), (3 + 2) * 4 * 12);
    assert_eq!(
        layer.qkv.bias.clone().unwrap(),
        start("self_attn.q_proj.bias").start..start("self_attn.v_proj.bias").end
    );
    assert_eq!(start("mlp.gate_proj.weight").end, start("mlp.up_proj.weight").start);
    assert_eq!(start("mlp.gate_proj.bias").end, start("mlp.up_proj.bias").start);
}

#[test]
fn the_arena_is_covered_once() {
    for config in [neox(), llama(), ModelConfig { position: Position::Learned, tie_word_embeddings: true, ..neox() }] {
        let layout = Layout::new(&config).unwrap();
        let mut end = 0;
        for p in &layout.params {
            assert_eq!(p.offset, end, "{}", p.name);
            assert_eq!(p.len, p.shape.iter().product::<usize>());
            end += p.len;
        }
        assert_eq!(end, layout.len);
    }
}

#[test]
fn tied_output_is_the_embedding() {
    let config = ModelConfig { tie_word_embeddings: true, ..llama() };
    let layout = Layout::new(&config).unwrap();
    assert_eq!(layout.output, layout.embedding);
    assert!(layout.params.iter().all(|p| p.name != "lm_head.weight"));
}

#[test]
fn norms_and_biases_do_not_decay() {
    for p in Layout::new(&neox()).unwrap().params {
        assert_eq!(p.decay, !(p.name.contains("norm") || p.name.ends_with(".bias")), "{}", p.name);
    }
}

#[test]
fn impossible_configs_are_refused_by_key() {
    let cases = [
        (ModelConfig { num_layers: 0, ..neox() }, "num_layers"),
        (ModelConfig { num_kv_heads: 2, ..neox() }, "num_kv_heads"),
        (ModelConfig { sliding_window: Some(0), ..llama() }, "sliding_window"),
        (ModelConfig { position: Position::Rotary { ndims: 3, base: 1e4 }, ..neox() }, "rotary_pct"),
        (ModelConfig { position: Position::Rotary { ndims: 6, base: 1e4 }, ..neox() }, "rotary_pct"),
        (ModelConfig { position: Position::Rotary { ndims: 4, base: f64::NAN }, ..neox() }, "rotary_emb_base"),
        (ModelConfig { norm_eps: -1.0, ..neox() }, "norm_eps"),
        (ModelConfig { vocab_size: 1 << 31, ..neox() }, "vocab_size"),
        (ModelConfig { hidden_size: usize::MAX / 2, ..neox() }, "address"),
    ];
    for (config, word) in cases {
        let error = Layout::new(&config).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
