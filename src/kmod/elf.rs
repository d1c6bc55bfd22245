//! The little of ELF that kernel modules need: sections and symbol names.
//!
//! Little-endian ELF32 and ELF64 as in the System V gABI, chapters 4 and 5.
//! Every offset is checked against the file; nothing is allocated by a size
//! the file claims.

/// Why bytes are not a usable ELF file, as a clause.
#[derive(Debug, PartialEq, Eq)]
pub struct ElfError(pub &'static str);

impl std::fmt::Display for ElfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ElfError {}

const SHT_SYMTAB: u32 = 2;
const SHT_DYNAMIC: u32 = 6;
const SHT_NOBITS: u32 = 8;
const PT_INTERP: u32 = 3;
const DT_NULL: u32 = 0;
const DT_NEEDED: u32 = 1;
const DT_RPATH: u32 = 15;
const DT_RUNPATH: u32 = 29;

/// An ELF file in memory, its headers checked.
#[derive(Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    class: Class,
    sections: Vec<Section<'a>>,
    machine: u16,
}

/// Names in a dynamic section (gABI, chapter 5).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dynamic<'a> {
    /// Libraries by name, in the order of searching.
    pub needed: Vec<&'a [u8]>,
    /// Directories to look into first, with colons between them.
    pub runpath: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Elf32,
    Elf64,
}

