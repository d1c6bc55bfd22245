//! GRUB's menus, condition by condition: the files they search for, what they do
//! under Secure Boot's lockdown, and the entry for screens that stay black.

use super::{Inspection, Verdict, fail, judge, not_applicable, pass, warn};
use crate::inspect::Config;
use crate::inspect::menu::{self, word};

/// A line of a GRUB menu with what is known of its place.
struct Line<'c> {
    number: usize,
    text: &'c str,
    /// Whether it stands in no entry and no function.
    is_outside: bool,
    /// Whether a condition around it asks for `$lockdown`.
    asks_for_lockdown: bool,
}

fn grub_menus(it: &Inspection) -> impl Iterator<Item = &Config> {
    it.configs.iter().filter(|config| config.loader() == menu::Loader::Grub)
}

fn lines(config: &Config) -> Vec<Line<'_>> {
    let (mut depth, mut conditions, mut found) = (0_usize, Vec::new(), Vec::new());
    for (n, text) in config.text.lines().enumerate() {
        let text = text.trim();
        let (first, rest) = word(text);
        match first {
            "if" => conditions.push(rest.contains("$lockdown")),
            "elif" => {
                if let Some(last) = conditions.last_mut() {
                    *last |= rest.contains("$lockdown");
                }
            }
            "fi" => drop(conditions.pop()),
            _ => {}
        }
        let asks_for_lockdown = conditions.contains(&true);
        found.push(Line { number: n + 1, text, is_outside: depth == 0, asks_for_lockdown });
        if text.starts_with('#') {
            continue;
        }
        depth += usize::from(text.ends_with('{'));
        depth = depth.saturating_sub(usize::from(text == "}"));
    }
    found
}

/// Literal paths that a line's `search --file` looks for.
fn searched(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for command in line.split([';', '|', '&']) {
        let words: Vec<&str> = command.split_whitespace().skip_while(|word| *word != "search").collect();
        if words.iter().any(|word| matches!(*word, "--file" | "-f")) {
            let path = words.iter().map(|word| word.trim_matches(['"', '\'']));
            found.extend(path.filter(|path| path.starts_with('/') && !path.contains('$')));
        }
    }
    found
}

/// The file by which menus know their medium is on it, and survives copying.
pub(super) fn search_file(it: &Inspection) -> Verdict {
    let (mut problems, mut known) = (Vec::new(), Vec::new());
    for config in grub_menus(it) {
        let all = lines(config);
        let outside = all.iter().filter(|line| line.is_outside && !line.text.starts_with('#'));
        let paths: Vec<&str> = outside.flat_map(|line| searched(line.text)).collect();
        let there: Vec<&str> = paths.iter().copied().filter(|path| it.file(path).is_some()).collect();
        if let Some(path) = paths.first().filter(|_| there.is_empty()) {
            problems.push(format!("{} searches for {path}, which the medium has not", config.path));
        }
        let is_hidden = |path: &&str| path.contains("/.");
        if it.is_ours() && !there.is_empty() && there.iter().all(is_hidden) {
            problems.push(format!("{} searches for {}, which copying may leave out", config.path, there[0]));
        }
        known.extend(there);
    }
    if problems.is_empty() && known.is_empty() {
        return not_applicable("no menu searches for a file");
    }
    known.dedup();
    judge(
        problems,
        "put a file on the medium that only this build has and whose name begins with no dot, and search for that",
        format!("{} is there", known.join(", ")),
    )
}

/// Under lockdown GRUB loads no module and no font from disk and starts nothing unsigned.
pub(super) fn lockdown(it: &Inspection) -> Verdict {
    if super::loaders::secure(it).is_empty() {
        return not_applicable(super::loaders::UNSIGNED);
    }
    let mut problems = Vec::new();
    for config in grub_menus(it) {
        for line in lines(config).iter().filter(|line| !line.asks_for_lockdown) {
            let (first, rest) = word(line.text);
            let path = word(rest).0.trim_matches(['"', '\'']);
            let unsigned = |path: &str| {
                let found = it.loaders.iter().find(|loader| loader.file.path == path);
                found.is_some_and(|loader| loader.program.signers.is_empty())
            };
            let what = match first {
                "insmod" => "loads a module",
                "loadfont" if path.contains(['/', '$']) => "loads a font",
                "chainloader" | "linux" | "linux16" if unsigned(path) => "starts an unsigned program",
                _ => continue,
            };
            problems.push(format!("{}:{} {what}", config.path, line.number));
        }
    }
    problems.truncate(5);
    // Others leave it at GRUB's message, which keeps nothing from booting.
    match (problems.is_empty(), it.is_ours()) {
        (true, _) => pass("no line of GRUB's menus needs what lockdown forbids"),
        (false, false) => pass(format!("GRUB only complains: {}", problems.join("; "))),
        (false, true) => fail(
            format!("{}, which Secure Boot forbids", problems.join("; ")),
            "put the line behind if [ \"$lockdown\" != \"y\" ], or leave it out",
        ),
    }
}

/// A screen that stays black is told by nobody: there has to be an entry without modesetting.
pub(super) fn safe_entry(it: &Inspection) -> Verdict {
    if !it.is_ours() || it.kernels.is_empty() {
        return not_applicable("whether there is an entry without modesetting is its maker's affair");
    }
    match it.menu.iter().any(|entry| entry.options.split_whitespace().any(|word| word == "nomodeset")) {
        true => pass("an entry says nomodeset"),
        false => warn(
            "no entry says nomodeset: on some machines the screen stays black",
            "add an entry with the kernel parameter nomodeset",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searched_paths_are_the_literal_ones() {
        for (line, expected) in [
            ("search --no-floppy --file --set=root /a/b.id", &["/a/b.id"][..]),
            ("if search --file --set=root /a; then", &["/a"]),
            ("search --file --set=root '/a' || search -f /b --set=root", &["/a", "/b"]),
            ("search --label --set=root /a", &[]),
            ("search --file --set=root $loader", &[]),
        ] {
            assert_eq!(searched(line), expected, "{line}");
        }
    }

    #[test]
    fn conditions_and_entries_are_followed() {
        let text = "search a\nif [ \"$lockdown\" != y ]; then\nmenuentry 'x' {\n insmod y\n}\nelse\n b\nfi\ninsmod z\n";
        let config = Config { path: "/boot/grub/grub.cfg".to_string(), text: text.to_string() };
        let found: Vec<(bool, bool)> =
            lines(&config).iter().map(|line| (line.is_outside, line.asks_for_lockdown)).collect();
        let (out, guarded, inside) = ((true, false), (true, true), (false, true));
        assert_eq!(found, [out, guarded, guarded, inside, inside, guarded, guarded, out, out]);
    }
}
