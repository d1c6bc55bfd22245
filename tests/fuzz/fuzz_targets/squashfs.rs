//! A squashfs image becomes a tree, with at most 16 MiB of content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::format::squashfs;
use liveiso_fuzz::OnDisk;

fuzz_target!(|bytes: &[u8]| {
    let disk = OnDisk::new(bytes);
    if let Ok(tree) = squashfs::read(&disk.input(), &disk.output(), 16 << 20) {
        liveiso::tree::listing(&tree).expect("what was read can be listed");
    }
});
