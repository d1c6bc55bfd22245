//! Files that come first: where they lie, and that nothing else changes.

use std::num::NonZeroUsize;

use liveiso::format::squashfs::{Located, Options, locate};
use liveiso::plan::Compression::Lz4;
use liveiso::tree::{Content, InodeId, Tree, listing};

use super::{image, oracle, small_blocks, trees};

/// 40 files of blocks and a tail that do not compress, each of another length and content.
fn forty_files() -> Tree {
    let mut tree = Tree::new();
    let origin = tree.add_origin("test");
    for n in 0..40_u32 {
        let mut bytes = vec![0; 3 * 4096 + 100 + n as usize];
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
        tree.add_file(
            format!("d{}/f{n:02}", n % 4).as_bytes(),
            Content::bytes(bytes),
            Default::default(),
            origin,
        )
        .unwrap();
    }
    tree.add_hard_link(b"d0/other-name", b"d1/f21", origin).unwrap();
    tree
}

fn ids(tree: &Tree, paths: &[&str]) -> Vec<InodeId> {
    paths.iter().map(|path| tree.get(path.as_bytes()).unwrap()).collect()
}

/// Paths by the position of their blocks.
fn by_position(located: &[Located]) -> Vec<String> {
    let mut files: Vec<&Located> = located.iter().collect();
    files.sort_by_key(|file| (file.blocks.start, file.path.clone()));
    files.iter().map(|file| String::from_utf8(file.path.clone()).unwrap()).collect()
}

#[test]
fn listed_files_come_first_in_their_order_with_fragments_of_their_own() {
    let tree = forty_files();
    let listed = ["d3/f39", "d0/f00", "d0/other-name", "d2/f02", "d0/f00", "d1"];
    let first = ids(&tree, &listed);
    let plain = image(&tree, &small_blocks(Lz4));
    let ordered = image(&tree, &Options { first: &first, ..small_blocks(Lz4) });
    let located = locate(&ordered.path()).unwrap();
    // The two names of f21 are one file.
    let mut expected = vec!["d3/f39", "d0/f00", "d0/other-name", "d1/f21", "d2/f02"];
    assert_eq!(by_position(&located)[..5], expected);
    let names = by_position(&locate(&plain.path()).unwrap());
    expected
        .extend(names.iter().map(String::as_str).filter(|name| !listed.contains(name) && *name != "d1/f21"));
    assert_eq!(by_position(&located), expected, "the others keep their order");

    let of = |path: &str| located.iter().find(|file| file.path == path.as_bytes()).unwrap();
    let end = of("d2/f02").blocks.end;
    let fragment = of("d2/f02").fragment.clone().unwrap();
    assert_eq!(fragment.start, end, "the fragment follows the last listed file");
    for file in &located {
        let is_listed = expected[..5].contains(&std::str::from_utf8(&file.path).unwrap());
        assert_eq!(file.fragment == Some(fragment.clone()), is_listed, "{:?}", file);
        assert_eq!(file.blocks.start < fragment.start, is_listed, "{file:?}");
    }
    assert_eq!(oracle::ours(&ordered.path()).unwrap(), listing(&tree).unwrap());
    assert_eq!(oracle::unsquashfs(&ordered.path()), listing(&tree).unwrap());
}

#[test]
fn an_order_changes_no_content_and_threads_change_no_order() {
    let tree = trees::generated(11);
    let mut first: Vec<InodeId> = tree.walk().map(|entry| entry.id).collect();
    first.reverse();
    first.truncate(first.len() / 2);
    let digests = [1, 2, 5].map(|jobs| {
        let jobs = NonZeroUsize::new(jobs).unwrap();
        let image = image(&tree, &Options { first: &first, jobs, ..small_blocks(Lz4) });
        assert_eq!(oracle::ours(&image.path()).unwrap(), listing(&tree).unwrap());
        image.digest()
    });
    assert_eq!([&digests[0], &digests[0]], [&digests[1], &digests[2]]);
}

#[test]
fn inode_numbers_are_those_the_kernel_shows() {
    use std::os::unix::fs::MetadataExt;
    let tree = forty_files();
    let image = image(&tree, &small_blocks(Lz4));
    oracle::with_mount(&image.path(), |root| {
        let located = locate(&image.path()).unwrap();
        assert_eq!(located.len(), 41);
        for file in located {
            let path = root.join(std::str::from_utf8(&file.path).unwrap());
            assert_eq!(path.metadata().unwrap().ino(), u64::from(file.number), "{}", path.display());
        }
    });
}
