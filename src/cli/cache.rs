//! `liveiso cache list|prune|verify`

use std::io::Write;

use anyhow::{Context, Result, ensure};

use super::{CacheDirArgs, Exit, Failure};
use crate::cache::{Cache, Entry};
use crate::format::civil_time;

/// What a cache may take when nobody says otherwise (bytes).
const DEFAULT_MAX_SIZE: u64 = 10 << 30;

/// The limit of the cache after a build.
const MAX_SIZE_VARIABLE: &str = "LIVEISO_CACHE_MAX_SIZE";

/// Show, shrink or check what builds have kept.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(ListArgs),
    Prune(PruneArgs),
    Verify(VerifyArgs),
}

/// List every entry: stage, key, size, last use, files.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Print JSON: sizes in bytes, times in seconds since 1970-01-01 UTC.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    dir: CacheDirArgs,
}

/// Remove the least recently used entries; what running builds use stays.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Bytes that may stay, with K, M, G or T for powers of 1024
    /// [default: $LIVEISO_CACHE_MAX_SIZE, else 10G].
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "all")]
    max_size: Option<u64>,
    /// Remove everything that is not in use.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    dir: CacheDirArgs,
}

/// Read everything again and remove what is damaged; exit status 5 if anything was.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    dir: CacheDirArgs,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args),
        Command::Prune(args) => prune(args),
        Command::Verify(args) => verify(args),
    }
}

/// Applies the size limit after a build.
///
/// # Errors
/// A limit that is no size, trouble with the cache.
pub(super) fn apply_limit(cache: &Cache, limit: u64) -> Result<()> {
    cache.prune(limit).context("applying the cache's size limit")?;
    Ok(())
}

/// The limit that was given, or the environment's, or the default.
///
/// # Errors
/// [`Exit::Usage`] when the variable is no size.
pub(super) fn max_size(given: Option<u64>) -> Result<u64, Failure> {
    match (given, crate::host::environment(MAX_SIZE_VARIABLE)) {
        (Some(size), _) => Ok(size),
        (None, None) => Ok(DEFAULT_MAX_SIZE),
        (None, Some(text)) => parse_size(&text.to_string_lossy()).map_err(|error| {
            Failure::usage(format!("{MAX_SIZE_VARIABLE} is `{}`: {error}", text.to_string_lossy()))
        }),
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let entries = args.dir.open()?.entries()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(&entries).context("serialising the list")?;
        writeln!(out, "{text}")?;
        return Ok(());
    }
    writeln!(out, "{:<16} {:<12} {:>10}  {:<16}  files", "stage", "key", "size", "last used (UTC)")?;
    for entry in &entries {
        writeln!(out, "{}", line(entry))?;
    }
    let size = entries.iter().map(|e| e.size).sum();
    writeln!(out, "{} entries, {}", entries.len(), shown_size(size))?;
    Ok(())
}

fn line(entry: &Entry) -> String {
    let t = civil_time(entry.last_used);
    let files: Vec<&str> = entry.files.keys().map(String::as_str).filter(|f| *f != "stage.json").collect();
    // The one file of a package or a pack repeats its key.
    let files = if matches!(&*entry.stage, "deb" | "blocks") { String::new() } else { files.join(" ") };
    let key: String = entry.key.chars().take(12).collect();
    let size = shown_size(entry.size);
    format!(
        "{:<16} {key:<12} {size:>10}  {:04}-{:02}-{:02} {:02}:{:02}  {files}",
        entry.stage, t.year, t.month, t.day, t.hour, t.minute
    )
    .trim_end()
    .to_string()
}

fn prune(args: &PruneArgs) -> Result<(), Failure> {
    let limit = if args.all { 0 } else { max_size(args.max_size)? };
    let pruned = args.dir.open()?.prune(limit)?;
    let mut out = std::io::stdout().lock();
    for entry in &pruned.removed {
        writeln!(out, "removed {} {} {}", entry.stage, entry.key, shown_size(entry.size))?;
    }
    let removed = pruned.removed.iter().map(|e| e.size).sum();
    writeln!(
        out,
        "{} entries removed, {}; {} kept",
        pruned.removed.len(),
        shown_size(removed),
        shown_size(pruned.kept)
    )?;
    if pruned.kept > limit {
        crate::output::warn(&format!("{} are used by running builds and stay", shown_size(pruned.in_use)));
    }
    Ok(())
}

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let verified = args.dir.open()?.verify()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(&verified).context("serialising the result")?;
        writeln!(out, "{text}")?;
    } else {
        for damage in &verified.damaged {
            writeln!(out, "removed {} {}: {}", damage.stage, damage.key, damage.reason)?;
        }
        let [entries, damaged] = [verified.entries, verified.damaged.len() as u64];
        writeln!(out, "{entries} entries read, {}; {damaged} damaged", shown_size(verified.bytes))?;
    }
    if verified.damaged.is_empty() { Ok(()) } else { Err(Failure::explained(Exit::Mismatch)) }
}

/// `500`, `20K`, `3M`, `10G` or `1T`, in bytes.
pub(super) fn parse_size(text: &str) -> Result<u64> {
    let units = ['K', 'M', 'G', 'T'];
    let unit = text.chars().last().and_then(|last| units.iter().position(|u| last.eq_ignore_ascii_case(u)));
    let (digits, shift) = match unit {
        Some(n) => (&text[..text.len() - 1], 10 * (n + 1)),
        None => (text, 0),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    ensure!(plain, "a size is a whole number, optionally with K, M, G or T");
    let number: u64 = digits.parse().context("this size is too large")?;
    number.checked_mul(1 << shift).context("this size is too large")
}

fn shown_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let n = (0..units.len()).rev().find(|n| bytes >> (10 * n) > 0).unwrap_or(0);
    match n {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / (1_u64 << (10 * n)) as f64, units[n]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("500", Some(500)),
            ("20k", Some(20 << 10)),
            ("10G", Some(10 << 30)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("G", None),
            ("-1", None),
            ("1.5G", None),
            ("+1", None),
            ("1\u{e9}", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
        let shown: Vec<String> = [0, 1023, 1024, 1536 << 20, u64::MAX].map(shown_size).to_vec();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "16777216.0 TiB"]);
    }
}
