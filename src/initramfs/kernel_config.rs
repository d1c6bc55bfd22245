//! Whether the kernel can do what the plan asks of it, by its own
//! `/boot/config-VERSION` (the `.config` of kbuild: `CONFIG_X=y`, `=m`, or
//! `# CONFIG_X is not set`).
//!
//! Compiled in is always fine. A module is fine where one will do and if it is
//! in the initramfs, from which it must be loaded before anything else is there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use crate::kmod::kernel_versions;
use crate::plan::{Arch, Compression, Initramfs, Layout, Microcode, Plan, RootFormat};
use crate::resolve::{Blame, Mistake, Mistakes};
use crate::tree::{Kind, Tree};

/// One option that has to be on.
struct Need {
    option: &'static str,
    /// The module that does as well.
    module: Option<&'static str>,
    /// Who needs it, for the message.
    user: String,
    blame: Blame,
}

/// Compares the plan with the kernel for `arch` in `kernel`, whose chosen modules are in `initramfs`.
///
/// # Errors
/// [`Mistakes`] with every option that is off and every module that was left
/// out; a kernel package without its configuration.
pub fn check_kernel(plan: &Plan, arch: Arch, kernel: &Tree, initramfs: &Tree) -> Result<()> {
    let version = kernel_versions(kernel).pop().context("the kernel package has no modules")?;
    let path = format!("boot/config-{version}");
    let id = kernel.get(path.as_bytes()).with_context(|| {
        format!("the kernel package has no /{path}, by which its abilities are checked; take one that has it")
    })?;
    let Kind::File(content) = &kernel.inode(id).kind else {
        anyhow::bail!("/{path} in the kernel package is not a file");
    };
    let bytes = content.read_all().with_context(|| format!("reading /{path}"))?;
    let mut needs = needs(plan);
    if arch != plan.arch {
        second_kernel(&mut needs);
    }
    let mistakes = missing(&version, &needs, &options(&bytes), &module_names(initramfs));
    if mistakes.is_empty() { Ok(()) } else { Err(Mistakes(mistakes).into()) }
}

/// Options that are `y` or `m`.
fn options(config: &[u8]) -> BTreeMap<&str, u8> {
    let lines = config.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let set = lines.filter_map(|line| line.trim_end().strip_prefix("CONFIG_")?.split_once('='));
    set.filter_map(|(name, value)| match value {
        "y" => Some((name, b'y')),
        "m" => Some((name, b'm')),
        _ => None,
    })
    .collect()
}

/// Names of the module files in a tree, with `_`.
fn module_names(tree: &Tree) -> BTreeSet<String> {
    let name = |path: &[u8]| {
        let file = path.rsplit(|&b| b == b'/').next()?.strip_suffix(b".ko")?;
        Some(String::from_utf8_lossy(file).replace('-', "_"))
    };
    tree.walk().filter_map(|entry| name(&entry.path)).collect()
}

fn needs(plan: &Plan) -> Vec<Need> {
    let initramfs = &plan.initramfs;
    let mut needs = Vec::new();
    let mut need = |option, module, user: &str, blame: Blame| {
        needs.push(Need { option, module, user: user.to_string(), blame });
    };
    for option in ["BLK_DEV_INITRD", "BINFMT_ELF", "BINFMT_SCRIPT", "PROC_FS", "SYSFS", "DEVTMPFS", "TMPFS"] {
        need(option, None, "/init", Blame::Kernel);
    }
    let (option, user) = decompressor(initramfs);
    need(option, None, user, Blame::InitramfsCompression);
    if initramfs.layout == Layout::Squashed {
        mounted_image(&mut need, "the initramfs with the layout squashed");
        need("SQUASHFS", Some("squashfs"), "the initramfs with the layout squashed", Blame::Kernel);
        let user = "the squashed initramfs";
        need(squashfs_option(initramfs.compression), None, user, Blame::InitramfsCompression);
    }
    if initramfs.layout != Layout::Resident {
        mounted_image(&mut need, "the live root");
        need("ISO9660_FS", Some("isofs"), "the medium", Blame::Kernel);
        let image = plan.root.image;
        match image.format {
            RootFormat::Squashfs => {
                need("SQUASHFS", Some("squashfs"), "the live root", Blame::Kernel);
                let option = squashfs_option(image.compression);
                need(option, None, "the root image", Blame::RootCompression);
            }
            RootFormat::Erofs => {
                need("EROFS_FS", Some("erofs"), "the live root", Blame::RootFormat);
                need("EROFS_FS_ZIP", None, "a compressed EROFS image", Blame::RootFormat);
            }
        }
    }
    if plan.root.verity {
        for (option, module) in
            [("BLK_DEV_DM", "dm_mod"), ("DM_VERITY", "dm_verity"), ("CRYPTO_SHA256", "sha256_generic")]
        {
            need(option, Some(module), "the hash tree of the root image", Blame::Verity);
        }
    }
    match initramfs.microcode {
        None => {}
        Some(Microcode::Packages | Microcode::Files { .. }) => {
            need("MICROCODE", None, "early microcode", Blame::Microcode);
        }
    }
    needs
}

