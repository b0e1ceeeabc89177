use super::*;
use crate::train::config::{Source, load_sources};

fn run(changes: Json) -> RunConfig {
    let base = serde_json::json!({
        "num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "seq_length": 32,
        "max_position_embeddings": 32, "vocab_size": 1000, "pos_emb": "rotary", "no_weight_tying": true,
        "train_micro_batch_size_per_gpu": 2, "train_iters": 10,
    });
    let overrides: Vec<_> = changes.as_object().unwrap().clone().into_iter().collect();
    load_sources(&[Source::Mapping { name: "test".into(), value: base }], &overrides).unwrap().run
}

#[test]
fn the_arena_has_as_many_elements_as_we_count() {
    for changes in [
        serde_json::json!({}),
        serde_json::json!({"no_weight_tying": false, "pos_emb": "learned", "gpt_j_residual": true}),
        serde_json::json!({"norm": "rmsnorm", "activation": "swiglu", "ffn_hidden_size": 100, "num_kv_heads": 2,
            "use_bias_in_attn_linear": false, "use_bias_in_mlp": false}),
        serde_json::json!({"activation": "geglu", "intermediate_size": 192, "use_bias_in_norms": false}),
    ] {
        let run = run(changes);
        let decoder = Decoder::new(run.model.clone()).unwrap();
        assert_eq!(Parameters::of(&run.model).unwrap().total, decoder.num_params() as u64, "{:?}", run.model);
    }
}

#[test]
fn eighteen_bytes_a_parameter_in_half_precision_sixteen_in_full() {
    for (precision, bytes) in [("bfloat16", 18), ("fp16", 18), ("fp32", 16)] {
        let plan = plan(&run(serde_json::json!({"precision": precision}))).unwrap();
        let states = plan.bytes.total - plan.bytes.activations;
        assert_eq!(states, bytes * plan.parameters.total);
    }
}

#[test]
fn the_largest_micro_batch_is_the_last_that_fits() {
    let big = serde_json::json!({"num_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "seq_length": 2048,
        "max_position_embeddings": 2048, "precision": "bfloat16"});
    for card in plan(&run(big.clone())).unwrap().fits {
        let total = |micro: usize| {
            let mut changes = big.clone();
            changes["train_micro_batch_size_per_gpu"] = micro.into();
            plan(&run(changes)).unwrap().bytes.total
        };
        let largest = card.largest_micro_batch;
        assert!(largest > 0 && total(largest) <= card.capacity && total(largest + 1) > card.capacity, "{card:?}");
    }
}

#[test]
fn neox_formula() {
    let plan = plan(&run(serde_json::json!({}))).unwrap();
    // 24·3·L·h²·(1 + s/(6h) + V/(16·L·h)) with L 4, h 64, s 32, V 1024
    let want = 72.0 * 4.0 * 4096.0 * (1.0 + 32.0 / 384.0 + 1024.0 / 4096.0);
    assert!((plan.flops_per_token.neox - want).abs() < 1e-6 * want);
    let recomputed = super::plan(&run(serde_json::json!({"checkpoint_activations": true}))).unwrap();
    assert!((recomputed.flops_per_token.neox / want - 4.0 / 3.0).abs() < 1e-12);
    assert!(recomputed.bytes.activations < plan.bytes.activations);
}
