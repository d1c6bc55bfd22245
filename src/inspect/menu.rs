//! Boot menus as text: GRUB, SYSLINUX and systemd-boot entries.
//!
//! No interpreter: lines are read as Rufus and Ventoy read them, so what is
//! behind a variable stays behind it. Left out: SYSLINUX `INCLUDE` order,
//! GRUB functions.

use serde::Serialize;

use crate::tree::{Kind, Tree};

/// Larger files are no menus.
const MAX_CONFIG: u64 = 1 << 20;

/// A configuration file of a boot loader.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path on the medium, with leading slash.
    pub path: String,
    /// The text; bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// One entry of a menu.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// The file it stands in.
    pub config: String,
    /// Its line there.
    pub line: usize,
    /// What the menu shows.
    pub title: String,
    /// Kernel, as written; empty if it starts something else.
    pub kernel: String,
    /// Initramfs files, as written.
    pub initrds: Vec<String>,
    /// Kernel parameters.
    pub options: String,
    /// Whether GRUB looks for another file system first.
    #[serde(skip)]
    pub elsewhere: bool,
}

/// The language of a configuration file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loader {
    Grub,
    Syslinux,
    SystemdBoot,
}

impl Config {
    pub(super) fn loader(&self) -> Loader {
        let path = self.path.to_ascii_lowercase();
        if path.contains("/loader/entries/") {
            Loader::SystemdBoot
        } else if (path.contains("linux/") && !path.contains("/grub/")) || self.has_labels() {
            Loader::Syslinux
        } else {
            Loader::Grub
        }
    }

    fn has_labels(&self) -> bool {
        self.text.lines().any(|line| word(line).0.eq_ignore_ascii_case("label"))
    }
}

