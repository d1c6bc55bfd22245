//! `liveiso inspect ISO`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::{Exit, Failure};
use crate::inspect::{self, lint};

/// Show what is inside an ISO, of any maker.
///
/// Partition tables, El Torito, ESP, loaders and who signed them, kernels,
/// initramfs, root image, packages. Tables are read, not data.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ISO.
    iso: PathBuf,
    /// Check what makes an ISO boot everywhere instead; exit status 5 if
    /// something fails.
    #[arg(long)]
    lint: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let inspection = inspect::inspect(&args.iso)?;
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