#[derive(Debug)]
struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    link: u32,
    data: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Reads the headers and the section table.
    ///
    /// # Errors
    /// Other files, big-endian ones, and tables that do not lie inside the file.
    pub fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, ElfError> {
        let ident = bytes.get(..16).ok_or(ElfError("is too short for an ELF file"))?;
        if &ident[..4] != b"\x7fELF" {
            return Err(ElfError("is not an ELF file"));
        }
        let class = match ident[4] {
            1 => Class::Elf32,
            2 => Class::Elf64,
            _ => return Err(ElfError("is neither a 32-bit nor a 64-bit ELF file")),
        };
        if ident[5] != 1 {
            return Err(ElfError("is not a little-endian ELF file"));
        }
        let mut elf = Elf { bytes, class, sections: Vec::new(), machine: 0 };
        elf.machine = elf.u16(18)?;
        elf.read_sections()?;
        Ok(elf)
    }

    /// `e_machine`: 3 is i386, 62 is x86-64.
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// The data of the first section of this name; `None` when there is none.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|s| s.name == name.as_bytes()).map(|s| s.data)
    }

    /// Names in the symbol table, in its order; damaged entries are skipped.
    pub fn symbol_names(&self) -> impl Iterator<Item = &'a [u8]> {
        let table = self.sections.iter().find(|s| s.kind == SHT_SYMTAB);
        let strings = table.and_then(|t| self.sections.get(t.link as usize)).map_or(&[][..], |s| s.data);
        let entry_len = if self.class == Class::Elf32 { 16 } else { 24 };
        let entries = table.map_or(&[][..], |t| t.data).chunks_exact(entry_len);
        entries.filter_map(move |entry| c_string(strings, u32_at(entry, 0)? as usize))
    }

    /// Whether the program wants a dynamic loader, which an initramfs does not have.
    ///
    /// # Errors
    /// A program header table that does not lie inside the file.
    pub fn wants_interpreter(&self) -> Result<bool, ElfError> {
        let (table, entry_len, count) = match self.class {
            Class::Elf32 => (u64::from(self.u32(28)?), self.u16(42)?, self.u16(44)?),
            Class::Elf64 => (self.u64(32)?, self.u16(54)?, self.u16(56)?),
        };
        for n in 0..u64::from(count) {
            let at = table.checked_add(n * u64::from(entry_len)).ok_or(OUTSIDE)?;
            if self.u32(at)? == PT_INTERP {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The dynamic loader the program asks for.
    pub fn interpreter(&self) -> Option<&'a [u8]> {
        self.section(".interp").map(|path| path.split(|b| *b == 0).next().unwrap_or_default())
    }

    /// What the dynamic section says about libraries; empty for static programs.
    ///
    /// # Errors
    /// Names that do not lie in the section's string table.
    pub fn dynamic(&self) -> Result<Dynamic<'a>, ElfError> {
        let mut dynamic = Dynamic::default();
        let Some(section) = self.sections.iter().find(|s| s.kind == SHT_DYNAMIC) else { return Ok(dynamic) };
        let strings = self.sections.get(section.link as usize).map_or(&[][..], |s| s.data);
        // Entries are pairs of words; strings lie below 4 GiB in either class.
        let (entry_len, value_at) = if self.class == Class::Elf32 { (8, 4) } else { (16, 8) };
        for entry in section.data.chunks_exact(entry_len) {
            let (tag, value) = (u32_at(entry, 0), u32_at(entry, value_at));
            let string = |at: Option<u32>| c_string(strings, at.unwrap_or(u32::MAX) as usize).ok_or(OUTSIDE);
            match tag {
                Some(DT_NULL) => break,
                Some(DT_NEEDED) => dynamic.needed.push(string(value)?),
                Some(DT_RPATH | DT_RUNPATH) => dynamic.runpath = Some(string(value)?),
                _ => {}
            }
        }
        Ok(dynamic)
    }

    fn read_sections(&mut self) -> Result<(), ElfError> {
        let (table, entry_len, count, names) = match self.class {
            Class::Elf32 => (u64::from(self.u32(32)?), self.u16(46)?, self.u16(48)?, self.u16(50)?),
            Class::Elf64 => (self.u64(40)?, self.u16(58)?, self.u16(60)?, self.u16(62)?),
        };
        let headers: Vec<(u32, Section<'a>)> = (0..u64::from(count))
            .map(|n| {
                let at = table.checked_add(n * u64::from(entry_len)).ok_or(OUTSIDE)?;
                self.slice(at, u64::from(entry_len))?;
                self.section_header(at)
            })
            .collect::<Result<_, _>>()?;
        let strings = headers.get(usize::from(names)).map_or(&[][..], |(_, s)| s.data);
        let named = headers.into_iter().map(|(name, section)| Section {
            name: c_string(strings, name as usize).unwrap_or_default(),
            ..section
        });
        self.sections = named.collect();
        Ok(())
    }

    fn section_header(&self, at: u64) -> Result<(u32, Section<'a>), ElfError> {
        let (name, kind) = (self.u32(at)?, self.u32(at + 4)?);
        let (offset, size, link) = match self.class {
            Class::Elf32 => {
                (u64::from(self.u32(at + 16)?), u64::from(self.u32(at + 20)?), self.u32(at + 24)?)
            }
            Class::Elf64 => (self.u64(at + 24)?, self.u64(at + 32)?, self.u32(at + 40)?),
        };
        let data = if kind == SHT_NOBITS || kind == 0 { &[][..] } else { self.slice(offset, size)? };
        Ok((name, Section { name: &[], kind, link, data }))
    }

    fn slice(&self, offset: u64, size: u64) -> Result<&'a [u8], ElfError> {
        let start = usize::try_from(offset).map_err(|_| OUTSIDE)?;
        let size = usize::try_from(size).map_err(|_| OUTSIDE)?;
        let end = start.checked_add(size).ok_or(OUTSIDE)?;
        self.bytes.get(start..end).ok_or(OUTSIDE)
    }

    fn u16(&self, at: u64) -> Result<u16, ElfError> {
        let b = self.slice(at, 2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&self, at: u64) -> Result<u32, ElfError> {
        u32_at(self.slice(at, 4)?, 0).ok_or(OUTSIDE)
    }

    fn u64(&self, at: u64) -> Result<u64, ElfError> {
        let low = u64::from(self.u32(at)?);
        let high = u64::from(self.u32(at.checked_add(4).ok_or(OUTSIDE)?)?);
        Ok(high << 32 | low)
    }
}

const OUTSIDE: ElfError = ElfError("has a table or section outside the file");

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// The bytes from `at` up to a NUL; `None` when there is no NUL.
fn c_string(strings: &[u8], at: usize) -> Option<&[u8]> {
    let rest = strings.get(at..)?;
    Some(&rest[..rest.iter().position(|&b| b == 0)?])
}
