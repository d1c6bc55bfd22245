//! The initramfs of a real kernel.

use liveiso::initramfs::{base_tree, default_modules, pack};
use liveiso::plan::{Arch, Compression, Plan};

use crate::kmod::packages;

fn plan(arch: &str) -> Plan {
    let modules = default_modules();
    let plan = serde_json::json!({
        "plan-version": 1, "iso-name": "test", "iso-version": "1", "iso-label": "LIVEISO_T",
        "iso-publisher": "", "iso-application": "", "install-dir": "liveiso", "arch": arch,
        "timestamp": 1_700_000_000,
        "debian": {"suite": "bookworm", "sources": [], "left-out": []},
        "packages": {"root": [], "kernel": [], "loaders": [], "initramfs": []},
        "root": {"mode": "unpacked", "exclude": [], "file-permissions": {},
                 "image": {"compression": "zstd", "level": 15, "block-size": 131_072}},
        "initramfs": {"compression": "zstd", "modules": modules.required,
                      "optional-modules": modules.optional},
        "boot": {"bootmodes": [], "title": "", "timeout": 0, "kernel-parameters": "", "serial": null},
        "overlays": [], "efiboot": {},
    });
    serde_json::from_value(plan).unwrap()
}

#[test]
fn the_default_initramfs_of_the_686_kernel_is_small() {
    let (root, _) = packages::kernel("i386", "686");
    let busybox = packages::busybox("i386");
    let tree = base_tree(&plan("i386"), &root, &busybox, b"#!/bin/sh\n").unwrap();
    for compression in [Compression::Zstd, Compression::Xz] {
        let started = std::time::Instant::now();
        let packed = pack(&tree, compression).unwrap();
        eprintln!(
            "{compression:?} {:?} ram {} in {:?}",
            packed.sizes,
            packed.sizes.predicted_ram(Arch::I386) >> 20,
            started.elapsed()
        );
    }
}
