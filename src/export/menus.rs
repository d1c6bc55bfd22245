//! The same menu for iPXE, PXELINUX and GRUB, taken from the medium's own.
//!
//! Paths are relative to the directory that is served, wherever that is:
//! PXELINUX and iPXE take them so, GRUB knows where its loader came from. Where
//! /init finds the image is the last word of each kernel command line.

use std::fmt::Write;

use super::root::Root;
use crate::boot::serial_setups;
use crate::inspect::MenuEntry;

/// One way to start the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub title: String,
    /// Path without leading slash.
    pub kernel: String,
    /// The same.
    pub initrd: String,
    pub options: String,
    /// Of two kernels this is the one for 64-bit processors.
    pub long_mode: bool,
}

/// What the three menus say.
pub(super) struct Menus<'m> {
    /// The image's name and id, for people.
    pub about: &'m str,
    pub starts: &'m [Start],
    /// Where the directory will be served, without a slash at the end, if that is known.
    pub url: Option<&'m str>,
    /// Ways to the image, complete; the first one's entries come first.
    pub roots: &'m [Root],
}

/// Words of the entries that are left out: a downloaded image is in RAM and compared with its digest anyway,
/// one on a server is there to stay, and changes have no medium to go to.
const OF_A_MEDIUM: [&str; 3] = ["toram", "persistence", "verify"];

/// The medium's menus, GRUB's and ISOLINUX's; with two kernels the first only chooses among the others.
const MENUS: [[&str; 3]; 2] = [
    ["/boot/grub/grub.cfg", "/boot/grub/i386.cfg", FOR_LONG_MODE[0]],
    ["/isolinux/isolinux.cfg", "/isolinux/i386.cfg", FOR_LONG_MODE[1]],
];
const FOR_LONG_MODE: [&str; 2] = ["/boot/grub/amd64.cfg", "/isolinux/amd64.cfg"];

