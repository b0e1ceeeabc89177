//! Logging, metrics, profiling; generation and evaluation.

use super::Default::{Bool, Float, Int, Null, Text as T};
use super::Kind::{Any, Bool as B, Choice, Dict, Float as F, Int as I, List, Text};
use super::Range::{NotNegative, Positive, Share};
use super::{Key, e, r, w};

#[rustfmt::skip] // a table: one key a line
pub(super) const LOGGING: &[Key] = &[
    e("log_interval", I(1), Int(100), "steps between lines of the log"),
    e("log_dir", Text, Null, "folder of the log and of metrics.jsonl"),
    e("tensorboard_dir", Text, Null, "folder of TensorBoard events; null: none"),
    e("use_wandb", B, Null, "null: on where an API key is found"),
    e("wandb_project", Text, T("neox"), "W&B project"),
    e("wandb_group", Text, Null, "W&B group"),
    e("wandb_run_name", Text, Null, "W&B run name"),
    e("wandb_team", Text, Null, "W&B entity"),
    e("wandb_host", Text, T("https://api.wandb.ai"), "W&B server"),
    e("peak_theoretical_tflops", F(Positive), Null, "of the device; switches utilisation figures on"),
    e("log_grad_norm", B, Bool(false), "the global norm is always logged"),
    w("wandb_init_all_ranks", B, Bool(false), "there is one process"),
    w("log_param_norm", B, Bool(false), "not logged"),
    w("log_grad_pct_zeros", B, Bool(false), "not logged"),
    w("log_optimizer_states", B, Bool(false), "not logged"),
    w("log_gradient_noise_scale", B, Bool(false), "not logged"),
    w("gradient_noise_scale_n_batches", I(0), Int(5), "not logged"),
    w("gradient_noise_scale_cpu_offload", B, Bool(false), "not logged"),
    w("git_hash", Text, Null, "the manifest holds the version"),
    w("use_comet", B, Null, "Comet is not supported; metrics.jsonl, TensorBoard and W&B are"),
    w("comet_workspace", Text, Null, "Comet is not supported"),
    w("comet_project", Text, Null, "Comet is not supported"),
    w("comet_experiment_name", Text, Null, "Comet is not supported"),
    w("comet_tags", List, Null, "Comet is not supported"),
    w("comet_others", Dict, Null, "Comet is not supported"),
    w("comet_experiment", Any, Null, "Comet is not supported"),
    w("memory_profiling", B, Bool(false), "no such profile"),
    w("memory_profiling_path", Text, Null, "no such profile"),
    w("profile", B, Bool(false), "no such profile"),
    w("profile_step_start", I(0), Int(10), "no such profile"),
    w("profile_step_stop", I(0), Int(12), "no such profile"),
    w("flops_profiler", Dict, Null, "DeepSpeed's; see llmjp-core plan"),
    w("comms_logger", Dict, Null, "DeepSpeed's"),
    w("csv_monitor", Dict, Null, "DeepSpeed's; see metrics.jsonl"),
    w("tensorboard", Dict, Null, "DeepSpeed's; see tensorboard_dir"),
    w("wandb", Dict, Null, "DeepSpeed's; see use_wandb"),
    w("steps_per_print", I(0), Int(10), "DeepSpeed's; see log_interval"),
    w("wall_clock_breakdown", B, Bool(false), "DeepSpeed's"),
    w("dump_state", B, Bool(false), "DeepSpeed's"),
];

#[rustfmt::skip] // a table: one key a line
pub(super) const GENERATION: &[Key] = &[
    e(
        "text_gen_type",
        Choice(&["unconditional", "input-file", "interactive"], &["precompute"]),
        Null,
        "null: input-file with sample_input_file, else unconditional",
    ),
    e("sample_input_file", Text, Null, "one prompt a line"),
    e("sample_output_file", Text, T("samples.txt"), "JSON lines"),
    e("num_samples", I(1), Int(1), "of text_gen_type unconditional"),
    e("maximum_tokens", I(1), Int(64), "longest continuation"),
    e("temperature", F(NotNegative), Float(0.0), "0: greedy"),
    e("top_p", F(Share), Float(0.0), "0: off"),
    e("top_k", I(0), Int(0), "0: off"),
    e("prompt_end", Text, T("\n"), "ends a prompt of text_gen_type interactive"),
    w("recompute", B, Bool(false), "keys and values are always cached"),
    w("return_logits", B, Bool(false), "not written; see Model.logits"),
    w("eval_tasks", List, Null, "no task harness is called"),
    w("eval_results_prefix", Text, T(""), "no task harness is called"),
    w("char_level_ppl", B, Bool(false), "see bits per character of the evaluation"),
    r("precompute_model_name", Text, Null, "precomputing logits is not supported"),
];
