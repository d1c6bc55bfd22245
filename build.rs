//! Lists the files of `airootfs/` and `efiboot/` as Rust source for
//! `src/resolve/embedded.rs`, with execute bits and link targets.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn main() {
    #[allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
    let variable = |name: &str| PathBuf::from(std::env::var_os(name).expect("cargo sets it"));
    let root = variable("CARGO_MANIFEST_DIR");
    let mut source = String::new();
    for directory in ["airootfs", "efiboot"] {
        println!("cargo::rerun-if-changed={directory}");
        let mut files = Vec::new();
        if root.join(directory).exists() {
            list(&root.join(directory), "", &mut files);
        }
        files.sort();
        let entries: String = files.into_iter().map(|(_, entry)| entry).collect();
        writeln!(source, "static {}: &[Embedded] = &[\n{entries}];", directory.to_uppercase())
            .expect("a string takes everything");
    }
    fs::write(variable("OUT_DIR").join("embedded.rs"), source).expect("OUT_DIR can be written");
}

/// Appends path and Rust expression of everything below `dir`.
fn list(dir: &Path, prefix: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("reading {}: {e}", dir.display())) {
        let host = entry.expect("the directory stays readable").path();
        let name = host.file_name().and_then(|n| n.to_str()).expect("our own files have UTF-8 names");
        let path = format!("{prefix}{name}");
        let metadata = host.symlink_metadata().expect("the file stays there");
        let kind = if metadata.is_symlink() {
            let target = fs::read_link(&host).expect("a link can be read");
            format!("EmbeddedKind::Symlink({:?})", target.to_str().expect("our own links are UTF-8"))
        } else if metadata.is_dir() {
            list(&host, &format!("{path}/"), files);
            continue;
        } else {
            let executable = metadata.permissions().mode() & 0o100 != 0;
            format!("EmbeddedKind::File {{ executable: {executable}, bytes: include_bytes!({host:?}) }}")
        };
        files.push((path.clone(), format!("    Embedded {{ path: {path:?}, kind: {kind} }},\n")));
    }
}
