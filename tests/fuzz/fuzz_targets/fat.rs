//! A FAT16 image, compared with the tree it should hold. The input has a boot
//! sector, the beginning of a table, a root directory and the first clusters, each
//! at the place where the seed's boot sector says it is; what lies between is zero.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::tree::parse_listing;

/// Of the seed: one reserved sector, two tables of 17, a root directory of 16 entries.
const SECTORS: usize = 4400;
const PIECES: [(usize, usize); 4] = [(0, 512), (512, 512), (35 * 512, 512), (36 * 512, usize::MAX)];

fuzz_target!(|bytes: &[u8]| {
    let mut image = vec![0; SECTORS * 512];
    let mut rest = bytes;
    for (at, length) in PIECES {
        let piece = rest.split_off(..length.min(rest.len())).unwrap_or_default();
        let end = (at + piece.len()).min(image.len());
        image[at..end].copy_from_slice(&piece[..end - at]);
    }
    let tree = parse_listing("file /EFI/BOOT/BOOTX64.EFI 0644 0 0 mtime=0 text=hello").expect("a listing");
    let _ = liveiso::format::fat::verify(&image, &tree);
});