/// The menus of a medium, by path.
pub(super) fn configs(tree: &Tree) -> Vec<Config> {
    let mut found = Vec::new();
    for entry in tree.walk() {
        let Kind::File(content) = &entry.inode.kind else { continue };
        let path = format!("/{}", String::from_utf8_lossy(&entry.path));
        let lower = path.to_ascii_lowercase();
        let is_config = lower.ends_with(".cfg") || (lower.ends_with(".conf") && lower.contains("/loader/"));
        if is_config
            && content.len() <= MAX_CONFIG
            && let Ok(bytes) = content.read_all()
        {
            found.push(Config { path, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
    }
    found
}

/// The entries of a configuration file, in order.
pub(super) fn entries(config: &Config) -> Vec<Entry> {
    let loader = config.loader();
    let mut found: Vec<Entry> = Vec::new();
    // systemd-boot: the file is the entry.
    if loader == Loader::SystemdBoot {
        found.push(Entry { config: config.path.clone(), line: 1, ..Entry::default() });
    }
    for (number, line) in config.text.lines().enumerate() {
        let (first, rest) = word(line);
        let first = first.to_ascii_lowercase();
        let starts = match loader {
            Loader::Grub => first == "menuentry",
            Loader::Syslinux => first == "label",
            Loader::SystemdBoot => false,
        };
        if starts {
            let title = if loader == Loader::Grub { quoted(rest) } else { rest.to_string() };
            found.push(Entry { config: config.path.clone(), line: number + 1, title, ..Entry::default() });
            continue;
        }
        let Some(entry) = found.last_mut() else { continue };
        entry.take(loader, &first, rest);
    }
    found
}

impl Entry {
    fn take(&mut self, loader: Loader, first: &str, rest: &str) {
        match (loader, first) {
            (Loader::Grub, "linux" | "linux16" | "linuxefi" | "$linux") => {
                let (kernel, options) = word(rest);
                // A second one is the other branch of a condition.
                if self.kernel.is_empty() {
                    (self.kernel, self.options) = (unquoted(kernel), options.to_string());
                }
            }
            (Loader::Grub, "initrd" | "initrd16" | "initrdefi" | "$initrd") if self.initrds.is_empty() => {
                self.initrds = rest.split_whitespace().map(unquoted).collect();
            }
            (Loader::Grub, "search" | "root") => self.elsewhere = true,
            (Loader::Grub, "set") if rest.starts_with("root=") => self.elsewhere = true,
            (Loader::Syslinux, "linux" | "kernel") => self.kernel = rest.to_string(),
            (Loader::Syslinux, "initrd") => self.initrds = list(rest),
            (Loader::Syslinux, "append") => {
                let words = rest.split_whitespace();
                let (initrds, options): (Vec<&str>, Vec<&str>) =
                    words.partition(|word| word.starts_with("initrd="));
                self.options = options.join(" ");
                if let Some(last) = initrds.last() {
                    self.initrds = list(&last["initrd=".len()..]);
                }
            }
            (Loader::Syslinux, "menu") => {
                let (what, label) = word(rest);
                if what.eq_ignore_ascii_case("label") {
                    self.title = label.replace('^', "");
                }
            }
            (Loader::SystemdBoot, "title") => self.title = rest.to_string(),
            (Loader::SystemdBoot, "linux") => self.kernel = rest.to_string(),
            (Loader::SystemdBoot, "initrd") => self.initrds.push(rest.to_string()),
            (Loader::SystemdBoot, "options") => self.options = rest.to_string(),
            _ => {}
        }
    }
}

/// The first word of a line and what follows it.
pub(super) fn word(line: &str) -> (&str, &str) {
    let line = line.trim();
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (first, rest.trim())
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|part| !part.is_empty()).map(str::to_string).collect()
}

fn unquoted(text: &str) -> String {
    text.trim_matches(['"', '\'']).to_string()
}

/// The first quoted word, or the first word.
fn quoted(text: &str) -> String {
    match text.chars().next().filter(|&c| c == '"' || c == '\'') {
        Some(mark) => text[1..].split(mark).next().unwrap_or_default().to_string(),
        None => word(text).0.to_string(),
    }
}

/// The path on the medium that a menu means, unless a variable hides it:
/// `(loop)/live/vmlinuz` and `/live/vmlinuz` are the same file.
pub(super) fn literal_path(entry: &Entry, path: &str) -> Option<String> {
    // `::/x` is PXELINUX's TFTP server.
    if path.is_empty() || path.contains('$') || path.starts_with("::") || path.contains("://") {
        return None;
    }
    let path = match path.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.1,
        None => path,
    };
    if path.starts_with('/') {
        return Some(path.to_string());
    }
    let directory = entry.config.rsplit_once('/').map_or("", |(directory, _)| directory);
    Some(format!("{directory}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, text: &str) -> Vec<Entry> {
        entries(&Config { path: path.to_string(), text: text.to_string() })
    }

    fn entry(config: &str, line: usize, title: &str, kernel: &str, initrds: &[&str], options: &str) -> Entry {
        let initrds = initrds.iter().map(|text| text.to_string()).collect();
        let [config, title, kernel, options] = [config, title, kernel, options].map(str::to_string);
        Entry { config, line, title, kernel, initrds, options, elsewhere: false }
    }

    #[test]
    fn reads_the_three_languages() {
        let grub = "set x=1\nmenuentry 'A \"b\"' --id a {\n\tlinux (loop)/v a=b $loopback\n  initrd /i /j\n}\n\
                    menuentry \"Off\" {\n halt\n}\n";
        let path = "/boot/grub/grub.cfg";
        let first = entry(path, 2, "A \"b\"", "(loop)/v", &["/i", "/j"], "a=b $loopback");
        assert_eq!(literal_path(&first, &first.kernel).as_deref(), Some("/v"));
        assert_eq!(read(path, grub), [first, entry(path, 6, "Off", "", &[], "")]);

        let syslinux = "DEFAULT a\nLABEL a\n MENU LABEL ^Live\n KERNEL vmlinuz\n APPEND initrd=x,y quiet\n";
        let path = "/isolinux/live.cfg";
        let live = entry(path, 2, "Live", "vmlinuz", &["x", "y"], "quiet");
        assert_eq!(literal_path(&live, "vmlinuz").as_deref(), Some("/isolinux/vmlinuz"));
        for elsewhere in ["::/vmlinuz", "http://x/vmlinuz", "$dir/vmlinuz", ""] {
            assert_eq!(literal_path(&live, elsewhere), None);
        }
        assert_eq!(read(path, syslinux), [live]);

        let path = "/loader/entries/1.conf";
        let boot = "title T\nlinux /v\ninitrd /i\ninitrd /j\noptions o p\n";
        assert_eq!(read(path, boot), [entry(path, 1, "T", "/v", &["/i", "/j"], "o p")]);
    }
}
