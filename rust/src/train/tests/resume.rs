//! N + M steps equal N steps, a checkpoint, and M steps; and every rule of where a run begins.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::error::Error;
use crate::train::checkpoint::{Manifest, latest, list, verify};

/// Trains to the end, saving when due.
fn finish(trainer: &mut Trainer) -> Vec<StepReport> {
    let mut reports = Vec::new();
    while !trainer.is_done() {
        reports.push(trainer.step(Interrupt::NEVER).unwrap());
        if trainer.should_save() {
            trainer.save(Interrupt::NEVER).unwrap();
        }
    }
    reports
}

fn losses(reports: &[StepReport]) -> Vec<u64> {
    reports.iter().map(|report| report.loss.to_bits()).collect()
}

fn error_of(run: RunConfig, resume: Resume) -> Error {
    let resolved = resolved(&run);
    match Trainer::new(run, resolved, resume, Interrupt::NEVER) {
        Ok(_) => panic!("this run must be refused"),
        Err(error) => error,
    }
}

fn text(run: RunConfig) -> String {
    error_of(run, Resume::Auto).to_string()
}

/// A folder in which the run has been trained to step `n` and saved there.
fn trained(n: usize) -> (tempfile::TempDir, RunConfig) {
    let dir = folder();
    let run = config(dir.path());
    let mut trainer = start(run.clone()).unwrap();
    for _ in 0..n {
        trainer.step(Interrupt::NEVER).unwrap();
        if trainer.should_save() {
            trainer.save(Interrupt::NEVER).unwrap();
        }
    }
    trainer.save(Interrupt::NEVER).unwrap();
    (dir, run)
}

#[test]
fn resuming_anywhere_gives_the_same_bits() {
    let scaler = ScalerConfig { initial_scale_power: 16, ..config(std::path::Path::new("")).scaler };
    for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
        let dir = folder();
        let alone = CheckpointConfig { save: None, ..checkpoints(dir.path()) };
        let base = RunConfig { precision, scaler, ..config(dir.path()) };
        let mut straight = start(RunConfig { checkpoint: alone, ..base.clone() }).unwrap();
        let want = losses(&finish(&mut straight));
        for cut in [0, 1, 5, 11] {
            let save = Some(dir.path().join(format!("{precision:?}{cut}")));
            let run = RunConfig { checkpoint: CheckpointConfig { save, ..checkpoints(dir.path()) }, ..base.clone() };
            let mut first = start(run.clone()).unwrap();
            let mut got = losses(&train(&mut first, cut));
            first.save(Interrupt::NEVER).unwrap();
            drop(first);
            let mut second = start(run).unwrap();
            got.extend(losses(&finish(&mut second)));
            assert_eq!(got, want, "{precision:?} cut after {cut}");
            assert!(state(&second) == state(&straight), "{precision:?} cut after {cut}");
        }
    }
}

#[test]
fn a_checkpoint_opens_as_a_model_and_verifies() {
    let (dir, run) = trained(5);
    let folder = dir.path().join("run/global_step5");
    let manifest = verify(&folder, Interrupt::NEVER).unwrap();
    assert_eq!((manifest.progress.iteration, manifest.progress.consumed_samples), (5, 20));
    assert_eq!(manifest.config, resolved(&run));
    let (decoder, weights) = crate::model::hf::import(&folder).unwrap();
    assert_eq!(*decoder.config(), run.model);
    let trainer = start(run).unwrap();
    assert_eq!(*trainer.model_weights().unwrap(), weights);
}

#[test]
fn a_model_that_no_class_holds_is_saved_too() {
    let dir = folder();
    let mut run = config(dir.path());
    run.model.position = Position::Learned;
    let mut trainer = start(run.clone()).unwrap();
    train(&mut trainer, 2);
    let path = trainer.save(Interrupt::NEVER).unwrap().unwrap();
    assert!(!path.join("config.json").exists());
    let before = state(&trainer);
    drop(trainer);
    assert!(state(&start(run).unwrap()) == before);
}

