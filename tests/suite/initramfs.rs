//! The initramfs of real kernels.

use std::io::Write;

use liveiso::cache::FileDigest;
use liveiso::host::Tool;
use liveiso::initramfs::{Kernel, PartFormat, base_tree, default_modules, id_archive, pack, squash, unpack};
use liveiso::plan::{Arch, Compression, Plan};
use liveiso::tree::{Tree, listing};

use crate::kmod::packages;

/// A plan with the default modules.
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

fn base(arch: &str, flavour: &str) -> Tree {
    let (root, _) = packages::kernel(arch, flavour);
    base_tree(&plan(arch), &root, &packages::busybox(arch), &[("init", b"#!/bin/sh\n")]).unwrap()
}

/// What the tool prints when it unpacks the base archive.
fn unpacked_by(tool: &str, packed: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(packed).unwrap();
    Tool::new(tool, "tests").unwrap().args(["-dc"]).arg(file.path()).output().unwrap()
}

/// Started without words that save memory.
const I686: Kernel = Kernel { arch: Arch::I386, traced: true };

#[test]
fn the_default_initramfs_of_the_686_kernel_is_small_and_sound() {
    let tree = base("i386", "686");
    let image = FileDigest { sha256: "ab".repeat(32), size: 70_000 };
    let mut archive = Vec::new();
    liveiso::format::cpio::write(&tree, &mut archive).unwrap();
    for (compression, tool, limit, ram) in
        [(Compression::Zstd, "zstd", 3_670_016, 43), (Compression::Xz, "xz", 3_407_872, 42)]
    {
        let mut packed = pack(&tree, compression).unwrap();
        let sizes = packed.sizes;
        assert!(sizes.compressed <= limit, "{sizes:?}");
        assert_eq!(sizes.window, 1 << 20);
        assert!(sizes.modules > 150, "{sizes:?}");
        assert!(sizes.predicted_ram(I686) <= ram << 20, "{sizes:?}");
        packed.bytes.extend(id_archive("0123456789abcdef01234567", &image, None, 1_700_000_000).unwrap());
        let (unpacked, parts) = unpack(&packed.bytes).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].format, PartFormat::Plain);
        // An independent decompressor reads the first part; it knows nothing of what follows.
        assert!(unpacked_by(tool, &packed.bytes[..parts[0].length]) == archive);
        let with_id = listing(&unpacked).unwrap();
        let without_id: String = with_id
            .lines()
            .filter(|l| !l.contains(" /etc/liveiso/i") && !l.contains(" /.complete "))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(without_id, listing(&tree).unwrap());
        assert_eq!(with_id.lines().count(), without_id.lines().count() + 3);
    }
}

#[test]
fn the_default_modules_fit_the_amd64_kernel_too() {
    let sizes = pack(&base("amd64", "amd64"), Compression::Zstd).unwrap().sizes;
    assert!(sizes.modules > 150 && sizes.compressed < 5 << 20, "{sizes:?}");
}

/// The same modules take less RAM to unpack, the more of them there are the less.
#[test]
fn squashed_modules_unpack_in_less_ram() {
    let (kernel, _) = packages::kernel("i386", "686");
    let busybox = packages::busybox("i386");
    for (more, most, least_saving) in [(None, 37, 5), (Some("drivers/net/ethernet/*/*"), 40, 10)] {
        let mut plan = plan("i386");
        plan.initramfs.compression = Compression::Xz;
        plan.initramfs.modules.extend(more.map(str::to_string));
        let tree = base_tree(&plan, &kernel, &busybox, &[("init", b"#!/bin/sh\n")]).unwrap();
        let (loader, image_size) = squash(&tree, Compression::Xz, plan.timestamp).unwrap();
        let ram = |tree: &Tree| pack(tree, Compression::Xz).unwrap().sizes.predicted_ram(I686) >> 20;
        let (plain, squashed) = (ram(&tree), ram(&loader));
        assert!(
            squashed < most && squashed + least_saving <= plain,
            "{squashed} MiB, not {plain}; {image_size}"
        );
    }
}
