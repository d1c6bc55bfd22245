//! What one module file says of itself.

use std::io::Read;

use anyhow::{Context, Result, anyhow, ensure};

use liblzma::read::XzDecoder;
use liblzma::stream::Stream;

use super::elf::Elf;
use crate::tree::display_path;

/// No module comes near this when unpacked; more is a bomb.
const MAX_MODULE_LEN: u64 = 256 << 20;
/// Memory for unpacking xz; the kernel's build uses a dictionary of 2 MiB, Debian's 8 MiB.
const MAX_DICTIONARY: u64 = 128 << 20;

/// A module's `.modinfo` and exported symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// `name=`, the kernel's own name of it, with `_`; empty in modules before Linux 4.12.
    pub name: String,
    /// `alias=` lines in their order, as written.
    pub aliases: Vec<String>,
    /// `depends=`: modules whose symbols it uses, with `_`.
    pub depends: Vec<String>,
    /// `softdep=` lines in their order.
    pub softdeps: Vec<Softdep>,
    /// `firmware=` lines in their order: paths below `lib/firmware`.
    pub firmware: Vec<String>,
    /// `vermagic=`: kernel release and options it was built for.
    pub vermagic: String,
    /// Symbols it exports, sorted.
    pub exports: Vec<String>,
}

/// One `softdep=` line: modules to load before or after, without needing them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Softdep {
    /// The line as written, for modules.softdep.
    pub text: String,
    /// Names or aliases after `pre:`, as written.
    pub pre: Vec<String>,
    /// Names or aliases after `post:`, as written.
    pub post: Vec<String>,
}

impl Softdep {
    /// Words before the first `pre:` or `post:` mean nothing, as in kmod.
    fn parse(text: &str) -> Softdep {
        let mut softdep = Softdep { text: text.to_string(), ..Softdep::default() };
        let mut group = None;
        for word in text.split_ascii_whitespace() {
            match (word, group) {
                ("pre:" | "post:", _) => group = Some(word),
                (name, Some("pre:")) => softdep.pre.push(name.to_string()),
                (name, Some(_)) => softdep.post.push(name.to_string()),
                (_, None) => {}
            }
        }
        softdep
    }
}

impl Module {
    /// Reads an unpacked `.ko`.
    ///
    /// # Errors
    /// Files that are no ELF object, and a `.modinfo` that is missing or not text.
    pub fn parse(ko: &[u8]) -> Result<Module> {
        let elf = Elf::parse(ko).map_err(|e| anyhow!("it {e}"))?;
        let modinfo = elf.section(".modinfo").context("it has no .modinfo section")?;
        let mut module = Module::default();
        for line in modinfo.split(|&b| b == 0).filter(|line| !line.is_empty()) {
            let text = std::str::from_utf8(line);
            // Authors' names may be in Latin-1; what we read is ASCII.
            let Some((key, value)) = text.ok().and_then(|t| t.split_once('=')) else {
                continue;
            };
            module.set(key, value)?;
        }
        let symbols = elf.symbol_names().filter_map(|s| s.strip_prefix(b"__ksymtab_"));
        module.exports = symbols.map(|s| String::from_utf8_lossy(s).into_owned()).collect();
        module.exports.sort();
        module.exports.dedup();
        Ok(module)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "alias" => self.aliases.push(one_word(value)?),
            "firmware" => self.firmware.push(value.to_string()),
            "softdep" => self.softdeps.push(Softdep::parse(one_line(value)?)),
            "name" => self.name = normalized_name(value),
            "vermagic" => self.vermagic = value.to_string(),
            "depends" => {
                let names = value.split(',').filter(|name| !name.is_empty());
                self.depends.extend(names.map(normalized_name));
            }
            _ => {}
        }
        Ok(())
    }
}

/// An alias becomes a word of a line in modules.alias. Kernels have had typing errors
/// in them (5.10: a control character), which depmod keeps and no device asks for.
fn one_word(alias: &str) -> Result<String> {
    // 0x0b is white space to depmod's readers and not to Rust.
    let fits = alias.is_ascii() && !alias.bytes().any(|b| b.is_ascii_whitespace() || matches!(b, 0 | 0x0b));
    ensure!(
        fits && !alias.is_empty(),
        "its alias `{}` is not one ASCII word",
        display_path(alias.as_bytes())
    );
    Ok(alias.to_string())
}

fn one_line(text: &str) -> Result<&str> {
    let fits = !text.bytes().any(|b| b.is_ascii_control());
    ensure!(fits, "its softdep `{}` is not one line", display_path(text.as_bytes()));
    Ok(text)
}

/// A module's name as the kernel knows it: `-` and `_` are the same.
pub fn normalized_name(name: &str) -> String {
    name.replace('-', "_")
}

