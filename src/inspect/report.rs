//! An [`Inspection`] for people.

use std::fmt::Write;

use super::{Inspection, Program};
use crate::format::erofs;
use crate::format::iso9660::{CatalogEntry, Volume};

/// The report as text, line by line.
pub fn text(inspection: &Inspection) -> String {
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = write_report(&mut out, inspection);
    out
}

fn write_report(out: &mut String, it: &Inspection) -> std::fmt::Result {
    match &it.volume {
        Some(volume) => write_volume(out, volume, it.length)?,
        None => writeln!(out, "disk         {} bytes", it.length)?,
    }
    write_tables(out, it)?;
    for found in &it.file_systems {
        write!(out, "{:<12} {}, block {}, {} blocks", found.place, found.format, found.start, found.blocks)?;
        match found.format.starts_with("fat") {
            true => writeln!(out, ", `{}`, {} files", found.label, found.files)?,
            false => writeln!(out)?,
        }
    }
    for entry in &it.el_torito {
        writeln!(out, "El Torito    {}", catalog_entry(entry))?;
    }
    if let Some(esp) = &it.esp {
        let fat = &esp.volume;
        writeln!(
            out,
            "ESP          FAT{} `{}` at block {}, {} bytes, {} files",
            fat.bits,
            fat.label,
            esp.start,
            fat.length,
            it.esp_files().len()
        )?;
        for file in &esp.files {
            writeln!(out, "  {:>12} {}", file.length, file.path)?;
        }
    }
    for loader in &it.loaders {
        let place = it.place_name(loader.place);
        writeln!(out, "loader       {place} {}: {}", loader.file.path, loader.program.machine)?;
        write_program(out, &loader.program)?;
    }
    write_systems(out, it)?;
    if let Some(packages) = &it.packages {
        writeln!(out, "packages     {} in {}", packages.list.len(), packages.source)?;
        for package in &packages.list {
            let line = format!("  {} {} {}", package.name, package.version, package.arch);
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    for damage in &it.damage {
        writeln!(out, "damaged      {damage}")?;
    }
    Ok(())
}

fn write_volume(out: &mut String, volume: &Volume, length: u64) -> std::fmt::Result {
    writeln!(
        out,
        "volume       `{}`, {} sectors of 2048 bytes; file {length} bytes",
        volume.id, volume.sectors
    )?;
    for (what, text) in [
        ("publisher", &volume.publisher),
        ("preparer", &volume.preparer),
        ("application", &volume.application),
        ("modified", &volume.modified),
    ] {
        if !text.is_empty() {
            writeln!(out, "  {what:<12} {text}")?;
        }
    }
    Ok(())
}

fn erofs_compression(erofs: &erofs::Parameters) -> String {
    let names = match &erofs.compression[..] {
        [] => "no compression".to_string(),
        names => names.join(" and "),
    };
    let clusters = erofs.cluster_size.map(|bytes| format!(", clusters up to {} KiB", bytes >> 10));
    names + &clusters.unwrap_or_default()
}

fn write_tables(out: &mut String, it: &Inspection) -> std::fmt::Result {
    match &it.mbr {
        None => writeln!(out, "MBR          none")?,
        Some(partitions) => {
            let code = if it.boot_code { "boot code" } else { "no boot code" };
            writeln!(out, "MBR          {code}, {} partitions", partitions.len())?;
            for partition in partitions {
                let entry = partition.entry;
                let active = if entry.status == 0x80 { ", active" } else { "" };
                writeln!(
                    out,
                    "  {}            type {:02x}, block {}, {} blocks{active}",
                    partition.slot, entry.kind, entry.start, entry.blocks
                )?;
            }
        }
    }
    let Some(gpt) = &it.gpt else { return Ok(()) };
    let state = match (gpt.checksums, gpt.overlapping) {
        (true, false) => "valid",
        (true, true) => "invalid: its partitions overlap",
        (false, _) => "invalid: its checksums are wrong",
    };
    writeln!(out, "GPT          {state}, disk {}", gpt.disk)?;
    for partition in &gpt.partitions {
        let kind = if partition.esp { "EFI system partition" } else { &partition.kind };
        writeln!(
            out,
            "               {kind}, block {}, {} blocks, `{}`",
            partition.start, partition.blocks, partition.name
        )?;
    }
    Ok(())
}

fn catalog_entry(entry: &CatalogEntry) -> String {
    let platform = match entry.platform {
        0 => "BIOS".to_string(),
        super::UEFI => "UEFI".to_string(),
        other => format!("platform {other:#04x}"),
    };
    let emulation = match entry.emulation {
        0 => "",
        1..=3 => ", as a floppy disk",
        4 => ", as a hard disk",
        _ => ", unknown emulation",
    };
    let bootable = if entry.bootable { "" } else { ", not bootable" };
    format!("{platform}: sector {}, {} blocks of 512{emulation}{bootable}", entry.sector, entry.blocks)
}

fn write_program(out: &mut String, program: &Program) -> std::fmt::Result {
    for signer in &program.signers {
        writeln!(out, "  signed by    {} (issuer {})", signer.subject, signer.issuer)?;
    }
    if !program.sbat.is_empty() {
        let lines: Vec<String> =
            program.sbat.iter().map(|line| format!("{},{}", line.component, line.generation)).collect();
        writeln!(out, "  SBAT         {}", lines.join(" "))?;
    }
    if let Some(damage) = &program.damage {
        writeln!(out, "  signature    unreadable: {damage}")?;
    }
    Ok(())
}

fn write_systems(out: &mut String, it: &Inspection) -> std::fmt::Result {
    for kernel in &it.kernels {
        writeln!(
            out,
            "kernel       {}: {}, {} bytes, {}",
            kernel.file.path, kernel.header.arch, kernel.file.length, kernel.header.version
        )?;
        for signer in &kernel.signers {
            writeln!(out, "  signed by    {} (issuer {})", signer.subject, signer.issuer)?;
        }
    }
    for initramfs in &it.initramfs {
        let contents = &initramfs.contents;
        writeln!(
            out,
            "initramfs    {}: {} bytes, {} modules{}",
            initramfs.file.path,
            initramfs.file.length,
            contents.modules.len(),
            contents.system.map(|name| format!(", {name}")).unwrap_or_default()
        )?;
        for part in &contents.parts {
            writeln!(
                out,
                "  part         {}: {} bytes, unpacked {}",
                part.compression, part.length, part.unpacked
            )?;
        }
        let modules: Vec<&str> = contents.modules.iter().map(String::as_str).collect();
        if !modules.is_empty() {
            writeln!(out, "  modules      {}", modules.join(" "))?;
        }
    }
    for image in &it.images {
        write!(out, "image        {}: {}, {} bytes", image.file.path, image.format, image.file.length)?;
        if let Some(squashfs) = &image.squashfs {
            write!(
                out,
                ", {}, blocks of {} KiB, {} inodes, {} fragments",
                squashfs.compression,
                squashfs.block_size >> 10,
                squashfs.inodes,
                squashfs.fragments
            )?;
        }
        if let Some(erofs) = &image.erofs {
            write!(
                out,
                ", {}, blocks of {} bytes, {} inodes",
                erofs_compression(erofs),
                erofs.block_size,
                erofs.inodes
            )?;
        }
        writeln!(out)?;
        if let Some(verity) = &image.verity {
            writeln!(out, "  verity       root hash {}", verity.root_hash)?;
        }
    }
    for entry in it.menu.iter().filter(|entry| !entry.kernel.is_empty()) {
        writeln!(out, "menu         {}:{} {}: {}", entry.config, entry.line, entry.title, entry.kernel)?;
        if !entry.options.is_empty() {
            writeln!(out, "  options      {}", entry.options)?;
        }
    }
    Ok(())
}