/// A second kernel is to blame for what it cannot do, and runs programs of the first one's width.
fn second_kernel(needs: &mut Vec<Need>) {
    for need in needs.iter_mut().filter(|need| need.blame == Blame::Kernel) {
        need.blame = Blame::SecondKernel;
    }
    let user = "the 32-bit root".to_string();
    needs.push(Need { option: "IA32_EMULATION", module: None, user, blame: Blame::SecondKernel });
}

fn mounted_image(need: &mut impl FnMut(&'static str, Option<&'static str>, &str, Blame), user: &str) {
    for (option, module) in [("BLK_DEV_LOOP", "loop"), ("OVERLAY_FS", "overlay")] {
        need(option, Some(module), user, Blame::Kernel);
    }
}

fn decompressor(initramfs: &Initramfs) -> (&'static str, &'static str) {
    match initramfs.compression {
        Compression::Xz => ("RD_XZ", "an initramfs compressed with xz"),
        Compression::Zstd => ("RD_ZSTD", "an initramfs compressed with zstd"),
        Compression::Gzip => ("RD_GZIP", "an initramfs compressed with gzip"),
        Compression::Lz4 => ("RD_LZ4", "an initramfs compressed with lz4"),
        Compression::Lzo => ("RD_LZO", "an initramfs compressed with lzo"),
    }
}

fn squashfs_option(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => "SQUASHFS_ZLIB",
        Compression::Xz => "SQUASHFS_XZ",
        Compression::Zstd => "SQUASHFS_ZSTD",
        Compression::Lz4 => "SQUASHFS_LZ4",
        Compression::Lzo => "SQUASHFS_LZO",
    }
}

/// What is off, and what is a module that was left out; each option once.
fn missing(
    version: &str,
    needs: &[Need],
    options: &BTreeMap<&str, u8>,
    modules: &BTreeSet<String>,
) -> Vec<Mistake> {
    let mut seen = BTreeSet::new();
    let mut mistakes = Vec::new();
    for Need { option, module, user, blame } in needs {
        let mut blame = blame.clone();
        let (message, help) = match (options.get(option), module) {
            (Some(b'y'), _) => continue,
            (Some(_), Some(module)) if modules.contains(*module) => continue,
            (Some(_), Some(module)) => {
                blame = Blame::Modules;
                (
                    format!(
                        "the initramfs lacks the module `{module}` (CONFIG_{option}=m), which {user} needs"
                    ),
                    format!("add `{module}` to `modules` under [initramfs]"),
                )
            }
            (Some(_), None) => (
                format!("kernel {version} has CONFIG_{option} as a module, but {user} needs it compiled in"),
                advice(option, &blame),
            ),
            (None, _) => (
                format!("kernel {version} is built without CONFIG_{option}, which {user} needs"),
                advice(option, &blame),
            ),
        };
        if seen.insert(*option) {
            mistakes.push(Mistake { blame, message, help });
        }
    }
    mistakes
}

