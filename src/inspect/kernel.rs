//! Linux kernels by the header of the x86 boot protocol (`Documentation/arch/x86/boot.rst`).

use serde::Serialize;

/// An x86 kernel image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Header {
    /// `6.1.0-50-686 (…) …`: the version string, empty if there is none.
    pub version: String,
    /// `x86_64` if it has a 64-bit entry point, else `i386`.
    pub arch: &'static str,
    /// Version of the boot protocol, major in the high byte.
    pub protocol: u16,
}

impl Header {
    /// The release alone: `6.1.0-50-686`.
    pub fn release(&self) -> &str {
        self.version.split(' ').next().unwrap_or_default()
    }
}

/// Bytes of a kernel that [`read`] needs: the version string lies in the setup code.
pub(super) const HEAD: usize = 64 << 10;

/// Reads the first bytes of a file, or `None` if it is no bzImage.
pub(super) fn read(bytes: &[u8]) -> Option<Header> {
    let u16_at = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if bytes.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let protocol = u16_at(0x206)?;
    let version = match usize::from(u16_at(0x20e)?) {
        0 => "",
        offset => {
            let text = bytes.get(offset + 0x200..).unwrap_or_default();
            let end = text.iter().take(256).position(|&b| b == 0).unwrap_or_default();
            std::str::from_utf8(&text[..end]).unwrap_or_default()
        }
    };
    // XLF_KERNEL_64 exists since protocol 2.12.
    let is_64 = protocol >= 0x020c && u16_at(0x236)? & 1 != 0;
    let arch = if is_64 { "x86_64" } else { "i386" };
    Some(Header { version: version.to_string(), arch, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_header_and_nothing_that_is_not_there() {
        let mut bytes = vec![0; 0x300];
        assert_eq!(read(&bytes), None);
        bytes[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        bytes[0x20e] = 0x80;
        bytes[0x236] = 1;
        bytes[0x280..0x28a].copy_from_slice(b"6.1.0 (x)\0");
        let header = read(&bytes).unwrap();
        assert_eq!((header.release(), header.arch, header.protocol), ("6.1.0", "x86_64", 0x020f));
        bytes[0x20f] = 0xff;
        assert_eq!(read(&bytes).unwrap().version, "");
        for length in 0..bytes.len() {
            let _ = read(&bytes[..length]);
        }
    }
}
