//! The boot structures of an ISO image. The first 16 sectors of a medium are its
//! system area: only the MBR of it matters, so the input leaves the rest out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso_fuzz::OnDisk;

fuzz_target!(|bytes: &[u8]| {
    let (mbr, rest) = bytes.split_at(bytes.len().min(512));
    let mut medium = mbr.to_vec();
    medium.resize(32 << 10, 0);
    medium.extend_from_slice(rest);
    let disk = OnDisk::new(&medium);
    let _ = liveiso::format::iso9660::read(&disk.input());
});
