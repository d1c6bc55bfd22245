//! A whole ISO as `inspect` and `inspect --lint` see it: MBR, GPT, El Torito, directories, ESP, menus.
//! Of the system area the first 34 blocks matter, so the input leaves the rest out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::inspect::{inspect, lint, text};
use liveiso_fuzz::OnDisk;

fuzz_target!(|bytes: &[u8]| {
    let (tables, rest) = bytes.split_at(bytes.len().min(34 * 512));
    let mut medium = tables.to_vec();
    medium.resize(32 << 10, 0);
    medium.extend_from_slice(rest);
    let disk = OnDisk::new(&medium);
    if let Ok(inspection) = inspect(&disk.input()) {
        let _ = text(&inspection);
        let _ = lint::lint(&inspection);
    }
});
