//! An EROFS image of any maker: every directory and file, at most 1 MiB of each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::format::erofs;
use liveiso_fuzz::OnDisk;

fuzz_target!(|bytes: &[u8]| {
    let disk = OnDisk::new(bytes);
    let Ok(reader) = erofs::Reader::open(&disk.input(), 0, bytes.len() as u64) else { return };
    for entry in reader.entries().unwrap_or_default() {
        let _ = reader.read_file(&entry.path, 1 << 20);
    }
});
