//! A kernel module: ELF sections and symbols, .modinfo, and the compressed forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::kmod::{Elf, Module, fnmatch};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(elf) = Elf::parse(bytes) {
        let _ = elf.symbol_names().count();
        let _ = elf.wants_interpreter();
    }
    let _ = Module::parse(bytes);
    let (pattern, text) = bytes.split_at(bytes.len().min(64) / 2);
    fnmatch(pattern, &text[..text.len().min(64)]);
});
