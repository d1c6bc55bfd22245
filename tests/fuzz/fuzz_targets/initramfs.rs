//! An initramfs as the kernel sees it: archives one after the other, some compressed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = liveiso::initramfs::unpack(bytes);
});
