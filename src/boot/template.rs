//! Loader configurations with placeholders, `%NAME%` in archiso's manner.
//!
//! A placeholder is a percent sign, an upper-case word and a percent sign; any
//! other percent sign stands for itself. Values are not searched for placeholders.

use std::collections::BTreeMap;
use std::fmt;

/// The templates built in, by the name under which a profile's `efiboot/` replaces them.
pub const TEMPLATES: [(&str, &str); 6] = [
    (GRUB, include_str!("../../efiboot/grub/grub.cfg")),
    (LOOPBACK, include_str!("../../efiboot/grub/loopback.cfg")),
    (ESP, include_str!("../../efiboot/grub/esp.cfg")),
    (ISOLINUX, include_str!("../../efiboot/isolinux/isolinux.cfg")),
    (GRUB_CHOICE, include_str!("../../efiboot/grub/choose.cfg")),
    (ISOLINUX_CHOICE, include_str!("../../efiboot/isolinux/choose.cfg")),
];

/// The GRUB menu.
pub const GRUB: &str = "grub/grub.cfg";
/// The GRUB menu for an ISO that is a file on another disk.
pub const LOOPBACK: &str = "grub/loopback.cfg";
/// What GRUB reads first when it starts from the EFI system partition.
pub const ESP: &str = "grub/esp.cfg";
/// The ISOLINUX menu.
pub const ISOLINUX: &str = "isolinux/isolinux.cfg";
/// By which GRUB chooses between two kernels' menus.
pub const GRUB_CHOICE: &str = "grub/choose.cfg";
/// By which ISOLINUX chooses between two kernels' menus.
pub const ISOLINUX_CHOICE: &str = "isolinux/choose.cfg";

/// The text of a template built in.
pub fn built_in(name: &str) -> Option<&'static str> {
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Every placeholder a template may use.
pub const PLACEHOLDERS: [&str; 14] = [
    "ARCH",
    "BUILD_ID",
    "INITRD",
    "INSTALL_DIR",
    "ISO_LABEL",
    "ISO_NAME",
    "ISO_VERSION",
    "KERNEL",
    "KERNEL_PARAMETERS",
    "MENU_ENTRIES",
    "SERIAL_SETUP",
    "TIMEOUT",
    "TIMEOUT_TENTHS",
    "TITLE",
];

/// Values by placeholder, without the percent signs.
pub type Values = BTreeMap<&'static str, String>;

/// One mistake in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The template, as messages call it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// All mistakes of one template, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateErrors(pub Vec<TemplateError>);

impl fmt::Display for TemplateErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(TemplateError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for TemplateErrors {}

/// Finds every unknown placeholder of a template, without rendering it.
pub fn check(file: &str, text: &str) -> Vec<TemplateError> {
    let mut errors = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (start, word) in placeholders(line) {
            if !PLACEHOLDERS.contains(&word) {
                errors.push(TemplateError {
                    file: file.to_string(),
                    line: number + 1,
                    column: line[..start].chars().count() + 1,
                    message: unknown(word),
                });
            }
        }
    }
    errors
}

/// Replaces every placeholder by its value.
///
/// # Errors
/// All unknown placeholders of the text.
pub fn render(file: &str, text: &str, values: &Values) -> Result<String, TemplateErrors> {
    let errors = check(file, text);
    if !errors.is_empty() {
        return Err(TemplateErrors(errors));
    }
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let mut done = 0;
        for (start, word) in placeholders(line) {
            out.push_str(&line[done..start]);
            out.push_str(values.get(word).map_or("", String::as_str));
            done = start + word.len() + 2;
        }
        out.push_str(&line[done..]);
        out.push('\n');
    }
    Ok(out)
}

/// Byte offset of the first percent sign, and the word, of every placeholder of a line.
fn placeholders(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = line[from..].find('%').map(|at| from + at) {
        let rest = &line[start + 1..];
        let length = rest.bytes().take_while(|b| b.is_ascii_uppercase() || *b == b'_').count();
        if length > 0 && rest[length..].starts_with('%') {
            found.push((start, &rest[..length]));
            from = start + length + 2;
        } else {
            from = start + 1;
        }
    }
    found
}

fn unknown(word: &str) -> String {
    let nearest = PLACEHOLDERS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(word.len()) / 3);
    let known = PLACEHOLDERS.map(|name| format!("`%{name}%`")).join(", ");
    match nearest {
        Some((_, name)) => {
            format!("unknown placeholder `%{word}%`; did you mean `%{name}%`? Known are {known}")
        }
        None => format!("unknown placeholder `%{word}%`; known are {known}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_placeholders_and_leaves_other_percent_signs() {
        let values = Values::from([("ARCH", "i386".to_string()), ("TITLE", "100 %ARCH% live".to_string())]);
        for (text, expected) in [
            ("", ""),
            ("a %ARCH% b", "a i386 b\n"),
            ("%ARCH%%ARCH%\nx\n", "i386i386\nx\n"),
            ("50% of %ARCH%, %d%%, %arch%", "50% of i386, %d%%, %arch%\n"),
            ("%%ARCH%%", "%i386%\n"),
            ("%TITLE%", "100 %ARCH% live\n"),
            ("ü%ARCH%ü", "üi386ü\n"),
        ] {
            assert_eq!(render("t", text, &values).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn every_unknown_placeholder_is_reported_by_its_place() {
        let errors =
            render("p/efiboot/grub/grub.cfg", "ok %ARCH%\n  ü%ISOLABEL%\n%FOO_BAR%\n", &Values::new());
        let known = "`%ARCH%`, `%BUILD_ID%`, `%INITRD%`, `%INSTALL_DIR%`, `%ISO_LABEL%`, `%ISO_NAME%`, \
                     `%ISO_VERSION%`, `%KERNEL%`, `%KERNEL_PARAMETERS%`, `%MENU_ENTRIES%`, `%SERIAL_SETUP%`, \
                     `%TIMEOUT%`, `%TIMEOUT_TENTHS%`, `%TITLE%`";
        assert_eq!(
            errors.unwrap_err().to_string(),
            format!(
                "p/efiboot/grub/grub.cfg:2:4: unknown placeholder `%ISOLABEL%`; did you mean `%ISO_LABEL%`? \
                 Known are {known}\n\
                 p/efiboot/grub/grub.cfg:3:1: unknown placeholder `%FOO_BAR%`; known are {known}"
            )
        );
    }

    #[test]
    fn the_templates_built_in_are_sound() {
        for (name, text) in TEMPLATES {
            assert_eq!(check(name, text), [], "{name}");
        }
        assert!(PLACEHOLDERS.is_sorted());
    }
}
