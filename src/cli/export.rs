//! `liveiso export netboot ISO|PROFILE DIR`

use std::io::Write;
use std::path::PathBuf;

use super::build::{ProfileImage, image_of, is_profile};
use super::{CacheArgs, Failure, LockArgs};
use crate::export::{Netboot, Options, Root, netboot};
use crate::output::warn;
use crate::scratch::Scratch;
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
    /// How machines come to the root image, one way or several, the menus'
    /// default first: http (copied to RAM, by TFTP too),
    /// nbd[=[ADDRESS[:PORT]][/EXPORT]] or nfs[=[ADDRESS:]/DIR] (left on a server
    /// of its own, at the boot server's address unless told otherwise).
    #[arg(long, value_name = "WAY", value_delimiter = ',', default_value = "http")]
    root: Vec<Root>,
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
    let options = Options { url: args.url.as_deref(), roots: &args.root, ..Options::default() };
    let written = if is_profile(&args.image) {
        of_profile(args, options, color)?
    } else {
        netboot(&args.image, &args.install_dir, &options, &args.dir)?
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

/// Builds the image, and takes loaders and drivers from the packages it was built of.
fn of_profile(args: &NetbootArgs, options: Options<'_>, color: bool) -> Result<Netboot, Failure> {
    let scratch = Scratch::new("export")?;
    let ProfileImage { iso, plan, cache } =
        image_of(&args.image, scratch.path(), &args.lock, &args.cache, color)?;
    let loaders = unpacked_tree(&cache, plan.arch, &plan.packages.loaders)?;
    let kernels = plan.kernels().map(|arch| unpacked_tree(&cache, arch, &plan.kernel_packages(arch)));
    let kernels = kernels.collect::<anyhow::Result<Vec<Tree>>>()?;
    let options = Options { loaders: Some(&loaders), kernels: &kernels, ..options };
    Ok(netboot(&iso, &plan.install_dir, &options, &args.dir)?)
}
