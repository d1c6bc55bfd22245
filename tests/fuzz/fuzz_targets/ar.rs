//! A Debian package: its ar members, its control file, its decompressed data.
#![no_main]

use std::io::{self, Write};

use libfuzzer_sys::fuzz_target;
use liveiso::source::Deb;
use liveiso_fuzz::OnDisk;

/// Takes a while and then fails, as a full disk does: a compressed bomb is no finding.
struct Limited(usize);

impl Write for Limited {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let disk = OnDisk::new(bytes);
    if let Ok(deb) = Deb::open(&disk.input()) {
        let _ = deb.control();
        let _ = deb.write_data(&mut Limited(4 << 20));
    }
});
