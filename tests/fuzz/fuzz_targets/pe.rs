//! EFI programs with their signatures and SBAT, kernels' headers, SYSLINUX's installer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::boot::syslinux::Syslinux;

fuzz_target!(|bytes: &[u8]| {
    let _ = liveiso::inspect::program(bytes);
    let _ = liveiso::inspect::kernel_header(bytes);
    let _ = Syslinux::from_program(bytes);
});
