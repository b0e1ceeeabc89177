//! What this trainer is not for, and what follows from other keys.

use super::Default::{Bool, Float, Int, Null, Text as T};
use super::Kind::{Any, Bool as B, Float as F, Int as I, List, Text};
use super::Range::{Finite, NotNegative};
use super::{Key, d, r, w};

const PREFERENCES: &str = "preference and reinforcement learning are not supported";

pub(super) const PREFERENCE: &[Key] = &[
    r("train_reward_data_paths", List, Null, PREFERENCES),
    r("valid_reward_data_paths", List, Null, PREFERENCES),
    r("test_reward_data_paths", List, Null, PREFERENCES),
    r("pos_train_data_paths", List, Null, PREFERENCES),
    r("neg_train_data_paths", List, Null, PREFERENCES),
    r("pos_valid_data_paths", List, Null, PREFERENCES),
    r("neg_valid_data_paths", List, Null, PREFERENCES),
    r("pos_test_data_paths", List, Null, PREFERENCES),
    r("neg_test_data_paths", List, Null, PREFERENCES),
    r("pos_train_label_data_paths", List, Null, PREFERENCES),
    r("neg_train_label_data_paths", List, Null, PREFERENCES),
    r("pos_valid_label_data_paths", List, Null, PREFERENCES),
    r("neg_valid_label_data_paths", List, Null, PREFERENCES),
    r("pos_test_label_data_paths", List, Null, PREFERENCES),
    r("neg_test_label_data_paths", List, Null, PREFERENCES),
    r("dpo_fp32", B, Bool(true), PREFERENCES),
    r("dpo_reference_free", B, Bool(false), PREFERENCES),
    r("dpo_beta", F(Finite), Float(0.1), PREFERENCES),
    r("kto_fp32", B, Bool(true), PREFERENCES),
    r("kto_desirable_weight", F(Finite), Float(1.0), PREFERENCES),
    r("kto_undesirable_weight", F(Finite), Float(1.0), PREFERENCES),
    r("kto_beta", F(Finite), Float(0.1), PREFERENCES),
    r("fp32_reinforce", B, Bool(true), PREFERENCES),
    r("kl_impl", Text, T("mse"), PREFERENCES),
    r("kl_div_beta", F(Finite), Float(0.1), PREFERENCES),
    r("reinforce_leave_one_out", B, Bool(false), PREFERENCES),
    r("serve_model_weights", B, Bool(false), PREFERENCES),
    r("weight_server_port", Any, Int(6000), PREFERENCES),
    r("online_dataserver_ips", Any, T("localhost"), PREFERENCES),
    r("online_dataserver_ports", Any, Int(10000), PREFERENCES),
];

const GMLP: &str = "gMLP layers are not supported";
const MAMBA: &str = "Mamba layers are not supported";
const RWKV: &str = "RWKV layers are not supported";
const MOE: &str = "mixtures of experts are not supported";

pub(super) const ARCHITECTURES: &[Key] = &[
    r("gmlp_attn_dim", I(0), Int(64), GMLP),
    r("mamba_selective_scan_fusion", B, Bool(false), MAMBA),
    r("mamba_causal_conv_fusion", B, Bool(false), MAMBA),
    r("mamba_inner_func_fusion", B, Bool(false), MAMBA),
    r("mamba_selective_fp32_params", B, Bool(true), MAMBA),
    r("mamba_use_bias_in_conv", B, Bool(true), MAMBA),
    r("mamba_use_bias_in_linears", B, Bool(false), MAMBA),
    r("dim_att", I(0), Null, RWKV),
    r("head_size", I(0), Null, RWKV),
    r("ffn_dim", I(0), Null, RWKV),
    r("moe_num_experts", I(0), Int(1), MOE),
    r("moe_expert_interval", I(0), Int(1), MOE),
    r("moe_top_k", I(0), Int(1), MOE),
    r("moe_router_type", Text, T("sinkhorn"), MOE),
    r("moe_lbl_in_fp32", B, Bool(false), MOE),
    r("moe_jitter_eps", F(Finite), Null, MOE),
];

pub(super) const DERIVED: &[Key] = &[
    d("padded_vocab_size", I(1), "the vocabulary, padded to make_vocab_size_divisible_by"),
    d("batch_size", I(1), "train_micro_batch_size_per_gpu"),
    d("clip_grad", F(NotNegative), "gradient_clipping"),
    d("lr", F(NotNegative), "optimizer.params.lr"),
    d("optimizer_type", Text, "optimizer.type"),
    d("zero_stage", I(0), "zero_optimization.stage"),
    w("zero_reduce_scatter", Any, Null, "one process communicates with nobody"),
    w("zero_contiguous_gradients", Any, Null, "gradients always lie in one arena"),
    w("zero_reduce_bucket_size", Any, Null, "one process communicates with nobody"),
    w("zero_allgather_bucket_size", Any, Null, "one process communicates with nobody"),
    w("dynamic_loss_scale", B, Null, "see fp16.loss_scale"),
];
