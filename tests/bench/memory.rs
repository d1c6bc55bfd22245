//! Whether the memory of a build depends on the size of its root, at most as
//! much as its number of files asks for: `cargo bench --bench memory`.
//!
//! Builds profiles/tiny with overlays of 300 MB and 3 GB in few files, and of
//! 300 MB in very many. Needs a network for the first, and 8 GB of disk.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

#[path = "process.rs"]
mod process;

use process::{build, copy_profile, mebibytes};

/// Files and bytes of the overlays.
const OVERLAYS: [(u32, u64); 3] = [(30, 300_000_000), (30, 3_000_000_000), (100_000, 300_000_000)];

fn main() -> Result<()> {
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("making a directory")?;
    copy_profile("tiny", work.path())?;
    let overlay = work.path().join("profile/airootfs/usr/data");
    println!("{:>8} {:>8} {:>9} {:>8}", "files", "MB", "peak MiB", "CPU s");
    // Fills the cache with packages: what apt needs is no part of the comparison.
    build(work.path(), &[])?;
    for (files, bytes) in OVERLAYS {
        fill(&overlay, files, bytes)?;
        let cost = build(work.path(), &["--offline"])?;
        println!("{files:>8} {:>8} {:>9} {:>8.2}", bytes / 1_000_000, mebibytes(cost.peak), cost.cpu);
        fs::remove_dir_all(&overlay).context("removing the overlay")?;
    }
    Ok(())
}

/// Files of lines that are all different and compress well, 1000 a directory.
fn fill(dir: &Path, files: u32, bytes: u64) -> Result<()> {
    for number in 0..files {
        let dir = dir.join(format!("{:03}", number / 1000));
        fs::create_dir_all(&dir).context("making the overlay")?;
        let path = dir.join(format!("{number:06}"));
        let mut out =
            BufWriter::new(File::create(&path).with_context(|| format!("creating {}", path.display()))?);
        let (mut left, mut line) = (bytes / u64::from(files), 0);
        while left > 0 {
            let text = format!("line {line} of file {number}, {:>60}\n", "");
            let length = left.min(text.len() as u64);
            out.write_all(&text.as_bytes()[..length as usize]).context("filling the overlay")?;
            left -= length;
            line += 1;
        }
        out.flush().context("filling the overlay")?;
    }
    Ok(())
}
