//! When a run saves, and how.

use std::path::PathBuf;

use super::begin::schedule_record;
use super::checkpoint::{self, Arenas, Manifest, RngRecord};
use super::config::{CheckpointConfig, CheckpointEvery};
use super::trainer::Trainer;
use crate::dtype::DType;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::model::hf::{ExportOptions, TokenIds};

/// Whether the run saves after `iteration` steps by its intervals (0: before the first step).
pub fn is_save_iter(config: &CheckpointConfig, iteration: usize) -> bool {
    if is_extra(config, iteration) {
        return true;
    }
    match config.every {
        CheckpointEvery::Never => false,
        CheckpointEvery::Steps(every) => iteration > 0 && every > 0 && iteration.is_multiple_of(every),
        CheckpointEvery::Log(factor) => is_power(factor, iteration),
    }
}

fn is_extra(config: &CheckpointConfig, iteration: usize) -> bool {
    config.extra_save_iters.contains(&iteration)
}

/// Whether `n` is int(factor^k) for some k >= 0.
fn is_power(factor: f64, n: usize) -> bool {
    let powers = (0..).map(|k| factor.powi(k)).take_while(|power| *power < n as f64 + 1.0);
    factor > 1.0 && powers.last().is_some_and(|power| power as usize == n)
}

impl Trainer {
    /// Whether a checkpoint is due now.
    pub fn should_save(&self) -> bool {
        self.store.is_some() && is_save_iter(&self.run.checkpoint, self.progress.iteration)
    }

    /// The checkpoint that equals the present state, if it is saved.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        let store = self.store.as_ref().filter(|_| self.saved == Some(self.progress.iteration))?;
        Some(checkpoint::folder(store.dir(), self.progress.iteration))
    }

    /// Writes a checkpoint of the present state and removes old ones (`keep_last_n_checkpoints`;
    /// `extra_save_iters` stay). `None` without a `save` folder. Does nothing when the state is
    /// saved already.
    ///
    /// # Errors
    /// `Io`, naming the file; `Interrupted`. Older checkpoints are then whole, and training can go on.
    pub fn save(&mut self, interrupt: Interrupt) -> Result<Option<PathBuf>> {
        let Some(store) = &self.store else { return Ok(None) };
        let iteration = self.progress.iteration;
        if let Some(path) = self.checkpoint() {
            return Ok(Some(path));
        }
        let weights = self.model_weights()?;
        let moments = if self.run.checkpoint.no_save_optim { None } else { Some(self.moments()?) };
        let moments = moments.as_ref().map(|[m, v]| [&**m, &**v]);
        let arenas = Arenas { weights: &weights, moments };
        let (mut manifest, export) = (self.manifest(), self.export_options());
        let path = store.save(iteration, |folder| {
            checkpoint::write(folder, &self.decoder, arenas, &export, &mut manifest, interrupt)
        })?;
        self.prune()?;
        self.saved = Some(iteration);
        Ok(Some(path))
    }

    /// Removes old checkpoints.
    pub(super) fn prune(&self) -> Result<()> {
        if let (Some(store), Some(keep)) = (&self.store, self.run.checkpoint.keep_last_n) {
            store.prune(keep, |n| is_extra(&self.run.checkpoint, n))?;
        }
        Ok(())
    }

    /// Lets another run write to the `save` folder; this one saves no more.
    pub fn release(&mut self) {
        self.store = None;
    }

    fn manifest(&self) -> Manifest {
        let rng = RngRecord {
            seed: self.run.seed,
            initialization: "counter-based, addressed by seed, tensor and element".into(),
            data_order: "MT19937 of the seed; the next step begins with sample `consumed_samples`".into(),
        };
        let (scaler, data) = (self.scaler.map(|scaler| scaler.state()), self.data_record());
        let schedule = schedule_record(self.schedule.config());
        Manifest::new(self.progress, schedule, scaler, data, rng, self.resolved.clone())
    }

    fn export_options(&self) -> ExportOptions {
        let eod = self.run.data.as_ref().and_then(|data| data.eod);
        let eos = eod.and_then(|id| i32::try_from(id).ok()).into_iter().collect();
        ExportOptions {
            dtype: DType::F32,
            max_shard_bytes: usize::MAX,
            token_ids: TokenIds { eos, ..TokenIds::default() },
            ..ExportOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(every: CheckpointEvery) -> CheckpointConfig {
        CheckpointConfig {
            save: None,
            load: None,
            every,
            extra_save_iters: vec![0, 7],
            keep_last_n: None,
            no_save_optim: false,
            no_load_optim: false,
            finetune: false,
            iteration: None,
            override_lr_scheduler: false,
            use_checkpoint_lr_scheduler: false,
        }
    }

    fn saves(every: CheckpointEvery, until: usize) -> Vec<usize> {
        let config = config(every);
        (0..=until).filter(|n| is_save_iter(&config, *n)).collect()
    }

    #[test]
    fn linear_log_and_extra_saves() {
        assert_eq!(saves(CheckpointEvery::Never, 20), [0, 7]);
        assert_eq!(saves(CheckpointEvery::Steps(5), 20), [0, 5, 7, 10, 15, 20]);
        assert_eq!(saves(CheckpointEvery::Log(2.0), 40), [0, 1, 2, 4, 7, 8, 16, 32]);
        assert_eq!(saves(CheckpointEvery::Log(1.5), 12), [0, 1, 2, 3, 5, 7, 11]);
    }
}