#[test]
fn damage_is_an_error_that_names_the_older_one() {
    for (file, damage) in [
        ("optimizer.safetensors", "flip"),
        ("model.safetensors", "cut"),
        ("config.json", "remove"),
        ("manifest.json", "flip"),
        ("manifest.json", "remove"),
        ("manifest.sha256", "remove"),
    ] {
        let (dir, run) = trained(7);
        let path = dir.path().join("run/global_step7").join(file);
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            "flip" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
            "cut" => fs::write(&path, &bytes[..bytes.len() - 3]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let error = error_of(run.clone(), Resume::Auto);
        assert!(matches!(error, Error::Checkpoint { .. }), "{file} {damage}: {error}");
        let what = error.to_string();
        assert!(what.contains("global_step7") && what.contains("global_step6 is the newest"), "{what}");
        assert!(what.contains("set `iteration: 6`"), "{what}");
        // And the advice works; the damaged one is replaced in passing.
        let checkpoint = CheckpointConfig { iteration: Some(6), ..run.checkpoint.clone() };
        let mut trainer = start(RunConfig { checkpoint, ..run.clone() }).unwrap();
        assert_eq!(trainer.progress().iteration, 6);
        train(&mut trainer, 1);
        trainer.save(Interrupt::NEVER).unwrap();
        drop(trainer);
        assert_eq!(start(run).unwrap().progress().iteration, 7);
    }
}

#[test]
fn what_does_not_belong_to_the_run_is_refused() {
    let (dir, run) = trained(3);
    let mut other = run.clone();
    other.model.num_layers = 3;
    assert!(text(other).contains("num_layers is 2 there, 3 here"));
    let mut other = run.clone();
    other.seed = 1;
    assert!(text(other).contains("seed is 1234 there, 1 here"));
    let mut other = run.clone();
    other.schedule.min_lr = 0.0;
    let what = text(other.clone());
    assert!(what.contains("min_lr is 0.001 there, 0.0 here") && what.contains("override_lr_scheduler"), "{what}");
    other.checkpoint.override_lr_scheduler = true;
    assert_eq!(start(other.clone()).unwrap().schedule.config().min_lr, 0.0);
    other.checkpoint.override_lr_scheduler = false;
    other.checkpoint.use_checkpoint_lr_scheduler = true;
    assert_eq!(start(other).unwrap().schedule.config().min_lr, 1e-3);
    write_data(&dir.path().join("data"), 6);
    assert!(text(run).contains("was trained on other data"));
}

#[test]
fn moments_may_be_left_out_or_left_behind() {
    let (_dir, run) = trained(3);
    let mut fresh = run.clone();
    fresh.checkpoint.no_load_optim = true;
    let trainer = start(fresh.clone()).unwrap();
    assert_eq!((trainer.progress().iteration, trainer.progress().schedule_steps), (3, 3));
    assert_eq!(trainer.progress().optimizer_steps, 0);
    assert!(trainer.moments().unwrap()[0].iter().all(|m| *m == 0.0));
    drop(trainer);
    let dir = folder();
    let mut run = config(dir.path());
    run.checkpoint.no_save_optim = true;
    let mut trainer = start(run.clone()).unwrap();
    train(&mut trainer, 1);
    let path = trainer.save(Interrupt::NEVER).unwrap().unwrap();
    assert!(!path.join("optimizer.safetensors").exists());
    drop(trainer);
    assert!(text(run.clone()).contains("no_load_optim"));
    run.checkpoint.no_load_optim = true;
    assert_eq!(start(run).unwrap().progress().iteration, 1);
}

#[test]
fn load_begins_elsewhere_and_save_goes_on() {
    let (dir, run) = trained(3);
    let mut tuned = run.clone();
    tuned.checkpoint.load = run.checkpoint.save.clone();
    tuned.checkpoint.save = Some(dir.path().join("tuned"));
    tuned.checkpoint.finetune = true;
    let before = state(&start(run.clone()).unwrap()).0;
    let mut trainer = start(tuned.clone()).unwrap();
    assert_eq!(trainer.progress().iteration, 0);
    assert!(state(&trainer).0 == before);
    train(&mut trainer, 2);
    trainer.save(Interrupt::NEVER).unwrap();
    drop(trainer);
    assert_eq!(start(tuned.clone()).unwrap().progress().iteration, 2, "its own checkpoint comes first");
    // Without finetune the steps go on.
    tuned.checkpoint.finetune = false;
    tuned.checkpoint.save = Some(dir.path().join("moved"));
    assert_eq!(start(tuned.clone()).unwrap().progress().iteration, 3);
    // A folder of transformers gives weights.
    tuned.checkpoint.load = Some(dir.path().join("run/global_step3"));
    let trainer = start(tuned.clone()).unwrap();
    assert_eq!(trainer.progress().iteration, 0);
    assert!(state(&trainer).0 == before);
    drop(trainer);
    tuned.checkpoint.load = tuned.checkpoint.save.clone();
    tuned.checkpoint.finetune = true;
    assert!(matches!(error_of(tuned, Resume::Auto), Error::Config(_)));
}

#[test]
fn missing_checkpoints() {
    let dir = folder();
    let run = config(dir.path());
    assert!(error_of(run.clone(), Resume::Must).to_string().contains("holds no checkpoint"));
    let with = |iteration, load: Option<PathBuf>| RunConfig {
        checkpoint: CheckpointConfig { iteration, load, ..run.checkpoint.clone() },
        ..run.clone()
    };
    assert!(text(with(Some(9), None)).contains("(there: none)"));
    let trainer = start(with(None, Some(dir.path().join("nowhere")))).unwrap();
    assert!(trainer.notes().iter().any(|note| note.contains("no checkpoint in")), "{:?}", trainer.notes());
    drop(trainer);
    let (_dir, run) = trained(3);
    assert!(error_of(run, Resume::Never).to_string().contains("holds checkpoints already"));
}

#[test]
fn pickles_are_refused_by_name() {
    let dir = folder();
    let old = dir.path().join("old/global_step10");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("mp_rank_00_model_states.pt"), b"\x80\x04.").unwrap();
    let mut run = config(dir.path());
    for load in [old.parent().unwrap().to_owned(), old.clone(), old.join("mp_rank_00_model_states.pt")] {
        run.checkpoint.load = Some(load);
        let error = error_of(run.clone(), Resume::Auto);
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        assert!(error.to_string().contains("mp_rank_00_model_states.pt: is a pickle"), "{error}");
    }
}

