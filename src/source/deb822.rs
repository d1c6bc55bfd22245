//! Stanzas of `Field: value` lines, as in Packages files, dpkg's status file
//! and deb822-style sources (deb822(5)).
//!
//! Tolerant where apt is: a line that is neither field, continuation nor
//! comment is skipped. Field names compare without case.

/// One stanza, borrowed from the text it came from.
#[derive(Clone, Copy, Debug)]
pub struct Stanza<'t>(&'t str);

/// The stanzas of a text, in order.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let (line, after) = split_line(rest)?;
            if !line.trim().is_empty() {
                break;
            }
            rest = after;
        }
        let start = rest;
        while let Some((line, after)) = split_line(rest)
            && !line.trim().is_empty()
        {
            rest = after;
        }
        Some(Stanza(&start[..start.len() - rest.len()]))
    })
}

/// The first line without its end, and what follows; `None` at the end of the text.
fn split_line(text: &str) -> Option<(&str, &str)> {
    if text.is_empty() {
        return None;
    }
    Some(text.split_once('\n').unwrap_or((text, "")))
}

impl<'t> Stanza<'t> {
    /// Every field on its first line, as name and trimmed value; continuation
    /// lines belong to [`Stanza::folded`].
    pub fn fields(self) -> impl Iterator<Item = (&'t str, &'t str)> {
        let field = |line: &'t str| !line.starts_with([' ', '\t', '#']);
        self.0.lines().filter(move |line| field(line)).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim_end(), value.trim()))
        })
    }

    /// The first line of one field.
    pub fn get(self, name: &str) -> Option<&'t str> {
        self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// One field with its continuation lines, joined by blanks; comments inside are dropped.
    pub fn folded(self, name: &str) -> Option<String> {
        let mut lines = self.0.lines().filter(|line| !line.starts_with('#'));
        let first = lines.by_ref().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            let ours = !field.starts_with([' ', '\t']) && field.trim_end().eq_ignore_ascii_case(name);
            ours.then(|| value.trim())
        })?;
        let more = lines.take_while(|line| line.starts_with([' ', '\t'])).map(str::trim);
        let parts: Vec<&str> = std::iter::once(first).chain(more).filter(|part| !part.is_empty()).collect();
        Some(parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_split_at_empty_lines() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("\n\n \n", &[]),
            ("A: 1", &["A: 1"]),
            ("\nA: 1\nB: 2\n\n\n\nA: 3\n", &["A: 1\nB: 2\n", "A: 3\n"]),
            ("A: 1\r\n\r\nA: 2", &["A: 1\r\n", "A: 2"]),
        ];
        for (text, expected) in cases {
            let found: Vec<&str> = stanzas(text).map(|stanza| stanza.0).collect();
            assert_eq!(found, *expected, "{text:?}");
        }
    }

    #[test]
    fn fields_are_found_whatever_stands_around_them() {
        let text = "no field here\n# A: comment\nA : 1:2 \n  continued: x\n#c\n\ty\nb:\n:\né: ü\n";
        let stanza = stanzas(text).next().unwrap();
        let fields: Vec<_> = stanza.fields().collect();
        assert_eq!(fields, [("A", "1:2"), ("b", ""), ("", ""), ("é", "ü")]);
        assert_eq!(stanza.get("a"), Some("1:2"));
        assert_eq!(stanza.folded("A").as_deref(), Some("1:2 continued: x y"));
        assert_eq!(stanza.folded("B").as_deref(), Some(""));
        assert_eq!(stanza.folded("continued"), None);
        assert_eq!(stanza.get("C"), None);
    }
}
