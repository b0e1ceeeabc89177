//! Building a trainer: data, model, and the place where the run begins.

use std::path::Path;

use serde_json::Value;

use super::batch::Batch;
use super::checkpoint::{
    self, DataRecord, Manifest, Progress, Resume, ScheduleRecord, Start, Store, choose_schedule, compare, find,
};
use super::compute::{Arena, PassShape, compute};
use super::config::{DecayStyle, Precision, RunConfig, ScheduleConfig, ScheduleFlavor};
use super::scaler::LossScaler;
use super::schedule::Schedule;
use super::trainer::{Trainer, batch_shape};
use crate::data::{self, Parts};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::{Decoder, hf};

impl Trainer {
    /// Opens the data, builds the model, and goes on from a checkpoint where there is one.
    ///
    /// # Errors
    /// `Config` for a run without data or with contradictions; errors of data and checkpoints, which
    /// name the file; `Interrupted`.
    pub fn new(mut run: RunConfig, resolved: Value, resume: Resume, interrupt: Interrupt) -> Result<Self> {
        let store = run.checkpoint.save.as_deref().map(Store::open).transpose()?;
        let mut notes = Vec::new();
        let start = find(&run.checkpoint, resume, &mut notes)?;
        let data = open_data(&run)?;
        notes.extend(data.warnings.iter().cloned());
        let train_iters = fix_train_iters(&mut run, &data)?;
        let decoder = Decoder::new(run.model.clone())?;
        let scaler = match run.precision {
            Precision::Fp16 => Some(LossScaler::new(run.scaler)?),
            Precision::Fp32 | Precision::Bf16 => None,
        };
        let shape =
            PassShape { batch: run.micro_batch_size, time: run.seq_length, recompute_layers: run.recompute_layers };
        let mut trainer = Self {
            grad_scale: 1.0,
            compute: compute(run.device, &decoder, run.precision, run.optimizer, shape)?,
            batch: Batch::new(batch_shape(&run)),
            schedule: Schedule::new(run.schedule)?,
            scaler,
            progress: Progress::default(),
            failures: 0,
            saved: None,
            run,
            resolved,
            decoder,
            data,
            train_iters,
            store,
            notes,
        };
        trainer.begin(&start, interrupt)?;
        trainer.compute.refresh()?;
        Ok(trainer)
    }

    fn begin(&mut self, start: &Start, interrupt: Interrupt) -> Result<()> {
        match start {
            Start::Fresh => {
                let (decoder, run) = (&self.decoder, &self.run);
                let seed = u64::from(run.seed);
                self.compute.fill(Arena::Weights, &mut |weights| decoder.initialize(weights, &run.init, seed))
            }
            Start::Continue { dir, iteration } => self.go_on(dir, *iteration, interrupt),
            Start::Finetune { dir, iteration } => {
                checkpoint::verify_newest(dir, *iteration, interrupt)?;
                let folder = checkpoint::folder(dir, *iteration);
                self.notes.push(format!("step 0 with the weights of {}", folder.display()));
                self.read_weights(&folder)
            }
            Start::Weights(dir) => self.import(dir),
        }
    }

    fn go_on(&mut self, dir: &Path, iteration: usize, interrupt: Interrupt) -> Result<()> {
        let folder = checkpoint::folder(dir, iteration);
        let manifest = checkpoint::verify_newest(dir, iteration, interrupt)?;
        let data = self.data_record();
        compare(&folder, &manifest, &self.resolved, &data)?;
        self.note_new_order(&manifest, &data);
        let now = schedule_record(self.schedule.config());
        if let Some(before) = choose_schedule(&folder, &self.run.checkpoint, &manifest.schedule, &now)? {
            self.schedule = Schedule::new(schedule_config(&folder, &before)?)?;
        }
        self.read_weights(&folder)?;
        self.progress = manifest.progress;
        if self.run.checkpoint.no_load_optim {
            self.progress.optimizer_steps = 0;
        } else {
            for (which, arena) in [Arena::First, Arena::Second].into_iter().enumerate() {
                let decoder = &self.decoder;
                self.compute.fill(arena, &mut |m| checkpoint::read_moment(&folder, decoder, which, m))?;
            }
            if let (Some(scaler), Some(state)) = (&mut self.scaler, manifest.loss_scaler) {
                scaler.restore(state);
            }
            self.saved = self.store.as_ref().filter(|store| store.dir() == dir).map(|_| iteration);
            // A run that was killed between a save and the removal of old ones.
            if self.saved.is_some() && self.saved == checkpoint::latest(dir)? {
                self.prune()?;
            }
        }
        self.notes.push(format!("going on from {}", folder.display()));
        Ok(())
    }

