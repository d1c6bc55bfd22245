//! Checks that several tables share.

use crate::diagnostic::{Diagnostics, Place, Spanned, alternatives, closest};
use crate::profile::Text;

/// What a written word stands for, or `None` after a report that lists the choices.
pub(super) fn choose<T: Copy>(
    written: &Text,
    what: &str,
    choices: &[(&str, T)],
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == written.value) {
        return Some(*choice);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let message = format!("unknown {what} `{}`, expected {}", written.value, alternatives(&words));
    diagnostics.error(&written.place, message).suggest(&written.value, words);
    None
}

/// A text of `length` characters that are all allowed; `rule` says that in words.
pub(super) fn word<'a>(
    written: &'a Text,
    key: &str,
    max_length: usize,
    allowed: impl Fn(char) -> bool,
    rule: &str,
    diagnostics: &'a mut Diagnostics,
) -> Result<String, &'a mut crate::diagnostic::Diagnostic> {
    let text = &written.value;
    let reason = match text.chars().find(|&c| !allowed(c)) {
        Some(bad) => format!("{} is not allowed", quoted(bad)),
        None if text.is_empty() => "it is empty".to_string(),
        None if text.chars().count() > max_length => format!("it has {} characters", text.chars().count()),
        None => return Ok(text.clone()),
    };
    Err(diagnostics.error(&written.place, format!("`{key}` must be {rule}, but {reason}")))
}

/// One line of printable ASCII of at most `max_length` characters; empty is fine.
pub(super) fn line(
    written: Option<&Text>,
    key: &str,
    max_length: usize,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let written = written?;
    if written.value.is_empty() {
        return Some(String::new());
    }
    let rule = format!("at most {max_length} printable ASCII characters on one line");
    word(written, key, max_length, |c| c == ' ' || c.is_ascii_graphic(), &rule, diagnostics).ok()
}

/// A number within a range.
pub(super) fn number(
    written: &Spanned<i64>,
    key: &str,
    range: std::ops::RangeInclusive<u32>,
    diagnostics: &mut Diagnostics,
) -> Option<u32> {
    let found = u32::try_from(written.value).ok().filter(|n| range.contains(n));
    if found.is_none() {
        let message = format!(
            "`{key}` must be a number from {} to {}, but this is {}",
            range.start(),
            range.end(),
            written.value
        );
        diagnostics.error(&written.place, message);
    }
    found
}

/// Reports every word that was there before.
pub(super) fn without_duplicates(
    words: &[Text],
    what: &str,
    diagnostics: &mut Diagnostics,
) -> Vec<(String, Place)> {
    let mut seen: Vec<(String, Place)> = Vec::new();
    for word in words {
        if seen.iter().any(|(known, _)| *known == word.value) {
            diagnostics
                .warning(&word.place, format!("{what} `{}` is listed twice", word.value))
                .help("remove one of them");
        } else {
            seen.push((word.value.clone(), word.place.clone()));
        }
    }
    seen
}

/// The nearest of the words that `written` was probably meant to be.
pub(super) fn meant<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(written, known).map(|close| format!("did you mean `{close}`?"))
}

fn quoted(c: char) -> String {
    match c {
        ' ' => "a space".to_string(),
        c if c.is_control() => format!("the control character {}", c.escape_unicode()),
        c => format!("`{c}`"),
    }
}

/// A number of bytes with an optional binary unit.
pub(super) fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("128K", Some(131_072)),
            ("128KiB", Some(131_072)),
            ("1M", Some(1_048_576)),
            ("4096", Some(4096)),
            ("128 K", None),
            ("128KB", None),
            ("K", None),
            ("", None),
            ("-4K", None),
            ("4G", Some(4 << 30)),
            ("4294967296", Some(4_294_967_296)),
            ("99999999999999999999", None),
            ("99999999999999999G", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}
