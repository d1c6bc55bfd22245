//! `liveiso inspect MEDIUM`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::{Exit, Failure};
use crate::inspect::{self, lint};

/// Show what is inside an ISO or a raw disk image, of any maker.
///
/// Partition tables, El Torito, ESP, loaders and who signed them, kernels,
/// initramfs, root image, packages. Tables are read, not data.
///
/// The fields of --json: format (iso, disk), length, volume, mbr, boot-code, gpt,
/// el-torito, file-systems, esp, loaders, kernels, initramfs, images, packages,
/// menu, files, damage; what is not there is null or empty. With --lint: a list
/// of check, outcome (pass, not-applicable, warn, fail), reason, remedy.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ISO, disk image or disk.
    #[arg(value_name = "MEDIUM")]
    medium: PathBuf,
    /// Check what makes a medium boot everywhere instead; exit status 5 if
    /// something fails.
    #[arg(long)]
    lint: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let inspection = inspect::inspect(&args.medium)?;
    let mut out = std::io::stdout().lock();
    if !args.lint {
        let text = match args.json {
            true => json(&inspection)?,
            false => inspect::text(&inspection),
        };
        out.write_all(text.as_bytes())?;
        return Ok(());
    }
    let findings = lint::lint(&inspection);
    let text = if args.json { json(&findings)? } else { lint::text(&findings) };
    out.write_all(text.as_bytes())?;
    if findings.iter().any(|finding| finding.outcome == lint::Outcome::Fail) {
        return Err(Failure::explained(Exit::Mismatch));
    }
    Ok(())
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).context("serialising the report")?;
    text.push('\n');
    Ok(text)
}