fn advice(option: &str, blame: &Blame) -> String {
    let key = match blame {
        Blame::RootFormat => "`format = \"squashfs\"` under [root], or ",
        Blame::RootCompression => "another `compression` under [root], or ",
        Blame::InitramfsCompression => "another `compression` under [initramfs], or ",
        Blame::Microcode => "`microcode = false`, or ",
        Blame::Verity => "`verity = false` under [root], or ",
        _ => "",
    };
    format!("choose {key}a kernel with CONFIG_{option}=y under [kernel]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::base::tests::{plan, small_base};

    /// Everything a plain initramfs wants, as Debian has it.
    const DEBIAN: &str = "#\n# Linux/x86 6.1 Kernel Configuration\n#\nCONFIG_BLK_DEV_INITRD=y\n\
        CONFIG_BINFMT_ELF=y\nCONFIG_BINFMT_SCRIPT=y\nCONFIG_PROC_FS=y\nCONFIG_SYSFS=y\nCONFIG_DEVTMPFS=y\n\
        CONFIG_TMPFS=y\nCONFIG_RD_XZ=y\nCONFIG_RD_ZSTD=y\nCONFIG_BLK_DEV_LOOP=m\nCONFIG_SQUASHFS=m\n\
        CONFIG_OVERLAY_FS=m\nCONFIG_ISO9660_FS=m\nCONFIG_SQUASHFS_ZSTD=y\nCONFIG_SQUASHFS_XZ=y\n\
        CONFIG_SQUASHFS_ZLIB=y\nCONFIG_MICROCODE=y\nCONFIG_LOCALVERSION=\"\"\n";

    /// What an EROFS root wants besides.
    const EROFS: &str = "CONFIG_EROFS_FS=m\nCONFIG_EROFS_FS_ZIP=y\n";

    fn found(plan: &Plan, config: &str, modules: &[&str]) -> Vec<(String, String)> {
        let modules = modules.iter().map(|m| m.to_string()).collect();
        let mistakes = missing("6.1", &needs(plan), &options(config.as_bytes()), &modules);
        mistakes.into_iter().map(|m| (m.message, m.help)).collect()
    }

    #[test]
    fn every_option_is_named_with_its_user() {
        let all = ["loop", "squashfs", "overlay", "isofs"];
        let plain = plan("i386", &[]);
        let mut xz = plain.clone();
        xz.initramfs.compression = Compression::Xz;
        xz.initramfs.layout = Layout::Squashed;
        let mut erofs = plain.clone();
        erofs.root.image.format = RootFormat::Erofs;
        let mut resident = plain.clone();
        resident.initramfs.layout = Layout::Resident;
        let mut microcode = plain.clone();
        microcode.initramfs.microcode = Some(Microcode::Packages);
        let off = |option: &str| {
            DEBIAN.replace(&format!("CONFIG_{option}="), &format!("# CONFIG_{option} is not set\n# "))
        };
        let none = "kernel 6.1 is built without CONFIG_";
        for (case, config, modules, expected) in [
            (&plain, DEBIAN.to_string(), &all[..], vec![]),
            (&xz, DEBIAN.to_string(), &all[..], vec![]),
            (&resident, off("OVERLAY_FS"), &[][..], vec![]),
            (&erofs, off("SQUASHFS") + EROFS, &["loop", "erofs", "overlay", "isofs"][..], vec![]),
            (
                &erofs,
                DEBIAN.to_string() + "CONFIG_EROFS_FS=m\n",
                &all[..],
                vec![
                    (
                        "the initramfs lacks the module `erofs` (CONFIG_EROFS_FS=m), which the live root needs"
                            .to_string(),
                        "add `erofs` to `modules` under [initramfs]",
                    ),
                    (
                        format!("{none}EROFS_FS_ZIP, which a compressed EROFS image needs"),
                        "choose `format = \"squashfs\"` under [root], or a kernel with CONFIG_EROFS_FS_ZIP=y under [kernel]",
                    ),
                ],
            ),
            (
                &plain,
                off("RD_ZSTD"),
                &all[..],
                vec![(
                    format!("{none}RD_ZSTD, which an initramfs compressed with zstd needs"),
                    "choose another `compression` under [initramfs], or a kernel with CONFIG_RD_ZSTD=y under [kernel]",
                )],
            ),
            (
                &plain,
                off("SQUASHFS_ZSTD"),
                &all[..],
                vec![(
                    format!("{none}SQUASHFS_ZSTD, which the root image needs"),
                    "choose another `compression` under [root], or a kernel with CONFIG_SQUASHFS_ZSTD=y under [kernel]",
                )],
            ),
            (
                &xz,
                off("SQUASHFS_XZ"),
                &all[..],
                vec![(
                    format!("{none}SQUASHFS_XZ, which the squashed initramfs needs"),
                    "choose another `compression` under [initramfs], or a kernel with CONFIG_SQUASHFS_XZ=y under [kernel]",
                )],
            ),
            (
                &microcode,
                off("MICROCODE"),
                &all[..],
                vec![(
                    format!("{none}MICROCODE, which early microcode needs"),
                    "choose `microcode = false`, or a kernel with CONFIG_MICROCODE=y under [kernel]",
                )],
            ),
            (
                &plain,
                off("BLK_DEV_LOOP").replace("CONFIG_TMPFS=y", "CONFIG_TMPFS=m"),
                &all[..],
                vec![
                    (
                        "kernel 6.1 has CONFIG_TMPFS as a module, but /init needs it compiled in".to_string(),
                        "choose a kernel with CONFIG_TMPFS=y under [kernel]",
                    ),
                    (
                        format!("{none}BLK_DEV_LOOP, which the live root needs"),
                        "choose a kernel with CONFIG_BLK_DEV_LOOP=y under [kernel]",
                    ),
                ],
            ),
            (
                &plain,
                DEBIAN.replace("CONFIG_ISO9660_FS=m", "CONFIG_ISO9660_FS=y"),
                &["loop", "squashfs"][..],
                vec![(
                    "the initramfs lacks the module `overlay` (CONFIG_OVERLAY_FS=m), which the live root needs".to_string(),
                    "add `overlay` to `modules` under [initramfs]",
                )],
            ),
        ] {
            let expected: Vec<(String, String)> =
                expected.into_iter().map(|(message, help)| (message, help.to_string())).collect();
            assert_eq!(found(case, &config, modules), expected, "{config}");
        }
    }

    #[test]
    fn modules_are_those_of_the_tree() {
        let names: Vec<String> = module_names(&small_base()).into_iter().collect();
        assert_eq!(names, ["fat", "vfat"]);
    }
}
