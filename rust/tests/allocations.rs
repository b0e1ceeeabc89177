//! After the first step, training takes no memory: buffers are planned, and kernels keep their scratch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use llmjp_core::dtype::{Element, bf16};
use llmjp_core::interrupt::Interrupt;
use llmjp_core::model::{Activation, Bias, Decoder, Init, InitMethod, ModelConfig, Norm, Position};
use llmjp_core::ops::backend::Cpu;
use llmjp_core::ops::linear_cross_entropy::LossOptions;
use llmjp_core::ops::{cast, grad_norm};
use llmjp_core::train::config::OptimizerConfig;
use llmjp_core::train::optimizer::{Optimizer, Update};

/// Remembers the largest block that was asked for.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: `System` does the work; the counter is an atomic, which takes no memory.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// A kilobyte: what the libraries in between need for a moment, of whatever size the model is.
const SMALL: usize = 1 << 10;

fn decoder(gated: bool) -> Decoder {
    Decoder::new(ModelConfig {
        num_layers: 3,
        hidden_size: 64,
        num_attention_heads: 4,
        num_kv_heads: if gated { 2 } else { 4 },
        head_dim: 16,
        ffn_hidden_size: 176,
        vocab_size: 1031,
        max_position_embeddings: 128,
        norm: if gated { Norm::RmsNorm } else { Norm::LayerNorm },
        norm_eps: 1e-5,
        activation: if gated { Activation::Silu } else { Activation::Gelu },
        gated,
        position: Position::Rotary { ndims: 16, base: 1e4 },
        sliding_window: None,
        parallel_residual: !gated,
        bias: Bias { norm: !gated, attention: !gated, mlp: !gated },
        tie_word_embeddings: gated,
    })
    .unwrap()
}

/// The largest block that each of four steps asks for.
fn largest_of_each_step<T: Element>(decoder: &Decoder, recompute: Option<usize>) -> Vec<usize> {
    let (batch, time, options) = (2, 128, LossOptions::default());
    let mut masters = vec![0.0; decoder.num_params()];
    let normal = InitMethod::Normal { std: 0.02 };
    decoder.initialize(&mut masters, &Init { method: normal, output_method: normal }, 0).unwrap();
    let mut weights = vec![T::default(); masters.len()];
    let mut grads = vec![0.0; masters.len()];
    let mut workspace = decoder.workspace::<T>(batch, time, recompute).unwrap();
    let config = OptimizerConfig { lr: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1, gradient_clipping: 1.0 };
    let mut optimizer = Optimizer::new(&Cpu, config, decoder.params()).unwrap();
    let ids: Vec<i32> = (0..(batch * time) as i32).map(|i| i * i % 1031).collect();
    let step = |step| {
        LARGEST.store(0, Ordering::Relaxed);
        cast::from_f32(&mut weights, &masters).unwrap();
        grads.fill(0.0);
        let never = Interrupt::NEVER;
        decoder
            .forward_backward(&weights[..], &mut grads[..], &mut workspace, &ids, &ids, 1.0, &options, never)
            .unwrap();
        let norm = grad_norm::sum_of_squares(&grads).sqrt();
        let update = Update { learning_rate: 1e-3, step };
        optimizer.step(&Cpu, &mut masters[..], Some(&mut weights[..]), &grads[..], &(1.0 / norm), update).unwrap();
        LARGEST.load(Ordering::Relaxed)
    };
    (1..=4).map(step).collect()
}

#[test]
fn training_takes_no_memory_after_the_first_step() {
    std::hint::black_box(vec![0u8; 2 * SMALL]);
    assert!(LARGEST.load(Ordering::Relaxed) >= 2 * SMALL, "a buffer is seen");
    // One thread: with more, one that sleeps through a step may take its scratch in a later one.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (gated, recompute) in [(true, None), (false, None), (false, Some(1))] {
        let decoder = decoder(gated);
        let f32s = pool.install(|| largest_of_each_step::<f32>(&decoder, recompute));
        let bf16s = pool.install(|| largest_of_each_step::<bf16>(&decoder, recompute));
        for sizes in [f32s, bf16s] {
            assert!(sizes[1..].iter().all(|size| *size <= SMALL), "gated {gated}, {recompute:?}: {sizes:?} bytes");
        }
    }
}
