//! `liveiso lock PROFILE`

use std::path::PathBuf;

use super::{CacheArgs, Failure, message, profile_dir, resolve_profile};
use crate::lock;
use crate::resolve::{LockUse, Resolved};

/// Pin a profile's packages by version and digest in its liveiso.lock.
///
/// A lock that is there keeps its versions as far as the archive still offers
/// them; --update moves packages to their current versions.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's directory.
    profile: PathBuf,
    /// With --update: the packages to move [default: all].
    #[arg(value_name = "PACKAGE", requires = "update")]
    packages: Vec<String>,
    /// Move packages to their current versions.
    #[arg(long, conflicts_with = "offline")]
    update: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let lock_use = if args.update { LockUse::Update(&args.packages) } else { LockUse::Follow };
    let resolved = resolve_profile(&args.profile, &args.cache.open()?, args.cache.offline, lock_use, color)?;
    save(&args.profile, &resolved)
}

/// Writes the lock if it is another one, and says what changed.
pub(super) fn save(profile: &std::path::Path, resolved: &Resolved) -> Result<(), Failure> {
    let dir = profile_dir(profile);
    let path = lock::path(&dir);
    let path = path.display();
    let new = &resolved.lock;
    let text = match &resolved.old {
        Some(old) if old == new => format!("{path} is up to date\n"),
        Some(old) => {
            let changes: String = old.changes(new).iter().map(|line| format!("  {line}\n")).collect();
            format!("{path} is renewed\n{changes}")
        }
        None => format!("{path} pins {} packages\n", new.every_package().len()),
    };
    if resolved.old.as_ref() != Some(new) {
        new.save(&dir)?;
    }
    message(&text);
    Ok(())
}
