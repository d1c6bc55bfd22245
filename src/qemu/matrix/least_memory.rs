//! `liveiso test --min-ram`: the smallest machine that reaches the login.
//!
//! More RAM is taken never to hurt, so the answer is found by steps that double
//! and then by halves. A machine too small may hang instead of saying so: once
//! one has reached the login, the next may take four times as long.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Cell, TestOptions, cell};
use crate::interrupt;
use crate::qemu::media::Media;
use crate::qemu::subject::Subject;

/// Machines worth trying, MiB of RAM.
const SIZES: RangeInclusive<u32> = 16..=4096;
/// The least time a machine gets, however fast a larger one was.
const LEAST_TIME: Duration = Duration::from_secs(60);

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeastMemory {
    /// Firmware and medium in one word.
    pub name: String,
    /// The least RAM that reached the login, MiB.
    pub mib: u32,
    /// Sizes that were tried, in that order.
    pub tried: Vec<u32>,
}

/// Searches the least RAM for the first machine of the options, beginning near `guess` MiB;
/// `finished` hears of each boot.
///
/// # Errors
/// The host's failures, a machine the image is not made for, one that never reaches the login.
pub fn least_memory(
    image: &Path,
    options: &TestOptions,
    guess: u32,
    finished: &dyn Fn(&Cell),
) -> Result<LeastMemory> {
    let subject = Subject::open(image, &options.install_dir)?;
    let (Some(&firmware), Some(&medium)) = (options.firmwares.first(), options.media.first()) else {
        bail!("nothing to test: name a firmware and a medium");
    };
    let case = options.case(&subject, firmware, medium, *SIZES.end());
    let name = case.machine.name();
    if let Some(reason) = &case.obstacle {
        bail!("{name} cannot be tried: {reason}");
    }
    let media = Media::make(&subject, &[(firmware, medium)])?;
    let mut options = options.clone();
    let mut tried = Vec::new();
    let found = search(guess, |mib| {
        tried.push(mib);
        let mut case = case.clone();
        case.machine.memory_mib = mib;
        let cell = cell::boot(&case, media.path(medium), &subject.build_id, &options)
            .with_context(|| format!("testing {}", case.label()))?;
        interrupt::wait_if_interrupted();
        finished(&cell);
        if cell.login_seconds.is_some() {
            let enough = Duration::from_secs_f64(cell.seconds * 4.0).max(LEAST_TIME);
            options.time_limit = options.time_limit.min(enough);
        }
        Ok(cell.login_seconds.is_some())
    })?;
    match found {
        Some(mib) => Ok(LeastMemory { name, mib, tried }),
        None => {
            bail!("{name} reaches no login with {} MiB either; test it without --min-ram first", SIZES.end())
        }
    }
}

/// The least size for which `suffices` is true; it is asked of each size once at most.
fn search(guess: u32, mut suffices: impl FnMut(u32) -> Result<bool>) -> Result<Option<u32>> {
    let mut size = guess.clamp(*SIZES.start(), *SIZES.end());
    // Known to be too small, known to be enough.
    let (mut small, mut enough) = (*SIZES.start() - 1, *SIZES.end() + 1);
    let mut step = 2;
    loop {
        if suffices(size)? {
            enough = size
        } else {
            small = size
        }
        if enough - small <= 1 {
            return Ok(SIZES.contains(&enough).then_some(enough));
        }
        let open_below = small < *SIZES.start();
        let open_above = enough > *SIZES.end();
        size = match (open_below, open_above) {
            (true, false) => enough.saturating_sub(step).max(small + 1),
            (false, true) => small.saturating_add(step).min(enough - 1),
            _ => small + (enough - small) / 2,
        };
        step *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_least_size_is_found_with_few_questions() {
        for least in 10..=4100 {
            for guess in [0, 16, 46, 128, 5000] {
                let mut asked = Vec::new();
                let found = search(guess, |mib| {
                    assert!(SIZES.contains(&mib) && !asked.contains(&mib), "{mib} after {asked:?}");
                    asked.push(mib);
                    Ok(mib >= least)
                });
                let expected = (least <= 4096).then_some(least.max(16));
                assert_eq!(found.unwrap(), expected, "{least} from {guess}");
                let far = least.abs_diff(guess.clamp(16, 4096)).max(2);
                assert!(asked.len() <= 3 + 2 * far.ilog2() as usize, "{least} from {guess}: {asked:?}");
            }
        }
    }
}
