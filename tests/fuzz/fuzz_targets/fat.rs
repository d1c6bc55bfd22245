//! A FAT image, compared with the tree it should hold.
//!
//! Known: fatfs 0.3.6 subtracts 2 from a cluster number below 2 (`sector_from_cluster`),
//! which panics where overflow is checked, as it is here. The program reads only
//! images back that it has just written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::tree::parse_listing;

fuzz_target!(|bytes: &[u8]| {
    let tree = parse_listing("file /EFI/BOOT/BOOTX64.EFI 0644 0 0 mtime=0 text=hello").expect("a listing");
    let _ = liveiso::format::fat::verify(bytes, &tree);
});