/// The entries of the medium's menu that start its own kernels; of both loaders' menus the first that has any.
pub(super) fn starts(entries: &[MenuEntry], install_dir: &str) -> Vec<Start> {
    let ours = format!("/{install_dir}/boot/");
    for configs in MENUS {
        let found: Vec<Start> = entries
            .iter()
            .filter(|entry| configs.contains(&&*entry.config) && entry.kernel.starts_with(&ours))
            // What is behind a variable is not to be known here.
            .filter(|entry| !entry.kernel.contains('$'))
            .filter_map(|entry| {
                start(entry).filter(|start| !OF_A_MEDIUM.iter().any(|word| start.has_word(word)))
            })
            .collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn start(entry: &MenuEntry) -> Option<Start> {
    let [initrd] = &entry.initrds[..] else { return None };
    // GRUB's variables are about ISO files on disks.
    let words = entry.options.split_ascii_whitespace().filter(|word| !word.starts_with('$'));
    Some(Start {
        title: entry.title.clone(),
        kernel: entry.kernel.trim_start_matches('/').to_string(),
        initrd: initrd.trim_start_matches('/').to_string(),
        options: words.collect::<Vec<_>>().join(" "),
        long_mode: FOR_LONG_MODE.contains(&&*entry.config),
    })
}

/// Entries of one menu with their numbers, which go on from menu to menu.
type Numbered = Vec<(usize, Start)>;

impl Start {
    fn has_word(&self, word: &str) -> bool {
        self.options.split_ascii_whitespace().any(|w| w == word)
    }
}

/// A line that any of the three languages takes as a comment.
fn heading(about: &str) -> String {
    format!("# {about}: kernel, initramfs and image over the network.\n")
}

impl Menus<'_> {
    /// Each start with each way to the image; `base` is what the loader calls the directory's URL.
    fn entries(&self, base: &str) -> Vec<Start> {
        let host = self.url.and_then(|url| url.split(['/', ':']).nth(3)).unwrap_or_default();
        let mut entries = Vec::new();
        for root in self.roots {
            let word = root.word(base, host);
            entries.extend(self.starts.iter().map(|start| Start {
                title: match self.roots {
                    [_] => start.title.clone(),
                    _ => format!("{} ({})", start.title, root.title()),
                },
                options: format!("{} {word}", start.options).trim_start().to_string(),
                ..start.clone()
            }));
        }
        entries
    }

    /// The same for any processor, and for 64-bit ones where they have a kernel of their own.
    fn by_processor(&self, base: &str) -> (Numbered, Numbered) {
        self.entries(base).into_iter().enumerate().partition(|(_, start)| !start.long_mode)
    }

    /// Whether any entry says where the directory is.
    fn has_base(&self) -> bool {
        self.roots.contains(&Root::Http)
    }

    /// The menus are where the kernel's messages are.
    fn serial(&self) -> [String; 2] {
        let words = self.starts.iter().flat_map(|start| start.options.split_ascii_whitespace());
        let console = words.filter_map(|word| word.strip_prefix("console=")).find(|c| c.starts_with("ttyS"));
        serial_setups(console.unwrap_or_default())
    }

    /// `boot.ipxe`, which iPXE starts from where it got it.
    pub(super) fn ipxe(&self) -> String {
        let mut text = format!("#!ipxe\n{}\n", heading(self.about));
        match self.url {
            _ if !self.has_base() => {}
            Some(url) => text.push_str(&format!("set base {url}/boot.ipxe\n\n")),
            // iPXE before 2020 has no cwuri; the boot file that DHCP names may be a URL by itself.
            None => text.push_str(
                "isset ${cwuri} && set base ${cwuri} || set base tftp://${next-server}/${filename}\n\n",
            ),
        }
        let (any, long_mode) = self.by_processor("${base}");
        text.push_str(":menu\n");
        if !long_mode.is_empty() {
            // Bit 29: long mode. An iPXE without the command takes the kernel that runs everywhere.
            text.push_str("cpuid --ext 29 && goto long_mode || goto any\n\n:long_mode\n");
            text.push_str(&self.ipxe_choice(&long_mode));
            text.push_str("\n:any\n");
        }
        text.push_str(&self.ipxe_choice(&any));
        for (n, start) in any.iter().chain(&long_mode) {
            let file = start.initrd.rsplit('/').next().unwrap_or_default();
            let Start { kernel, initrd, options, .. } = start;
            write!(
                text,
                "\n:start{n}\nkernel {kernel} initrd={file} {options} || goto failed\n\
                 initrd {initrd} || goto failed\nboot || goto failed\n"
            )
            .expect("writing to a String");
        }
        text.push_str("\n:failed\nprompt Not started. Any key brings the menu. && imgfree && goto menu\n");
        text
    }

    fn ipxe_choice(&self, entries: &Numbered) -> String {
        let mut text = format!("menu {}\n", self.about);
        for (n, start) in entries {
            writeln!(text, "item start{n} {}", start.title).expect("writing to a String");
        }
        let first = entries.first().map_or(0, |(n, _)| *n);
        writeln!(text, "choose --default start{first} --timeout 5000 start && goto ${{start}} || exit")
            .expect("writing to a String");
        text
    }

    /// The files of `pxelinux.cfg`, by name; /init asks DHCP where pxelinux.0 lies.
    pub(super) fn pxelinux(&self) -> Vec<(&'static str, String)> {
        let (any, long_mode) = self.by_processor(self.url.unwrap_or("tftp:"));
        if long_mode.is_empty() {
            return vec![("default", self.pxelinux_menu(&any))];
        }
        let choice = "default choose\nprompt 0\n\nlabel choose\n  com32 ifcpu64.c32\n  append amd64 -- i386\n\n\
                      label amd64\n  config pxelinux.cfg/amd64\n\nlabel i386\n  config pxelinux.cfg/i386\n";
        vec![
            ("default", format!("{}{choice}", heading(self.about))),
            ("amd64", self.pxelinux_menu(&long_mode)),
            ("i386", self.pxelinux_menu(&any)),
        ]
    }

    fn pxelinux_menu(&self, entries: &Numbered) -> String {
        let mut text = heading(self.about);
        let [serial, _] = self.serial();
        if !serial.is_empty() {
            writeln!(text, "{serial}").expect("writing to a String");
        }
        writeln!(text, "ui menu.c32\nprompt 0\ntimeout 50\nmenu title {}", self.about)
            .expect("writing to a String");
        for (at, (n, start)) in entries.iter().enumerate() {
            let Start { title, kernel, initrd, options, .. } = start;
            let default = if at == 0 { "\n  menu default" } else { "" };
            write!(
                text,
                "\nlabel start{n}\n  menu label {title}{default}\n  linux {kernel}\n  initrd {initrd}\n  \
                 append {options}\n"
            )
            .expect("writing to a String");
        }
        text
    }

    /// `grub.cfg` for a GRUB that was loaded from this directory.
    pub(super) fn grub(&self) -> String {
        let mut text = heading(self.about);
        text.push_str(
            "set dir=\n\
             regexp --set=1:dir '^\\([^)]*\\)(/.*[^/])/*$' \"$cmdpath\"\n",
        );
        match self.url {
            _ if !self.has_base() => {}
            Some(url) => text.push_str(&format!("set base={url}\n")),
            None => text.push_str(
                "set protocol=tftp\nregexp --set=1:protocol '^\\((http)' \"$cmdpath\"\n\
                 set base=$protocol://$net_default_server$dir\n",
            ),
        }
        let [_, serial] = self.serial();
        if !serial.is_empty() {
            writeln!(text, "{serial}").expect("writing to a String");
        }
        text.push_str("set default=0\nset timeout=5\nset timeout_style=menu\n");
        let (any, long_mode) = self.by_processor("$base");
        match long_mode.is_empty() {
            true => text.push_str(&grub_entries(&any)),
            // A GRUB without the command cpuid takes the kernel that runs everywhere.
            false => {
                let (any, long_mode) = (grub_entries(&any), grub_entries(&long_mode));
                text.push_str(&format!("\nif cpuid -l; then\n{long_mode}\nelse\n{any}\nfi\n"));
            }
        }
        text
    }
}

fn grub_entries(entries: &Numbered) -> String {
    let mut text = String::new();
    for (_, Start { kernel, initrd, options, title, .. }) in entries {
        let title = title.replace('\'', r"'\''");
        write!(
            text,
            "\nmenuentry '{title}' {{\n  linux $dir/{kernel} {options}\n  \
             initrd $dir/{initrd}\n}}\n"
        )
        .expect("writing to a String");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(config: &str, kernel: &str, options: &str) -> MenuEntry {
        MenuEntry {
            config: config.to_string(),
            title: "It's x".to_string(),
            kernel: kernel.to_string(),
            initrds: vec!["/liveiso/boot/i386/initrd.img".to_string()],
            options: options.to_string(),
            ..MenuEntry::default()
        }
    }

    #[test]
    fn starts_are_the_mediums_own_but_for_those_that_need_it() {
        let kernel = "/liveiso/boot/i386/vmlinuz";
        let grub = "/boot/grub/grub.cfg";
        let entries = [
            entry("/isolinux/isolinux.cfg", kernel, "quiet"),
            entry(grub, kernel, "quiet $loopback"),
            entry(grub, kernel, "quiet toram $loopback"),
            entry(grub, kernel, "persistence"),
            entry(grub, kernel, "quiet verify"),
            MenuEntry { initrds: Vec::new(), ..entry(grub, "/liveiso/boot/memtest.bin", "") },
            entry(grub, "/other/vmlinuz", ""),
            entry(grub, "/liveiso/boot/$arch/vmlinuz", ""),
        ];
        let expected = Start {
            title: "It's x".to_string(),
            kernel: "liveiso/boot/i386/vmlinuz".to_string(),
            initrd: "liveiso/boot/i386/initrd.img".to_string(),
            options: "quiet".to_string(),
            long_mode: false,
        };
        for entries in [&entries[..], &entries[..1]] {
            assert_eq!(starts(entries, "liveiso"), std::slice::from_ref(&expected));
        }
        assert_eq!(starts(&entries, "elsewhere"), []);
    }

    #[test]
    fn a_url_replaces_what_loaders_find_out() {
        let starts =
            starts(&[entry("/boot/grub/grub.cfg", "/liveiso/boot/i386/vmlinuz", "quiet")], "liveiso");
        let menus =
            Menus { about: "x 1", starts: &starts, url: Some("http://192.0.2.1/live"), roots: &[Root::Http] };
        for (text, lines) in [
            (menus.ipxe(), &["set base http://192.0.2.1/live/boot.ipxe", "item start0 It's x"][..]),
            (menus.pxelinux().remove(0).1, &["  append quiet liveiso.net=http://192.0.2.1/live"]),
            (menus.grub(), &["set base=http://192.0.2.1/live", r"menuentry 'It'\''s x' {"]),
        ] {
            for line in lines {
                assert!(text.lines().any(|l| l == *line), "{line}\n{text}");
            }
        }
    }

    #[test]
    fn each_way_to_the_image_has_its_entries() {
        let starts =
            starts(&[entry("/boot/grub/grub.cfg", "/liveiso/boot/i386/vmlinuz", "quiet")], "liveiso");
        let roots = ["nbd=/x", "nfs=192.0.2.9:/x"].map(|text| text.parse().unwrap());
        let said = |url: Option<&str>, roots: &[Root]| {
            let menus = Menus { about: "x 1", starts: &starts, url, roots };
            [menus.ipxe(), menus.pxelinux().remove(0).1, menus.grub()].map(|text| {
                let words = text.split_ascii_whitespace().filter(|word| word.starts_with("liveiso."));
                words.map(str::to_string).collect::<Vec<_>>()
            })
        };
        for words in said(None, &roots) {
            assert_eq!(words, ["liveiso.nbd=/x", "liveiso.nfs=192.0.2.9:/x"]);
        }
        for words in said(Some("http://192.0.2.1:8080/live"), &roots) {
            assert_eq!(words, ["liveiso.nbd=192.0.2.1/x", "liveiso.nfs=192.0.2.9:/x"]);
        }
        let menus = Menus { about: "x 1", starts: &starts, url: None, roots: &roots };
        let grub = menus.grub();
        for line in [
            "menuentry 'It'\\''s x (image on the server: NBD)' {",
            "menuentry 'It'\\''s x (image on the server: NFS)' {",
        ] {
            assert!(grub.lines().any(|l| l == line), "{line}\n{grub}");
        }
        assert!(!grub.contains("base") && !menus.ipxe().contains("base"));
    }

    #[test]
    fn the_processor_chooses_between_two_kernels() {
        let entries = ["i386", "amd64"].map(|arch| MenuEntry {
            title: arch.to_string(),
            initrds: vec![format!("/liveiso/boot/{arch}/initrd.img")],
            ..entry(&format!("/boot/grub/{arch}.cfg"), &format!("/liveiso/boot/{arch}/vmlinuz"), "quiet")
        });
        let starts = starts(&entries, "liveiso");
        let menus = Menus { about: "x 1", starts: &starts, url: None, roots: &[Root::Http] };
        let ipxe = "\
:menu
cpuid --ext 29 && goto long_mode || goto any

:long_mode
menu x 1
item start1 amd64
choose --default start1 --timeout 5000 start && goto ${start} || exit

:any
menu x 1
item start0 i386
choose --default start0 --timeout 5000 start && goto ${start} || exit

:start0
kernel liveiso/boot/i386/vmlinuz initrd=initrd.img quiet liveiso.net=${base} || goto failed
initrd liveiso/boot/i386/initrd.img || goto failed
boot || goto failed

:start1
kernel liveiso/boot/amd64/vmlinuz initrd=initrd.img quiet liveiso.net=${base} || goto failed
initrd liveiso/boot/amd64/initrd.img || goto failed
boot || goto failed
";
        let written = menus.ipxe();
        assert!(written.contains(ipxe), "{written}");
        let grub = "\
if cpuid -l; then

menuentry 'amd64' {
  linux $dir/liveiso/boot/amd64/vmlinuz quiet liveiso.net=$base
  initrd $dir/liveiso/boot/amd64/initrd.img
}

else

menuentry 'i386' {
  linux $dir/liveiso/boot/i386/vmlinuz quiet liveiso.net=$base
  initrd $dir/liveiso/boot/i386/initrd.img
}

fi
";
        let written = menus.grub();
        assert!(written.ends_with(grub), "{written}");
        let written = menus.pxelinux();
        let [("default", choice), ("amd64", amd64), ("i386", i386)] = &written[..] else {
            panic!("{written:?}")
        };
        let chooses = "label choose\n  com32 ifcpu64.c32\n  append amd64 -- i386\n";
        assert!(choice.contains(chooses) && choice.ends_with("  config pxelinux.cfg/i386\n"), "{choice}");
        for (menu, arch) in [(amd64, "amd64"), (i386, "i386")] {
            let label = format!("  menu label {arch}\n  menu default\n  linux liveiso/boot/{arch}/vmlinuz\n");
            assert!(menu.contains(&label) && menu.matches("\nlabel ").count() == 1, "{menu}");
        }
    }
}
