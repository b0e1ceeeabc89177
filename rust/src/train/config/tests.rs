//! What the resolved mapping does not show: the values of `RunConfig` itself.

use serde_json::{Value, json};

use super::*;
use crate::data::Sources;
use crate::model::{Activation, InitMethod, Norm, Position};

fn run(changes: Value) -> RunConfig {
    let base = json!({
        "num_layers": 24, "hidden_size": 2048, "num_attention_heads": 16, "seq_length": 128,
        "max_position_embeddings": 256, "vocab_size": 50277, "train_micro_batch_size_per_gpu": 4, "train_iters": 1000,
        "optimizer": {"type": "Adam", "params": {"lr": 2e-4, "betas": [0.9, 0.95], "eps": 1e-8}},
    });
    let overrides: Vec<_> = changes.as_object().unwrap().clone().into_iter().collect();
    let loaded = from_mapping("test", &base, &overrides).unwrap();
    let again = from_mapping("again", &loaded.resolved, &[]).unwrap();
    assert_eq!(RunConfig { warnings: vec![], ..again.run }, RunConfig { warnings: vec![], ..loaded.run.clone() });
    loaded.run
}

#[test]
fn defaults_are_those_of_gpt_neox() {
    let run = run(json!({}));
    let model = &run.model;
    assert_eq!((model.norm, model.norm_eps, model.position), (Norm::LayerNorm, 1e-5, Position::Learned));
    assert_eq!((model.activation, model.gated, model.tie_word_embeddings), (Activation::Gelu, false, true));
    assert_eq!((model.num_kv_heads, model.head_dim, model.ffn_hidden_size, model.vocab_size), (16, 128, 8192, 50304));
    assert_eq!(run.init.method, InitMethod::Normal { std: 0.02 });
    assert_eq!(run.init.output_method, InitMethod::Normal { std: 0.02 / 48f64.sqrt() });
    assert_eq!(run.optimizer.gradient_clipping, 1.0);
    assert_eq!((run.seed, run.eval_interval, run.eval_iters, run.log.log_interval), (1234, 1000, 100, 100));
    assert_eq!((run.precision, run.recompute_layers, run.data), (Precision::Fp32, None, None));
    assert_eq!(run.checkpoint.every, CheckpointEvery::Never);
}

#[test]
fn a_model_like_20b() {
    let run = run(json!({
        "pos_emb": "rotary", "rotary_pct": 0.25, "gpt_j_residual": true, "bias_gelu_fusion": true,
        "init_method": "small_init", "output_layer_init_method": "wang_init", "no_weight_tying": true,
        "hidden_size": 1536, "num_attention_heads": 16,
    }));
    assert_eq!(run.model.position, Position::Rotary { ndims: 24, base: 10000.0 });
    assert_eq!(run.model.activation, Activation::GeluTanh);
    assert!(run.model.parallel_residual && !run.model.tie_word_embeddings);
    assert_eq!(run.init.method, InitMethod::Normal { std: (2f64 / (5.0 * 1536.0)).sqrt() });
    assert_eq!(run.init.output_method, InitMethod::Normal { std: 2.0 / (24.0 * 1536f64.sqrt()) });
}

#[test]
fn a_model_like_llama() {
    let run = run(json!({
        "norm": "rmsnorm", "activation": "swiglu", "ffn_hidden_size": 5632, "pos_emb": "rotary", "num_kv_heads": 4,
        "use_bias_in_attn_linear": false, "use_bias_in_mlp": false, "rotary_emb_base": 500000,
    }));
    let model = run.model;
    assert_eq!(
        (model.norm, model.norm_eps, model.activation, model.gated),
        (Norm::RmsNorm, 1e-8, Activation::Silu, true)
    );
    assert!(!model.bias.norm && !model.bias.attention && !model.bias.mlp);
    assert_eq!(model.position, Position::Rotary { ndims: 128, base: 500_000.0 });
}

