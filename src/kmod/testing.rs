//! Small kernel modules for tests, made as the gABI describes them, and trees of them.

use crate::tree::{Content, Meta, Tree};

/// A kernel `6.1.0-t` of modules given by path and `.modinfo` fields (`depends=a,b alias=x`).
pub(crate) fn kernel(modules: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::new();
    let origin = tree.add_origin("kernel package");
    for (path, fields) in modules {
        let fields: Vec<_> = fields.split('|').filter_map(|field| field.split_once('=')).collect();
        let plain = ko(Bits::Elf32, &fields, &[]);
        let bytes = if path.ends_with(".zst") { zstd::bulk::compress(&plain, 1).unwrap() } else { plain };
        let path = format!("usr/lib/modules/6.1.0-t/{path}");
        tree.add_file(path.as_bytes(), Content::bytes(bytes), Meta::default(), origin).unwrap();
    }
    tree
}

/// Gives that kernel a text file.
pub(crate) fn add_text(tree: &mut Tree, name: &str, text: &str) {
    let path = format!("usr/lib/modules/6.1.0-t/{name}");
    let origin = tree.add_origin("kernel package");
    tree.add_file(path.as_bytes(), Content::bytes(text), Meta::default(), origin).unwrap();
}

/// Width of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    Elf32,
    Elf64,
}

impl Bits {
    fn word(self, value: usize) -> Vec<u8> {
        match self {
            Bits::Elf32 => (value as u32).to_le_bytes().to_vec(),
            Bits::Elf64 => (value as u64).to_le_bytes().to_vec(),
        }
    }
}

/// A `.ko` with these `.modinfo` fields that exports these symbols.
pub(crate) fn ko(bits: Bits, modinfo: &[(&str, &str)], exports: &[&str]) -> Vec<u8> {
    let modinfo: String = modinfo.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
    let (mut symbols, mut names) = (Vec::new(), vec![0]);
    for name in exports {
        let offset = (names.len() as u32).to_le_bytes();
        symbols.extend(offset);
        symbols.extend(vec![0; if bits == Bits::Elf32 { 12 } else { 20 }]);
        names.extend(format!("__ksymtab_{name}\0").into_bytes());
    }
    let modinfo = (".modinfo", 1, 0, modinfo.as_bytes());
    elf(bits, &[modinfo, (".symtab", 2, 3, &symbols), (".strtab", 3, 0, &names)])
}

/// A dynamically linked program: its loader, what it needs, where that may lie.
pub(crate) fn program(bits: Bits, interpreter: &str, needed: &[&str], runpath: Option<&str>) -> Vec<u8> {
    let (mut dynamic, mut names) = (Vec::new(), vec![0]);
    let tags = needed.iter().map(|name| (1, *name)).chain(runpath.map(|path| (29, path)));
    for (tag, name) in tags {
        dynamic.extend([bits.word(tag), bits.word(names.len())].concat());
        names.extend(format!("{name}\0").into_bytes());
    }
    // DT_NULL, and what is behind it does not count.
    dynamic.extend([bits.word(0), bits.word(0), bits.word(1), bits.word(9999)].concat());
    let interpreter = format!("{interpreter}\0");
    let interpreter = (".interp", 1, 0, interpreter.as_bytes());
    elf(bits, &[interpreter, (".dynamic", 6, 3, &dynamic), (".dynstr", 3, 0, &names)])
}

/// Three sections: name, type, link, data; an empty one in front, the names behind.
fn elf(bits: Bits, three: &[(&str, u32, u32, &[u8]); 3]) -> Vec<u8> {
    let mut section_names = vec![0];
    let mut sections: Vec<(u32, u32, u32, &[u8])> = vec![(0, 0, 0, b"")];
    for (name, kind, link, data) in three {
        sections.push((section_names.len() as u32, *kind, *link, data));
        section_names.extend(format!("{name}\0").into_bytes());
    }
    let own_name = section_names.len() as u32;
    section_names.extend(b".shstrtab\0");
    sections.push((own_name, 3, 0, &section_names));
    let mut file = vec![0; if bits == Bits::Elf32 { 52 } else { 64 }];
    let mut headers = Vec::new();
    for (name, kind, link, data) in sections {
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        headers.extend([bits.word(0), bits.word(0), bits.word(file.len()), bits.word(data.len())].concat());
        headers.extend(link.to_le_bytes());
        headers.extend([vec![0; 4], bits.word(1), bits.word(0)].concat());
        file.extend(data);
    }
    let (class, machine, header_len) = if bits == Bits::Elf32 { (1, 3, 40) } else { (2, 62, 64) };
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    file[16] = 1;
    file[18] = machine;
    let (at, counts) = if bits == Bits::Elf32 { (32, 46) } else { (40, 58) };
    let table = bits.word(file.len());
    file[at..at + table.len()].copy_from_slice(&table);
    file[counts..counts + 6].copy_from_slice(&[header_len, 0, 5, 0, 4, 0]);
    file.extend(headers);
    file
}