#[test]
fn old_checkpoints_go_and_extra_ones_stay() {
    let dir = folder();
    let mut run = config(dir.path());
    run.checkpoint.keep_last_n = Some(2);
    run.checkpoint.extra_save_iters = vec![0, 4];
    let save = run.checkpoint.save.clone().unwrap();
    let mut trainer = start(run).unwrap();
    assert!(trainer.should_save(), "step 0 is an extra one");
    trainer.save(Interrupt::NEVER).unwrap();
    finish(&mut trainer);
    assert_eq!((list(&save).unwrap(), latest(&save).unwrap()), (vec![0, 4, 9, 12], Some(12)));
}

#[test]
fn an_interrupted_or_failed_save_leaves_the_old_ones_and_the_run() {
    let (dir, run) = trained(3);
    let mut trainer = start(run).unwrap();
    train(&mut trainer, 1);
    let save = dir.path().join("run");
    let names = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(&save).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for n in 0..3 {
        let looks = AtomicUsize::new(0);
        let stop = at_look(n, &looks);
        assert!(matches!(trainer.save(Interrupt::new(&stop)), Err(Error::Interrupted)), "look {n}");
        assert_eq!(names(), before);
    }
    // A file where the folder should go: the system refuses.
    let blocked = crate::files::aside(&save.join("global_step4"));
    fs::write(&blocked, "").unwrap();
    assert!(matches!(trainer.save(Interrupt::NEVER), Err(Error::Io { .. })));
    let _ = fs::remove_file(&blocked);
    assert_eq!(latest(&save).unwrap(), Some(3));
    assert!(Manifest::read(&save.join("global_step3")).is_ok());
    train(&mut trainer, 1);
    assert_eq!(trainer.save(Interrupt::NEVER).unwrap(), Some(save.join("global_step5")));
}
