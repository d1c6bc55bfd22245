//! The program `/bin/ioctl`: passes a request from its standard input on to the
//! driver behind descriptor 3. busybox has none, and the device mapper hears
//! nothing but ioctls; dmsetup and its libraries are 5 MB.
//!
//! ```text
//! ioctl 3<>DEVICE <REQUEST     REQUEST: 32 bits, the number; then its structure
//! ```
//! At most 4096 bytes are read, in one read; the exit status is the error number,
//! 0 for none. The structure's own size is the caller's affair. What the driver
//! answers is not shown.
//!
//! It is three system calls, so it is written here as the processor reads it: the
//! same bytes on any host, without a cross compiler. ELF as in the System V gABI,
//! chapters 4 and 5, with one segment and no sections.

use crate::plan::Arch;

/// ```text
/// sub esp, 4096                 room for the request
/// mov ecx, esp
/// xor ebx, ebx
/// mov edx, 4096
/// mov eax, 3;  int 0x80         read(0, esp, 4096)
/// lea edx, [ecx+4]
/// mov ecx, [ecx]
/// mov bl, 3
/// mov eax, 54; int 0x80         ioctl(3, number, structure)
/// neg eax
/// mov ebx, eax
/// mov eax, 1;  int 0x80         _exit(error)
/// ```
const I386: &[u8] = &[
    0x81, 0xec, 0x00, 0x10, 0x00, 0x00, 0x89, 0xe1, 0x31, 0xdb, 0xba, 0x00, 0x10, 0x00, 0x00, 0xb8, 0x03,
    0x00, 0x00, 0x00, 0xcd, 0x80, 0x8d, 0x51, 0x04, 0x8b, 0x09, 0xb3, 0x03, 0xb8, 0x36, 0x00, 0x00, 0x00,
    0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 0x01, 0x00, 0x00, 0x00, 0xcd, 0x80,
];

/// The same with `syscall`: read is 0, ioctl 16, _exit 60.
const AMD64: &[u8] = &[
    0x48, 0x81, 0xec, 0x00, 0x10, 0x00, 0x00, 0x48, 0x89, 0xe6, 0x31, 0xff, 0xba, 0x00, 0x10, 0x00, 0x00,
    0x31, 0xc0, 0x0f, 0x05, 0xbf, 0x03, 0x00, 0x00, 0x00, 0x8b, 0x34, 0x24, 0x48, 0x8d, 0x54, 0x24, 0x04,
    0xb8, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xf7, 0xd8, 0x89, 0xc7, 0xb8, 0x3c, 0x00, 0x00, 0x00, 0x0f,
    0x05,
];

/// Where the kernel maps the file; above the lowest address programs may have.
const ADDRESS: u32 = 0x0040_0000;

/// The program for an architecture.
pub fn ioctl_program(arch: Arch) -> Vec<u8> {
    executable(arch, I386, AMD64)
}

/// The file of a program that is nothing but this code.
pub(super) fn executable(arch: Arch, i386: &[u8], amd64: &[u8]) -> Vec<u8> {
    match arch {
        Arch::I386 => elf32(i386),
        Arch::Amd64 => elf64(amd64),
    }
}

/// `e_ident`, `e_type` (executable), `e_machine` and `e_version`.
fn identification(class: u8, machine: u16) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([2, 0]);
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes
}

fn elf32(code: &[u8]) -> Vec<u8> {
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + code.len() as u32;
    let mut bytes = identification(1, 3);
    // e_entry, e_phoff, e_shoff, e_flags
    let words = [ADDRESS + HEADERS, 52, 0, 0];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    bytes.extend([52_u16, 32, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // PT_LOAD: p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_flags (read, execute), p_align
    let segment = [1, 0, ADDRESS, ADDRESS, size, size, 5, 0x1000];
    bytes.extend(segment.iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(code);
    bytes
}

fn elf64(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let (size, address) = (HEADERS + code.len() as u64, u64::from(ADDRESS));
    let mut bytes = identification(2, 62);
    // e_entry, e_phoff, e_shoff; e_flags
    bytes.extend([address + HEADERS, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // PT_LOAD: p_type, p_flags (read, execute); p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    bytes.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([0, address, address, size, size, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(code);
    bytes
}
