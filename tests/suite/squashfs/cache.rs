//! The block cache: no influence on the result, whatever state it is in.

use std::fs;
use std::path::{Path, PathBuf};

use liveiso::format::squashfs::{BlockCache, Options, levels};
use liveiso::plan::Compression::{Xz, Zstd};
use liveiso::tree::Content;

use super::{COMPRESSORS, image, small_blocks, trees};

fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

const ROOMY: u64 = 1 << 30;

#[test]
fn an_unchanged_tree_is_not_compressed_again() {
    let tree = trees::generated(3);
    for compression in COMPRESSORS {
        let dir = tempfile::tempdir().unwrap();
        let clean = image(&tree, &small_blocks(compression));
        assert!(clean.summary.new_blocks > 100);
        for expected in [clean.summary.new_blocks, 0, 0] {
            let cache = BlockCache::open(dir.path(), ROOMY).unwrap();
            let options = Options { block_cache: Some(&cache), ..small_blocks(compression) };
            let cached = image(&tree, &options);
            assert_eq!(cached.digest(), clean.digest(), "{compression:?}");
            assert_eq!(cached.summary.new_blocks, expected, "{compression:?}");
        }
        assert_eq!(packs(dir.path()).len(), 1, "runs without news add no pack");
    }
}

#[test]
fn a_small_change_touches_few_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = trees::generated(4);
    let origin = tree.add_origin("test");
    let mut new_blocks = Vec::new();
    for version in 100..103 {
        let content = Content::bytes(vec![version; 10_000]);
        tree.add_file(b"changing", content, Default::default(), origin).unwrap();
        let cache = BlockCache::open(dir.path(), ROOMY).unwrap();
        let cached = image(&tree, &Options { block_cache: Some(&cache), ..small_blocks(Zstd) });
        assert_eq!(cached.digest(), image(&tree, &small_blocks(Zstd)).digest());
        new_blocks.push(cached.summary.new_blocks);
    }
    // Two full blocks, equal to each other, and the fragment block with the tail.
    assert_eq!(new_blocks[1..], [3, 3]);
}

#[test]
fn settings_do_not_share_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let tree = trees::generated(5);
    for compression in COMPRESSORS {
        for level in [3, 5].into_iter().filter(|level| levels(compression).contains(level)) {
            let cache = BlockCache::open(dir.path(), ROOMY).unwrap();
            let options = Options { level, ..small_blocks(compression) };
            let clean = image(&tree, &options);
            let cached = image(&tree, &Options { block_cache: Some(&cache), ..options });
            assert_eq!(cached.digest(), clean.digest(), "{compression:?} {level}");
        }
    }
}

#[test]
fn damage_costs_time_and_nothing_else() {
    let tree = trees::generated(6);
    let clean = image(&tree, &small_blocks(Xz)).digest();
    let run = |dir: &Path| {
        let cache = BlockCache::open(dir, ROOMY).unwrap();
        let cached = image(&tree, &Options { block_cache: Some(&cache), ..small_blocks(Xz) });
        assert_eq!(cached.digest(), clean);
        cached.summary.new_blocks
    };
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    let pack = packs(dir.path()).remove(0);
    let intact = fs::read(&pack).unwrap();
    for at in [0, 33, 35, 37, 45, intact.len() / 2, intact.len() - 1] {
        let mut damaged = intact.clone();
        damaged[at] ^= 0x55;
        fs::write(&pack, damaged).unwrap();
        assert!(run(dir.path()) > 0, "a damaged byte {at} was not noticed");
        // The damaged pack is gone, what it had is in another one or comes again.
        run(dir.path());
        assert_eq!(run(dir.path()), 0, "the cache did not mend byte {at}");
        packs(dir.path()).iter().for_each(|p| fs::remove_file(p).unwrap());
    }
    fs::write(&pack, &intact[..intact.len() - 10]).unwrap();
    assert_eq!(run(dir.path()), 1, "the last block was cut off");
}

#[test]
fn the_least_recently_used_packs_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BlockCache::open(dir.path(), 0).unwrap();
    image(&trees::generated(8), &Options { block_cache: Some(&cache), ..small_blocks(Zstd) });
    assert_eq!(packs(dir.path()), Vec::<PathBuf>::new());
}
