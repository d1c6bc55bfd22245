//! What one module file says of itself.

use std::io::Read;

use anyhow::{Context, Result, anyhow, ensure};

use super::elf::Elf;
use crate::tree::display_path;

/// No module comes near this when unpacked; more is a bomb.
const MAX_MODULE_LEN: u64 = 256 << 20;

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

/// An alias becomes a word of a line in modules.alias.
fn one_word(alias: &str) -> Result<String> {
    let fits = alias.is_ascii() && !alias.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control());
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
    let mut plain = Vec::new();
    let limit = MAX_MODULE_LEN + 1;
    match &file[..file.len().min(6)] {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => liblzma::read::XzDecoder::new(&file[..])
            .take(limit)
            .read_to_end(&mut plain)
            .context("unpacking xz")?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::stream::read::Decoder::new(&file[..])
            .and_then(|decoder| decoder.take(limit).read_to_end(&mut plain))
            .context("unpacking zstd")?,
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(&file[..])
            .take(limit)
            .read_to_end(&mut plain)
            .context("unpacking gzip")?,
        _ => return Ok(file),
    };
    ensure!(plain.len() as u64 <= MAX_MODULE_LEN, "it unpacks to more than {MAX_MODULE_LEN} bytes");
    Ok(plain)
}
