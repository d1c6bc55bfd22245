//! The cluster chains of a FAT16 image, from the root directory down: every
//! cluster number in range and used once. `fatfs` 0.3.6 trusts these numbers; a
//! first cluster of 1 makes it subtract 2 from 1.

use anyhow::{Context, Result, ensure};

use super::FIRST_CLUSTER;

/// Fewer clusters are FAT12, more FAT32.
const FAT16_CLUSTERS: std::ops::Range<usize> = 4085..65_525;
const ENTRY: usize = 32;
/// From here on an entry of the FAT is the end of a chain.
const END: usize = 0xfff8;

/// What the boot sector says, in bytes.
struct Volume<'i> {
    image: &'i [u8],
    cluster: usize,
    fat: usize,
    root: usize,
    data: usize,
    clusters: usize,
    used: Vec<bool>,
}

/// Follows every chain.
///
/// # Errors
/// A boot sector that is not FAT16's or promises more than the image has, and
/// the first chain that leaves the volume, ends early or meets another.
pub(super) fn check(image: &[u8]) -> Result<()> {
    let mut volume = Volume::new(image).context("reading the boot sector")?;
    let mut pending = vec![volume.slice(volume.root, volume.data)?.to_vec()];
    while let Some(directory) = pending.pop() {
        for entry in directory.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
            pending.extend(volume.directory_behind(entry)?);
        }
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

impl<'i> Volume<'i> {
    fn new(image: &'i [u8]) -> Result<Volume<'i>> {
        ensure!(image.len() >= 512, "the image has only {} bytes", image.len());
        let sector = word(image, 11);
        let per_cluster = usize::from(image[13]);
        ensure!(
            sector == 512 && per_cluster.is_power_of_two(),
            "no sectors of 512 bytes, no clusters of them"
        );
        let (reserved, fats, root_entries) = (word(image, 14), usize::from(image[16]), word(image, 17));
        let (sectors, fat_sectors) = (word(image, 19), word(image, 22));
        ensure!(reserved > 0 && fats > 0 && sectors > 0 && fat_sectors > 0, "it is not that of FAT16");
        let fat = reserved * sector;
        let root = fat + fats * fat_sectors * sector;
        let data = root + (root_entries * ENTRY).next_multiple_of(sector);
        let cluster = per_cluster * sector;
        let clusters = (sectors * sector).saturating_sub(data) / cluster;
        ensure!(FAT16_CLUSTERS.contains(&clusters), "{clusters} clusters are not FAT16");
        let table = (clusters + FIRST_CLUSTER as usize) * 2;
        ensure!(table <= fat_sectors * sector, "the table is too short for {clusters} clusters");
        ensure!(sectors * sector <= image.len(), "the image ends before the volume");
        let used = vec![false; clusters + FIRST_CLUSTER as usize];
        Ok(Volume { image, cluster, fat, root, data, clusters, used })
    }

    fn slice(&self, from: usize, to: usize) -> Result<&'i [u8]> {
        self.image.get(from..to).context("the image ends before the volume")
    }

    /// The bytes of the directory an entry stands for; a file's chain is only followed.
    fn directory_behind(&mut self, entry: &[u8]) -> Result<Option<Vec<u8>>> {
        const DELETED: u8 = 0xe5;
        const VOLUME: u8 = 0x08;
        const DIRECTORY: u8 = 0x10;
        // Parts of long names bear the attribute of a volume label too.
        if entry[0] == DELETED || entry[11] & VOLUME != 0 {
            return Ok(None);
        }
        let first = word(entry, 26);
        let is_directory = entry[11] & DIRECTORY != 0;
        let size = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]) as usize;
        if is_directory && entry[0] == b'.' {
            let inside = first == 0 || self.used.get(first) == Some(&true);
            ensure!(inside, "`.` or `..` names cluster {first}, which is no directory's");
            return Ok(None);
        }
        let chain = if first == 0 { Vec::new() } else { self.chain(first)? };
        if is_directory {
            ensure!(!chain.is_empty(), "a directory has no cluster");
            let mut bytes = Vec::with_capacity(chain.len() * self.cluster);
            for cluster in chain {
                let at = self.data + (cluster - FIRST_CLUSTER as usize) * self.cluster;
                bytes.extend_from_slice(self.slice(at, at + self.cluster)?);
            }
            return Ok(Some(bytes));
        }
        ensure!(
            size.div_ceil(self.cluster) == chain.len(),
            "a file of {size} bytes has {} clusters of {}",
            chain.len(),
            self.cluster
        );
        Ok(None)
    }

    fn chain(&mut self, first: usize) -> Result<Vec<usize>> {
        let (mut chain, mut next) = (Vec::new(), first);
        while next < END {
            let inside = next >= FIRST_CLUSTER as usize && next < self.clusters + FIRST_CLUSTER as usize;
            ensure!(inside, "the chain from cluster {first} leads to cluster {next}, which does not exist");
            // This ends circles as well.
            ensure!(!self.used[next], "cluster {next} belongs to two files");
            self.used[next] = true;
            chain.push(next);
            next = word(self.image, self.fat + next * 2);
        }
        Ok(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fat::{FatKind, Options, write};
    use crate::tree::parse_listing;

    #[test]
    fn every_cluster_number_is_followed_before_it_is_trusted() {
        let tree = parse_listing("file /D/F 0644 0 0 size=3000\nfile /EMPTY 0644 0 0").unwrap();
        let options = Options { label: "X".to_string(), volume_id: 7, timestamp: 0, kind: FatKind::Fat16 };
        let mut intact = Vec::new();
        write(&tree, &options, &mut intact).unwrap();
        check(&intact).unwrap();
        let Volume { fat, root, data, .. } = Volume::new(&intact).unwrap();
        // The label, then `D` in cluster 2; in it `.`, `..` and `F` in clusters 3 to 5.
        let (d, dots, f) = (root + 32, data, data + 64);
        for (at, value, message) in [
            (d + 26, 1, "the chain from cluster 1 leads to cluster 1, which does not exist"),
            (d + 26, 0, "a directory has no cluster"),
            (d + 26, 0xfff7, "the chain from cluster 65527 leads to cluster 65527, which does not exist"),
            (f + 26, 2, "cluster 2 belongs to two files"),
            (f + 26, 1, "the chain from cluster 1 leads to cluster 1, which does not exist"),
            (f + 28, 4000, "a file of 4000 bytes has 3 clusters of 1024"),
            (dots + 26, 1, "`.` or `..` names cluster 1, which is no directory's"),
            (fat + 2 * 3, 1, "the chain from cluster 3 leads to cluster 1, which does not exist"),
            (fat + 2 * 3, 0, "the chain from cluster 3 leads to cluster 0, which does not exist"),
            (fat + 2 * 4, 3, "cluster 3 belongs to two files"),
            (fat + 2 * 4, 0xffff, "a file of 3000 bytes has 2 clusters of 1024"),
            (13, 0, "no sectors of 512 bytes, no clusters of them"),
            (19, 0xffff, "the table is too short"),
            (22, 1, "the table is too short"),
        ] {
            let mut damaged = intact.clone();
            damaged[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
            let error = format!("{:#}", check(&damaged).unwrap_err());
            assert!(error.contains(message), "{message}: {error}");
        }
        let error = check(&intact[..intact.len() - 1]).unwrap_err();
        assert_eq!(format!("{error:#}"), "reading the boot sector: the image ends before the volume");
    }
}