/// The plain `.ko` of a module file, whose compression (`.ko`, `.ko.xz`,
/// `.ko.zst`, `.ko.gz`) is told by its first bytes.
///
/// # Errors
/// Damaged compression, and more than 256 MiB of content.
pub fn decompressed(file: Vec<u8>) -> Result<Vec<u8>> {
    match &file[..file.len().min(6)] {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = Stream::new_stream_decoder(MAX_DICTIONARY, 0).context("preparing to unpack xz")?;
            bounded(XzDecoder::new_stream(&file[..], stream)).context("unpacking xz")
        }
        // The decoder's own limit for the window is 128 MiB.
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            bounded(zstd::stream::read::Decoder::new(&file[..])?).context("unpacking zstd")
        }
        [0x1f, 0x8b, ..] => bounded(flate2::read::GzDecoder::new(&file[..])).context("unpacking gzip"),
        _ => Ok(file),
    }
}

fn bounded(reader: impl Read) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    reader.take(MAX_MODULE_LEN + 1).read_to_end(&mut plain)?;
    ensure!(plain.len() as u64 <= MAX_MODULE_LEN, "it unpacks to more than {MAX_MODULE_LEN} bytes");
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod::testing::{Bits, ko};

    const FIELDS: &[(&str, &str)] = &[
        ("license", "GPL"),
        ("alias", "pci:v00001000d*"),
        ("alias", "fs-x"),
        ("depends", "usb-common,scsi_mod"),
        ("softdep", "junk pre: a-b c post: d"),
        ("name", "x_y"),
        ("firmware", "x/y.bin"),
        ("vermagic", "6.1.0 SMP"),
        ("author", "J\u{e9}r\u{f4}me"),
    ];

    #[test]
    fn modules_of_both_widths_say_what_they_are() {
        let text = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        let expected = Module {
            name: "x_y".to_string(),
            aliases: text(&["pci:v00001000d*", "fs-x"]),
            depends: text(&["usb_common", "scsi_mod"]),
            softdeps: vec![Softdep {
                text: "junk pre: a-b c post: d".to_string(),
                pre: text(&["a-b", "c"]),
                post: text(&["d"]),
            }],
            firmware: text(&["x/y.bin"]),
            vermagic: "6.1.0 SMP".to_string(),
            exports: text(&["x_add", "x_remove"]),
        };
        for bits in [Bits::Elf32, Bits::Elf64] {
            let module = Module::parse(&ko(bits, FIELDS, &["x_remove", "x_add"])).unwrap();
            assert_eq!(module, expected);
        }
    }

    #[test]
    fn every_compression_gives_the_same_module() {
        use std::io::Write;
        let plain = ko(Bits::Elf32, FIELDS, &[]);
        let zstd = zstd::bulk::compress(&plain, 3).unwrap();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&plain[..], 1).read_to_end(&mut xz).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        for file in [plain.clone(), zstd.clone(), xz.clone(), gzip.clone()] {
            assert!(decompressed(file).unwrap() == plain);
        }
        for (file, message) in [(zstd, "unpacking zstd"), (xz, "unpacking xz"), (gzip, "unpacking gzip")] {
            let error = decompressed(file[..file.len() - 10].to_vec()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn damage_is_an_error_or_harmless() {
        for bits in [Bits::Elf32, Bits::Elf64] {
            let good = ko(bits, FIELDS, &["x_add"]);
            for at in 0..good.len() {
                for with in [0x00, 0x7f, 0x80, 0xff] {
                    let mut bytes = good.clone();
                    bytes[at] = with;
                    let _ = Module::parse(&bytes);
                    let _ = Elf::parse(&bytes).map(|elf| elf.wants_interpreter());
                }
                let _ = Module::parse(&good[..at]);
            }
        }
    }

    #[test]
    fn what_cannot_be_a_module_is_refused() {
        let refusal = |bytes: &[u8]| format!("{:#}", Module::parse(bytes).unwrap_err());
        let mut big_endian = ko(Bits::Elf32, &[], &[]);
        big_endian[5] = 2;
        assert_eq!(refusal(b"text"), "it is too short for an ELF file");
        assert_eq!(refusal(&[0; 64]), "it is not an ELF file");
        assert_eq!(refusal(&big_endian), "it is not a little-endian ELF file");
        for (fields, message) in [
            (("alias", "two words"), "its alias `two words` is not one ASCII word"),
            (("alias", ""), "its alias `` is not one ASCII word"),
            (("alias", "a\u{b}b"), "its alias `a\\u{b}b` is not one ASCII word"),
            (("softdep", "pre: a\nalias b"), "its softdep `pre: a\\nalias b` is not one line"),
        ] {
            assert_eq!(refusal(&ko(Bits::Elf64, &[fields], &[])), message);
        }
        let cut = ko(Bits::Elf32, FIELDS, &[]);
        assert_eq!(refusal(&cut[..cut.len() - 1]), "it has a table or section outside the file");
    }
}
