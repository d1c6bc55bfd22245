//! `liveiso export netboot ISO|PROFILE DIR`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{CacheArgs, Failure, LockArgs, resolve_profile};
use crate::build::{BuildOptions, build};
use crate::export::netboot;
use crate::output::warn;
use crate::source::unpacked_tree;
use crate::tree::Tree;

/// Write an image's content in the forms other ways of booting want.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Netboot(NetbootArgs),
}

/// Write a directory to boot from over the network, by HTTP or TFTP.
///
/// It holds kernel, initramfs with drivers for network cards, image, digests
/// and menus for iPXE, PXELINUX and GRUB; of a profile also GRUB for UEFI. DIR
/// must not exist, or be empty.
#[derive(Debug, clap::Args)]
pub(super) struct NetbootArgs {
    /// The image, or a profile's directory, which is built first.
    #[arg(value_name = "ISO|PROFILE")]
    image: PathBuf,
    /// The directory to write.
    dir: PathBuf,
    /// Where it will be served, http:// or tftp:// with an IPv4 address
    /// [default: the boot loaders find it out].
    #[arg(long)]
    url: Option<String>,
    /// Directory on the medium that holds the marker file; a profile says it itself.
    #[arg(long, value_name = "NAME", default_value = "liveiso")]
    install_dir: String,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(command: &Command, color: bool) -> Result<(), Failure> {
    let Command::Netboot(args) = command;
    let scratch =
        tempfile::Builder::new().prefix("liveiso-export-").tempdir().context("making a directory")?;
    let is_profile = args.image.is_dir() || args.image.ends_with("profile.toml");
    let url = args.url.as_deref();
    let written = if is_profile {
        let (iso, install_dir, loaders) = built(args, scratch.path(), color)?;
        netboot(&iso, &install_dir, Some(&loaders), url, &args.dir)?
    } else {
        netboot(&args.image, &args.install_dir, None, url, &args.dir)?
    };
    for note in &written.notes {
        warn(note);
    }
    let mut out = std::io::stdout().lock();
    for path in written.files.keys() {
        writeln!(out, "{}", written.dir.join(path).display())?;
    }
    Ok(())
}

fn built(args: &NetbootArgs, out: &Path, color: bool) -> Result<(PathBuf, String, Tree), Failure> {
    let cache = args.cache.open()?;
    let resolved = resolve_profile(&args.image, &cache, args.cache.offline, args.lock.lock_use(), color)?;
    let options = BuildOptions {
        out: out.to_path_buf(),
        jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        offline: args.cache.offline,
    };
    let built = build(&resolved.plan, &cache, &options)
        .map_err(|error| super::build::failure(&args.image, error, color))?;
    let iso = built.artifacts.into_iter().next().context("the build made no image")?;
    let plan = resolved.plan;
    let loaders = unpacked_tree(&cache, plan.arch, &plan.packages.loaders)?;
    Ok((iso, plan.install_dir, loaders))
}
