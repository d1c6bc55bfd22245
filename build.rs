//! What the program knows of its own source tree: a digest of it, so that a
//! cache never serves what another version made, and the files of `airootfs/`,
//! which are built in with their execute bits and link targets.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn main() {
    let mut files = BTreeSet::from([PathBuf::from("Cargo.lock")]);
    for directory in ["airootfs", "efiboot", "src"] {
        // A path that is missing would make cargo run this again every time.
        if Path::new(directory).is_dir() {
            println!("cargo::rerun-if-changed={directory}");
            collect(Path::new(directory), &mut files);
        }
    }
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rustc-env=LIVEISO_SOURCE_DIGEST={:016x}", digest(&files));
    #[allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("embedded.rs"), table("airootfs", &files)).expect("OUT_DIR can be written");
}

/// Every file and link below `dir`; directories count only through what they hold.
fn collect(dir: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("reading {}: {e}", dir.display())) {
        let path = entry.expect("the directory stays readable").path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files);
        } else {
            files.insert(path);
        }
    }
}

/// FNV-1a: enough to tell versions of our own source apart, with no build dependency.
fn digest(files: &BTreeSet<PathBuf>) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for bytes in [file.to_string_lossy().as_bytes(), &fs::read(file).unwrap_or_default()] {
            for &b in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
                state = (state ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    state
}

/// The files of one directory as Rust source for `src/resolve/embedded.rs`.
fn table(directory: &str, files: &BTreeSet<PathBuf>) -> String {
    let mut source = format!("static {}: &[Embedded] = &[\n", directory.to_uppercase());
    for file in files.iter().filter(|file| file.starts_with(directory)) {
        let below = file.strip_prefix(directory).expect("the filter above says so");
        let path = below.to_str().expect("our own files have UTF-8 names");
        writeln!(source, "    Embedded {{ path: {path:?}, kind: {} }},", kind(file))
            .expect("a string takes everything");
    }
    source + "];\n"
}

fn kind(file: &Path) -> String {
    if file.is_symlink() {
        let target = fs::read_link(file).expect("a link can be read");
        return format!("EmbeddedKind::Symlink({:?})", target.to_str().expect("our own links are UTF-8"));
    }
    let absolute = std::path::absolute(file).expect("the current directory is the package's");
    let mode = fs::metadata(file).expect("the file stays there").permissions().mode();
    format!("EmbeddedKind::File {{ executable: {}, bytes: include_bytes!({absolute:?}) }}", mode & 0o100 != 0)
}
