//! The squashfs engine against mksquashfs and gensquashfs on one directory:
//! CPU time (user + sys), wall time, peak memory and image size, each the
//! median of paired runs, and the ratios to mksquashfs.
//!
//! `cargo bench --bench squashfs -- DIR [--runs N] [--only gzip|zstd|xz|lz4|lzo]`
//!
//! `cached` is a run in which nothing has changed since the last one, `changed`
//! one in which the file whose size is nearest to 10,000 bytes has another content.
//!
//! Every program runs as a process of its own under time(1); ours is this
//! program started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use liveiso::cli::dev::{SquashfsArgs, read_source, write_tree};
use liveiso::host::Tool;
use liveiso::tree::{Content, Kind, Tree};

#[derive(Parser)]
struct Args {
    /// Directory of at least 300 MB to compress.
    #[arg(default_value = "/usr/share")]
    dir: PathBuf,
    /// Paired runs of each row.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only this compressor.
    #[arg(long)]
    only: Option<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Parser)]
struct Write {
    #[command(flatten)]
    args: SquashfsArgs,
    /// Replaces the content of one file of some 10 KB by something made from this number.
    #[arg(long)]
    change: Option<u64>,
}

type Words = &'static [&'static str];

/// Compressor, options of mksquashfs and of gensquashfs, and our levels.
type Row = (&'static str, Words, Words, Words);

/// What is compared: the reference and ours at several levels.
const ROWS: &[Row] = &[
    ("gzip", &["-Xcompression-level", "9"], &["level=9"], &["6", "9", "11"]),
    ("zstd", &["-Xcompression-level", "15"], &["level=15"], &["15"]),
    ("xz", &[], &[], &["6"]),
    ("lz4", &["-Xhc"], &["hc"], &["12"]),
    ("lzo", &[], &[], &["1"]),
];

#[derive(Clone, Copy, Debug)]
struct Figures {
    cpu: f64,
    wall: f64,
    peak_mib: f64,
    size: f64,
}

fn main() -> Result<()> {
    let mut words = std::env::args();
    let program = words.next().context("reading the program's own name")?;
    if words.next().as_deref() == Some("write") {
        let Write { args, change } = Write::parse_from(std::iter::once(program).chain(words));
        let mut tree = read_source(&args)?;
        change.map(|number| change_one_file(&mut tree, number)).transpose()?;
        return write_tree(&tree, &args);
    }
    let args = Args::parse();
    let out = tempfile::tempdir().context("creating a scratch directory")?;
    let image = out.path().join("image");
    println!(
        "{:<28} {:>8} {:>8} {:>8} {:>13}   CPU and size to mksquashfs",
        "", "CPU s", "wall s", "peak MB", "bytes"
    );
    for (compression, mk, tools_ng, levels) in ROWS {
        if args.only.as_deref().is_none_or(|only| only == *compression) {
            compare(&program, &args, &image, compression, mk, tools_ng, levels)?;
        }
    }
    Ok(())
}

/// The new content is text of the old length that no earlier run had.
fn change_one_file(tree: &mut Tree, number: u64) -> Result<()> {
    let files = tree.walk().filter_map(|e| match &e.inode.kind {
        Kind::File(content) => Some((content.len().abs_diff(10_000), e.id, content.len())),
        _ => None,
    });
    let (_, id, length) = files.min_by_key(|(distance, ..)| *distance).context("there is no file")?;
    let text = (0..).flat_map(|n| format!("{number} {n}\n").into_bytes()).take(length as usize);
    tree.inode_mut(id).kind = Kind::File(Content::bytes(text.collect::<Vec<u8>>()));
    Ok(())
}

fn compare(
    program: &str,
    args: &Args,
    image: &Path,
    compression: &str,
    mk: &[&str],
    tools_ng: &[&str],
    levels: &[&str],
) -> Result<()> {
    let dir = args.dir.to_str().context("the directory's name is no UTF-8")?;
    let out = image.to_str().context("the temporary directory's name is no UTF-8")?;
    let words = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    let mut commands = Vec::new();
    let fixed = ["mksquashfs", dir, out, "-noappend", "-quiet", "-no-progress", "-comp", compression];
    commands.push((format!("mksquashfs {compression}"), words(&[&fixed[..], mk].concat())));
    let fixed = ["gensquashfs", "-q", "-f", "-k", "-x", "-D", dir, "-c", compression, "-j", "2"];
    let extra: Vec<&str> = tools_ng.iter().flat_map(|g| ["-X", g]).collect();
    commands.push((format!("gensquashfs {compression}"), words(&[&fixed[..], &extra, &[out]].concat())));
    let cache = image.with_extension("cache");
    let cache = cache.to_str().context("the temporary directory's name is no UTF-8")?;
    for level in levels {
        let fixed = [program, "write", dir, out, "--compression", compression, "--level", level];
        commands.push((format!("liveiso {compression} {level}"), words(&fixed)));
        commands.push((
            format!("liveiso {compression} {level}, 1 job"),
            words(&[&fixed[..], &["--jobs", "1"]].concat()),
        ));
        let cached = [&fixed[..], &["--block-cache", cache]].concat();
        commands.push((format!("liveiso {compression} {level}, cached"), words(&cached)));
        // Its last word is another number in every run.
        let changed = [&cached[..], &["--change", "0"]].concat();
        commands.push((format!("liveiso {compression} {level}, changed"), words(&changed)));
    }
    let mut figures: BTreeMap<usize, Vec<Figures>> = BTreeMap::new();
    for run in 0..=args.runs {
        for (n, (_, command)) in commands.iter().enumerate() {
            let mut command = command.clone();
            if let Some("--change") = command.iter().rev().nth(1).map(String::as_str) {
                command.pop();
                command.push(run.to_string());
            }
            let measured = measure(&command, image)?;
            // The first round warms the page cache and fills the block cache.
            if run > 0 || args.runs == 0 {
                figures.entry(n).or_default().push(measured);
            }
        }
    }
    let reference = median(&figures[&0]);
    for (n, (name, _)) in commands.iter().enumerate() {
        let f = median(&figures[&n]);
        println!(
            "{name:<28} {:>8.2} {:>8.2} {:>8.1} {:>13} {:>8.3} {:>8.4}",
            f.cpu,
            f.wall,
            f.peak_mib,
            f.size,
            f.cpu / reference.cpu,
            f.size / reference.size
        );
    }
    Ok(())
}

fn measure(command: &[String], image: &Path) -> Result<Figures> {
    let _ = std::fs::remove_file(image);
    let tool = Tool::new("time", "measuring")?.args(["-f", "\n%U %S %e %M"]).args(command);
    let shown = tool.shown();
    let output = tool.capture()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown} failed: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    let numbers: Vec<f64> = last.split(' ').filter_map(|n| n.parse().ok()).collect();
    let [user, sys, wall, peak] = numbers[..] else { bail!("time printed `{last}`") };
    let size = std::fs::metadata(image).context("reading the image's size")?.len() as f64;
    Ok(Figures { cpu: user + sys, wall, peak_mib: peak / 1024.0, size })
}

fn median(runs: &[Figures]) -> Figures {
    let middle = |key: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(key).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        cpu: middle(|f| f.cpu),
        wall: middle(|f| f.wall),
        peak_mib: middle(|f| f.peak_mib),
        size: middle(|f| f.size),
    }
}
