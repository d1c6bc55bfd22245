//! A newc archive becomes a tree; a tree that came from one can be written again and is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::format::cpio;
use liveiso::tree::listing;

fuzz_target!(|bytes: &[u8]| {
    let _ = cpio::archive_length(bytes);
    if let Ok(tree) = cpio::read(bytes) {
        let mut again = Vec::new();
        if cpio::write(&tree, &mut again).is_ok() {
            let second = cpio::read(&again).expect("our own archive is read");
            assert_eq!(listing(&second).unwrap(), listing(&tree).unwrap());
        }
    }
});
