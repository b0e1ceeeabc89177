//! Steps: what they report, what they skip, what they leave alone.

use super::*;
use crate::cpu::parallel;
use crate::error::Error;
use crate::train::compute::Arena;
use crate::train::{FP16_SKIPS, Part, SKIPS};

#[test]
fn the_loss_falls_and_reports_add_up() {
    let dir = folder();
    let mut trainer = start(config(dir.path())).unwrap();
    let reports = train(&mut trainer, 12);
    let (first, last) = (&reports[0], &reports[11]);
    assert!((first.loss - (VOCAB as f64).ln()).abs() < 0.5, "{first:?}");
    assert!(last.loss < 0.9 * first.loss, "{} -> {}", first.loss, last.loss);
    assert_eq!((last.iteration, last.consumed_samples, last.consumed_tokens), (12, 48, 48 * TIME as u64));
    assert_eq!((first.learning_rate, reports[2].learning_rate), (5e-3, 1e-2));
    assert!(trainer.is_done());
    let again = trainer.step(Interrupt::NEVER).unwrap_err().to_string();
    assert!(again.contains("all 12 steps"), "{again}");
}

#[test]
fn micro_batches_change_the_sum_by_rounding_alone() {
    let dir = folder();
    let whole = RunConfig { micro_batch_size: 4, gradient_accumulation_steps: 1, ..config(dir.path()) };
    let (mut two, mut one) = (start(config(dir.path())).unwrap(), None);
    let halves = train(&mut two, 5);
    two.release();
    let wholes = train(one.insert(start(whole).unwrap()), 5);
    for (a, b) in halves.iter().zip(&wholes) {
        assert!((a.loss - b.loss).abs() < 1e-5 && (a.grad_norm - b.grad_norm).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    let dir = folder();
    for precision in [Precision::Fp32, Precision::Bf16] {
        let states: Vec<_> = [1, 2, 3]
            .into_iter()
            .map(|threads| {
                parallel::set_num_threads(threads);
                let mut trainer = start(RunConfig { precision, ..config(dir.path()) }).unwrap();
                train(&mut trainer, 4);
                state(&trainer)
            })
            .collect();
        assert!(states[0] == states[1] && states[1] == states[2], "{precision:?}");
    }
}

#[test]
fn an_interrupt_anywhere_leaves_the_state_as_before() {
    let dir = folder();
    let mut trainer = start(config(dir.path())).unwrap();
    train(&mut trainer, 1);
    let before = state(&trainer);
    let (mut stops, mut n) = (0, 0);
    loop {
        let looks = AtomicUsize::new(0);
        let stop = at_look(n, &looks);
        match trainer.step(Interrupt::new(&stop)) {
            Err(Error::Interrupted) => assert!(state(&trainer) == before, "after look {n}"),
            other => break assert_eq!(other.unwrap().iteration, 2),
        }
        (stops, n) = (stops + 1, n + 1);
    }
    assert!(stops > 10, "a step looks often: {stops}");
    let mut calm = start(RunConfig {
        checkpoint: CheckpointConfig { save: None, ..checkpoints(dir.path()) },
        ..config(dir.path())
    })
    .unwrap();
    train(&mut calm, 2);
    assert!(state(&trainer) == state(&calm));
}

fn change(trainer: &mut Trainer, which: Arena, change: impl Fn(&mut [f32])) {
    let mut all = |arena: &mut [f32]| {
        change(arena);
        Ok(())
    };
    trainer.compute.fill(which, &mut all).unwrap();
}

/// Sets one weight so that the loss overflows although each weight is finite.
fn poison(trainer: &mut Trainer, name: &str, value: f32) {
    let range = trainer.decoder().params().iter().find(|p| p.name == name).unwrap().range();
    change(trainer, Arena::Weights, |weights| weights[range.clone()].fill(value));
    trainer.compute.refresh().unwrap();
}

#[test]
fn steps_that_are_not_finite_are_skipped_counted_and_then_fatal() {
    let dir = folder();
    for precision in [Precision::Fp32, Precision::Bf16] {
        let mut trainer = start(RunConfig { precision, ..config(dir.path()) }).unwrap();
        poison(&mut trainer, "embed_out.weight", 1e38);
        let before = state(&trainer);
        for n in 1..SKIPS {
            let report = trainer.step(Interrupt::NEVER).unwrap();
            assert!(report.skipped && report.nan, "{report:?}");
            assert_eq!((report.iteration, report.skipped_total, report.nan_total), (n, n, n));
            assert!(report.note.unwrap().contains("the loss is"));
        }
        let now = state(&trainer);
        assert!(now.0 == before.0 && now.1 == before.1 && now.2 == before.2);
        assert_eq!((trainer.progress().schedule_steps, trainer.progress().optimizer_steps), (0, 0));
        let error = trainer.step(Interrupt::NEVER).unwrap_err();
        assert!(matches!(&error, Error::NonFinite(what) if what.contains("3 steps in a row")), "{error}");
        assert!(state(&trainer) == now, "the failed step left the state alone");
    }
}

#[test]
fn a_nan_weight_is_fatal_at_once_and_named() {
    let dir = folder();
    let mut trainer = start(config(dir.path())).unwrap();
    poison(&mut trainer, "gpt_neox.layers.1.attention.dense.bias", f32::NAN);
    let error = trainer.step(Interrupt::NEVER).unwrap_err().to_string();
    assert!(error.contains("weight `gpt_neox.layers.1.attention.dense.bias` holds NaN at element 0"), "{error}");
    assert_eq!(trainer.progress().iteration, 0);
}

#[test]
fn the_gradient_nearest_to_the_loss_is_named() {
    let dir = folder();
    let mut trainer = start(config(dir.path())).unwrap();
    let params = trainer.decoder().params();
    let name = params[5].name.clone();
    let places = [params[2].offset, params[5].offset + 3];
    for place in places {
        change(&mut trainer, Arena::Gradients, |grads| grads[place] = f32::INFINITY);
    }
    let what = crate::train::non_finite::in_gradients(&trainer.decoder, &*trainer.compute).unwrap().unwrap();
    assert_eq!(what, format!("the gradient of `{name}` holds inf at element 3 (and of 1 tensors before it)"));
}

#[test]
fn fp16_lowers_its_scale_and_recovers() {
    let dir = folder();
    let scaler = ScalerConfig { initial_scale_power: 20, ..config(dir.path()).scaler };
    let mut trainer = start(RunConfig { precision: Precision::Fp16, scaler, ..config(dir.path()) }).unwrap();
    let reports = train(&mut trainer, 12);
    let skipped = reports.iter().take_while(|r| r.skipped).count();
    assert!((1..FP16_SKIPS).contains(&skipped) && skipped < 12, "{skipped} skipped");
    let scales: Vec<f64> = reports.iter().map(|r| r.loss_scale.unwrap()).collect();
    assert_eq!(scales[..=skipped], (0..=skipped).map(|k| 2f64.powi(20 - k as i32)).collect::<Vec<_>>());
    let first_good = &reports[skipped];
    assert_eq!(first_good.learning_rate, 5e-3, "skipped steps do not move the schedule");
    assert!(first_good.loss.is_finite() && first_good.grad_norm < 100.0, "{first_good:?}");
    assert!(reports[0].note.as_ref().unwrap().contains("gradient of `"), "{:?}", reports[0].note);
}

#[test]
fn a_bad_token_is_named_and_the_step_undone() {
    let dir = folder();
    let mut run = config(dir.path());
    run.data.as_mut().unwrap().vocab_size = 3;
    let mut trainer = start(run).unwrap();
    let before = state(&trainer);
    let error = trainer.step(Interrupt::NEVER).unwrap_err();
    assert!(matches!(error, Error::CorruptDataset { .. }), "{error}");
    assert!(state(&trainer) == before);
}

#[test]
fn evaluations_walk_through_the_validation_data() {
    let dir = folder();
    let mut trainer = start(config(dir.path())).unwrap();
    assert!(!trainer.should_evaluate());
    train(&mut trainer, 4);
    assert!(trainer.should_evaluate());
    let before = state(&trainer);
    let first = trainer.evaluate(Part::Valid, Interrupt::NEVER).unwrap();
    assert_eq!((first.targets, first.perplexity), (4 * TIME, first.loss.exp()));
    assert_eq!(trainer.evaluate(Part::Valid, Interrupt::NEVER).unwrap().loss, first.loss);
    assert!(state(&trainer) == before);
    trainer.progress.iteration = 8; // the next stretch, with the same weights
    assert!(trainer.evaluate(Part::Valid, Interrupt::NEVER).unwrap().loss != first.loss);
    assert!(trainer.evaluate(Part::Test, Interrupt::NEVER).unwrap().loss.is_finite());
}

#[test]
fn epochs_become_steps() {
    let dir = folder();
    let mut run = RunConfig { train_iters: None, train_epochs: Some(2), ..config(dir.path()) };
    run.schedule.decay_iters = 0;
    run.schedule_fractions = ScheduleFractions { warmup: Some(0.1), decay: Some(1.0) };
    run.data.as_mut().unwrap().samples[0] = None;
    let trainer = start(run).unwrap();
    let samples = trainer.data.train.len();
    assert_eq!(trainer.train_iters(), samples * 2 / 4);
    assert_eq!(trainer.schedule.config().decay_iters, trainer.train_iters());
}
