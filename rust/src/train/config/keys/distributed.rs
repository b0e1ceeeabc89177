//! Several processes, launchers, DeepSpeed's own switches.

use super::Default::{Bool, Int, Null, Text as T};
use super::Kind::{Any, Bool as B, Dict, Int as I, Text};
use super::{Key, m, r, w};

#[rustfmt::skip] // a table: one key a line
pub(super) const KEYS: &[Key] = &[
    m("pipe_parallel_size", I(0), Int(0), "pipeline stages"),
    m("model_parallel_size", I(0), Int(1), "tensor-parallel ranks"),
    m("num_nodes", I(-1), Int(-1), "machines"),
    m("num_gpus", I(0), Null, "devices of a machine"),
    m("global_num_gpus", I(0), Null, "devices of the run"),
    m("world_size", I(0), Null, "processes of the run"),
    w("sequence_parallel", B, Bool(false), "one process splits nothing"),
    w("pipe_partition_method", Text, T("type:transformer|mlp"), "one process splits nothing"),
    w("is_pipe_parallel", B, Bool(false), "one process splits nothing"),
    w("rank", I(0), Null, "there is one process"),
    w("local_rank", I(0), Null, "there is one process"),
    w("distributed_backend", Text, T("nccl"), "there is one process"),
    w("hostfile", Text, Null, "there is one process"),
    w("include", Text, Null, "there is one process"),
    w("exclude", Text, Null, "there is one process"),
    w("master_port", I(0), Int(29500), "there is one process"),
    w("master_addr", Text, Null, "there is one process"),
    w("launcher", Text, T("pdsh"), "there is one process"),
    w("force_multi", B, Bool(false), "there is one process"),
    w("no_ssh_check", B, Bool(false), "there is one process"),
    w("comment", Text, Null, "of Slurm's launcher"),
    w("account", Text, Null, "of Slurm's launcher"),
    w("deepspeed_mpi", B, Bool(false), "there is one process"),
    w("deepspeed_slurm", B, Bool(false), "there is one process"),
    w("user_script", Text, Null, "of GPT-NeoX's launcher"),
    w("config_files", Dict, Null, "GPT-NeoX's copy of the files"),
    r("deepspeed", B, Bool(true), "GPT-NeoX refuses false itself; leave it out"),
    w("deepspeed_extra_args", Dict, Null, "DeepSpeed is not used; only keys without effect may stand in it"),
    w("autotuning", Dict, Null, "DeepSpeed's"),
    w("autotuning_run", Text, Null, "DeepSpeed's"),
    w("elasticity", Dict, Null, "DeepSpeed's"),
    w("checkpoint", Any, Null, "DeepSpeed's; see save"),
];