    fn read_weights(&mut self, folder: &Path) -> Result<()> {
        let decoder = &self.decoder;
        self.compute.fill(Arena::Weights, &mut |weights| checkpoint::read_weights(folder, decoder, weights))
    }

    fn note_new_order(&mut self, manifest: &Manifest, data: &DataRecord) {
        if manifest.data.samples != data.samples {
            self.notes.push(format!(
                "the training data now repeats after {} samples ({} before), as another number of steps needs another \
                 number of passes, which are shuffled as one: from here on samples come in another order",
                data.samples, manifest.data.samples
            ));
        }
    }

    fn import(&mut self, dir: &Path) -> Result<()> {
        let (decoder, weights) = hf::import(dir)?;
        if decoder.config() != self.decoder.config() {
            return Err(Error::UnsupportedModel(format!(
                "{}: holds another model than the run describes: {:?} there, {:?} here",
                dir.display(),
                decoder.config(),
                self.decoder.config()
            )));
        }
        self.compute.fill(Arena::Weights, &mut |to| {
            to.copy_from_slice(&weights);
            Ok(())
        })?;
        self.notes.push(format!("step 0 with the weights of {}", dir.display()));
        Ok(())
    }

    pub(super) fn data_record(&self) -> DataRecord {
        DataRecord { fingerprint: self.data.fingerprint.clone(), samples: self.data.train.len() }
    }
}

fn open_data(run: &RunConfig) -> Result<Parts> {
    let what = "this run names no data: give `data_path`, or `train_data_paths`, `valid_data_paths` and \
                `test_data_paths`";
    let config = run.data.as_ref().ok_or_else(|| Error::Config(what.into()))?;
    data::build(config)
}

/// Steps of the run; with `train_epochs`, as many whole steps as its passes over the data hold.
fn fix_train_iters(run: &mut RunConfig, data: &Parts) -> Result<usize> {
    if run.train_iters.is_none() {
        let epochs = run.train_epochs.unwrap_or(0);
        let iters = data.train.len() * epochs / run.train_batch_size;
        if iters == 0 {
            return Err(Error::Config(format!(
                "train_epochs {epochs}: {} samples do not fill one batch of {}",
                data.train.len(),
                run.train_batch_size
            )));
        }
        run.set_train_iters(iters);
    }
    run.train_iters.ok_or_else(|| Error::Config("give train_iters or train_epochs".into()))
}

pub(super) fn schedule_record(config: &ScheduleConfig) -> ScheduleRecord {
    ScheduleRecord {
        flavor: config.flavor.name().into(),
        decay_style: config.style.name().into(),
        start_lr: config.lr,
        min_lr: config.min_lr,
        warmup_iter: config.warmup_iters,
        end_iter: config.decay_iters,
        wsd_decay_iters: config.wsd_decay_iters,
    }
}

fn schedule_config(folder: &Path, record: &ScheduleRecord) -> Result<ScheduleConfig> {
    let unknown = |name: &str| {
        let what = format!("its manifest names the unknown schedule `{name}`");
        Error::Checkpoint { path: folder.to_owned(), what }
    };
    Ok(ScheduleConfig {
        flavor: ScheduleFlavor::from_name(&record.flavor).ok_or_else(|| unknown(&record.flavor))?,
        style: DecayStyle::from_name(&record.decay_style).ok_or_else(|| unknown(&record.decay_style))?,
        lr: record.start_lr,
        min_lr: record.min_lr,
        warmup_iters: record.warmup_iter,
        decay_iters: record.end_iter,
        wsd_decay_iters: record.wsd_decay_iters,
    })
}