#[test]
fn the_scaler_of_stage_0_knows_no_hysteresis() {
    let fp16 = json!({"enabled": true, "initial_scale_power": 12, "hysteresis": 2, "loss_scale_window": 500});
    let zero = run(json!({"fp16": fp16}));
    assert_eq!((zero.scaler.hysteresis, zero.scaler.abort_at_min), (1, false));
    let one = run(json!({"fp16": fp16, "zero_optimization": {"stage": 1}})).scaler;
    assert_eq!((one.hysteresis, one.abort_at_min), (2, true));
    assert_eq!((one.initial_scale_power, one.loss_scale_window, one.min_loss_scale), (12, 500, 1.0));
    assert_eq!(run(json!({"fp16": {"enabled": true}})).scaler.initial_scale_power, 16);
}

#[test]
fn schedule_in_steps() {
    let schedule = run(json!({"warmup": 0.015, "lr_decay_iters": 900, "min_lr": 2e-5})).schedule;
    assert_eq!((schedule.warmup_iters, schedule.decay_iters, schedule.min_lr), (13.5, 900, 2e-5));
    let wsd = run(json!({"lr_decay_style": "wsd", "lr_wsd_decay_iters": 100, "lr_warmup_iters": 20})).schedule;
    assert_eq!((wsd.style, wsd.warmup_iters, wsd.wsd_decay_iters), (DecayStyle::Wsd, 20.0, 100));
    assert_eq!(run(json!({"schedule_flavor": "Megatron"})).schedule.flavor, ScheduleFlavor::Megatron);
}

#[test]
fn epochs_wait_for_the_data() {
    let mut run = run(json!({"train_iters": null, "train_epochs": 2, "warmup": 0.1, "lr_decay_fraction": 0.5}));
    assert_eq!((run.train_iters, run.schedule.decay_iters), (None, 0));
    run.set_train_iters(301);
    assert_eq!((run.train_iters, run.schedule.decay_iters, run.schedule.warmup_iters), (Some(301), 150, 15.0));
}

#[test]
fn samples_of_each_part() {
    let data =
        run(json!({"data_path": "x", "eval_interval": 300, "eval_iters": 7, "train_batch_size": 8})).data.unwrap();
    assert_eq!(data.samples, [Some(8000), Some(4 * 7 * 8), Some(7 * 8)]);
    assert_eq!((data.vocab_size, data.seq_length, data.seed), (50304, 128, 1234));
    let epochs = run(json!({"data_path": "x", "train_iters": null, "train_epochs": 1, "eval_iters": 7})).data.unwrap();
    assert_eq!(epochs.samples, [None, Some(28), Some(28)]);
}

#[test]
fn lists_with_weights_and_labels() {
    let lists = json!({
        "train_data_paths": ["a", "b"], "train_data_weights": [3, 1.5], "train_label_data_paths": ["la", "lb"],
        "valid_data_paths": ["v"], "test_data_paths": ["t"], "pack_impl": "unpacked",
    });
    let Some(Sources::Lists { train, valid, .. }) = run(lists).data.map(|data| data.sources) else { panic!() };
    assert_eq!((train[1].weight, train[1].labels.as_deref()), (1.5, Some(std::path::Path::new("lb"))));
    assert_eq!((valid[0].weight, &valid[0].labels), (1.0, &None));
}

#[test]
fn checkpoints_and_recompute() {
    let every = |changes| run(changes).checkpoint.every;
    assert_eq!(every(json!({"checkpoint_factor": 100})), CheckpointEvery::Steps(100));
    assert_eq!(every(json!({"checkpoint_factor": 100.0})), CheckpointEvery::Steps(100));
    assert_eq!(every(json!({"checkpoint_factor": 1.5, "checkpoint_scale": "log"})), CheckpointEvery::Log(1.5));
    let extra = run(json!({"save": "s", "extra_save_iters": [0, 1, 2]})).checkpoint;
    assert_eq!((extra.extra_save_iters, extra.save), (vec![0, 1, 2], Some("s".into())));
    let recompute = |changes| run(changes).recompute_layers;
    assert_eq!(recompute(json!({"checkpoint_activations": true, "checkpoint_num_layers": 4})), Some(4));
    assert_eq!(recompute(json!({"checkpoint_activations": true, "checkpoint_num_layers": 99})), Some(24));
    assert_eq!(recompute(json!({"checkpoint_num_layers": 4})), None);
}

#[test]
fn one_warning_for_all_keys_without_effect() {
    let warnings = run(json!({"hostfile": "/x", "launcher": "slurm", "master_port": 29500})).warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].ends_with(": hostfile, launcher"), "{}", warnings[0]);
}
