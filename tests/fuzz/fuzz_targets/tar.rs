//! A tar archive becomes a tree, and what came in is what squashfs and cpio take or refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::tree::{Tree, listing, parse_listing, read_tar};
use liveiso_fuzz::OnDisk;

fuzz_target!(|bytes: &[u8]| {
    let disk = OnDisk::new(bytes);
    let mut tree = Tree::new();
    if read_tar(&mut tree, &disk.input(), "fuzz").is_ok() {
        // Sparse claims are bounded by the archive, so all content can be read.
        listing(&tree).expect("what was read can be listed");
        let names: Vec<_> = tree.walk().map(|entry| entry.path).collect();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        let _ = parse_listing(&String::from_utf8_lossy(bytes));
    }
});
