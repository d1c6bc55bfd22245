//! The program `/bin/netlink` of exported initramfs, read by objdump and run by the kernel.
//!
//! Needs binutils.

use std::fs;
use std::path::Path;

use liveiso::initramfs::netlink_program;
use liveiso::plan::Arch;

use crate::support::oracle;

/// What objdump makes of the program, without addresses.
fn disassembled(arch: Arch, machine: &str, headers: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("code"), &netlink_program(arch)[headers..]).unwrap();
    let words = ["-D", "-b", "binary", "-M", "intel", "-m", machine, "--no-show-raw-insn", "code"];
    let text = oracle("objdump", &words, dir.path());
    let code = text.lines().filter_map(|line| line.trim_start().split_once(":\t"));
    code.map(|(_, code)| code.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn the_program_is_six_system_calls() {
    let i386 = "sub esp,0x1000\n\
                mov eax,0x167\nmov ebx,0x10\nmov ecx,0x3\nmov edx,0x10\nint 0x80\nmov edi,eax\n\
                mov ebx,0x3\nmov ecx,esp\nmov edx,0x1000\nmov eax,0x3\nint 0x80\n\
                mov edx,eax\nmov ebx,edi\nmov eax,0x4\nint 0x80\n\
                mov edx,0x1000\nmov eax,0x3\nint 0x80\n\
                mov edx,eax\nmov ebx,0x1\nmov eax,0x4\nint 0x80\n\
                xor ebx,ebx\nmov eax,0x1\nint 0x80\n";
    assert_eq!(disassembled(Arch::I386, "i386", 84), i386);
    let amd64 = "sub rsp,0x1000\n\
                 mov edi,0x10\nmov esi,0x3\nmov edx,0x10\nmov eax,0x29\nsyscall\nmov ebx,eax\n\
                 mov edi,0x3\nmov rsi,rsp\nmov edx,0x1000\nxor eax,eax\nsyscall\n\
                 mov edx,eax\nmov edi,ebx\nmov eax,0x1\nsyscall\n\
                 mov edi,ebx\nmov edx,0x1000\nxor eax,eax\nsyscall\n\
                 mov edx,eax\nmov edi,0x1\nmov eax,0x1\nsyscall\n\
                 xor edi,edi\nmov eax,0x3c\nsyscall\n";
    assert_eq!(disassembled(Arch::Amd64, "i386:x86-64", 120), amd64);
}

/// Asks for the number of netlink's own controller, which is 16.
#[test]
fn the_kernel_answers() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(Path::new(dir.path()).join(name), bytes).unwrap();
    write("netlink", &netlink_program(Arch::Amd64));
    // nlmsghdr: 32 bytes, to the controller, a request; genlmsghdr: GETFAMILY 1; FAMILY_NAME.
    let header = [&32_u32.to_le_bytes()[..], &[16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[3, 1, 0, 0]].concat();
    write("request", &[&header[..], &[11, 0, 2, 0], b"nlctrl\0\0"].concat());
    oracle("sh", &["-c", "chmod +x netlink; ./netlink 3<request >answer"], dir.path());
    let answer = fs::read(dir.path().join("answer")).unwrap();
    assert_eq!(answer[4..6], [16, 0]);
    assert_eq!(answer[20..40], *b"\x0b\0\x02\0nlctrl\0\0\x06\0\x01\0\x10\0\0\0");
}
