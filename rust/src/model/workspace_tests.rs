use super::*;
use crate::model::{Activation, Bias};
use half::bf16;

fn config(layers: usize, parallel: bool, gated: bool, norm: Norm) -> ModelConfig {
    ModelConfig {
        num_layers: layers,
        hidden_size: 12,
        num_attention_heads: 3,
        num_kv_heads: 1,
        head_dim: 4,
        ffn_hidden_size: 20,
        vocab_size: 7,
        max_position_embeddings: 9,
        norm,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        gated,
        position: Position::None,
        parallel_residual: parallel,
        bias: Bias { norm: true, attention: true, mlp: true },
        tie_word_embeddings: false,
        sliding_window: None,
    }
}

fn allocated<T: Element>(ws: &Workspace<T>) -> usize {
    let stats = |s: &Stats<Cpu>| s.mean.len() + s.rstd.len();
    let Buffers { streams, slots, scratch, final_stats, .. } = &ws.buffers;
    let mut elements = streams.iter().map(Vec::len).sum::<usize>();
    elements += slots.iter().map(|s| s.qkv.len() + s.attended.len() + s.middle.len() + s.up.len()).sum::<usize>();
    let Scratch { normed, branch, spare, gradient, hidden } = scratch;
    elements += [normed, branch, spare, gradient, hidden].map(Vec::len).iter().sum::<usize>();
    let mut floats = ws.losses.len() + stats(final_stats);
    floats += slots.iter().map(|s| stats(&s.attention_stats) + stats(&s.mlp_stats) + s.lse.len()).sum::<usize>();
    elements * size_of::<T>() + floats * 4
}

#[test]
fn bytes_are_what_is_allocated() {
    for (parallel, gated, norm) in
        [(false, false, Norm::LayerNorm), (true, true, Norm::RmsNorm), (true, false, Norm::LayerNorm)]
    {
        for keep in [Keep::Nothing, Keep::Blocks(1), Keep::Blocks(2), Keep::Blocks(5), Keep::Blocks(99)] {
            let config = config(5, parallel, gated, norm);
            let sizes = Sizes::new(&config, 2, 7, keep).unwrap();
            let ws = Workspace::<bf16>::allocate(&Cpu, &config, sizes).unwrap();
            assert_eq!(ws.bytes(), allocated(&ws), "{parallel} {gated} {keep:?}");
            let ws = Workspace::<f32>::allocate(&Cpu, &config, sizes).unwrap();
            assert_eq!(ws.bytes(), allocated(&ws));
        }
    }
}

#[test]
fn streams_of_a_block_never_share_a_buffer_with_a_border() {
    for layers in 1..8 {
        for block in 1..9 {
            let sizes = Sizes::new(&config(layers, false, false, Norm::RmsNorm), 1, 1, Keep::Blocks(block)).unwrap();
            let block = sizes.block();
            let border = |i: &usize| i.is_multiple_of(block) || *i == layers;
            let mut borders: Vec<_> = (0..=layers).filter(border).map(|i| sizes.stream(i)).collect();
            let inside: Vec<_> = (0..layers).filter(|i| !border(i)).map(|i| sizes.stream(i)).collect();
            assert!(inside.iter().all(|s| !borders.contains(s) && *s < sizes.num_streams()));
            assert!(borders.iter().all(|s| *s < sizes.num_streams()));
            let count = borders.len();
            borders.dedup();
            assert_eq!(count, borders.len());
            let window: Vec<_> = (1..block.min(layers)).map(|i| sizes.stream(i)).collect();
            assert!((1..window.len()).all(|i| !window[..i].contains(&window[i])));
        }
    }
}

#[test]
fn recomputation_saves_memory() {
    let config = config(12, false, false, Norm::LayerNorm);
    let bytes = |n| Sizes::new(&config, 2, 8, Keep::Blocks(n)).unwrap().bytes(DType::F32);
    assert!(bytes(1) < bytes(3) && bytes(3) < bytes(12) / 2);
    assert_eq!(bytes(12), bytes(100));
}

#[test]
fn impossible_shapes_are_refused() {
    let config = config(1, false, false, Norm::LayerNorm);
    let error = |b, t, keep| Sizes::new(&config, b, t, keep).unwrap_err().to_string();
    assert!(error(0, 3, Keep::Nothing).contains("empty"));
    assert!(error(1, 10, Keep::Nothing).contains("max_position_embeddings"));
    assert!(error(1, 3, Keep::Blocks(0)).contains("checkpoint_num_layers"));
}
