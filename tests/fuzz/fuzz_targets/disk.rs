//! A disk image: MBR, GPT and the FAT volume behind them. The first MiB is the
//! table's; the input has its first 34 blocks and then the volume.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::format::disk;
use liveiso_fuzz::OnDisk;

fuzz_target!(|bytes: &[u8]| {
    let (tables, rest) = bytes.split_at(bytes.len().min(34 * 512));
    let mut image = tables.to_vec();
    image.resize(1 << 20, 0);
    image.extend_from_slice(rest);
    let file = OnDisk::new(&image);
    let _ = disk::read_tree(&file.input());
});
