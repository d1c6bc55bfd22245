//! Shell patterns as `fnmatch(3)` with no flags matches them, for module aliases.

/// Whether `text` matches `pattern`: `*` any bytes, `?` one byte, `[a-z]` one
/// of a set, `[!a-z]` one outside it, `\` takes the next byte literally. A `[`
/// without `]` is literal. Slashes and dots are ordinary bytes.
pub fn fnmatch(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go back to when the text after the last `*` does not fit.
    let mut retry = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        match one(&pattern[p..], text[t]) {
            Some(used) => {
                p += used;
                t += 1;
            }
            None => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (p, t) = (star, from + 1);
                }
                None => return false,
            },
        }
    }
}

/// Pattern bytes that matched `byte`, or `None`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let literal = |b: u8| (b == byte).then_some(1);
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ..] => match set(&pattern[1..], byte) {
            Some((len, true)) => Some(len + 1),
            Some((_, false)) => None,
            None => literal(b'['),
        },
        [b'\\', next, ..] => (next == byte).then_some(2),
        [b, ..] => literal(b),
    }
}

/// Length of a set after its `[`, the `]` included, and whether it has `byte`.
fn set(body: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(body.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    // A `]` right at the beginning is a member of the set.
    let end = start + 1 + body.get(start + 1..)?.iter().position(|&b| b == b']')?;
    let (mut at, mut found) = (start, false);
    while at < end {
        if at + 2 < end && body[at + 1] == b'-' {
            found |= (body[at]..=body[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= body[at] == byte;
            at += 1;
        }
    }
    Some((end + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use super::fnmatch;

    #[test]
    fn patterns_match_as_in_fnmatch_3() {
        let cases = [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("", "", true),
            ("*", "", true),
            ("a*c*", "abcbd", true),
            ("a*bd", "abcbd", true),
            ("a*bd", "abcbde", false),
            ("pci:v*d*sv*", "pci:v00008086d00001234sv1", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("usb:d0[0-9]*", "usb:d07x", true),
            ("usb:d0[0-9]*", "usb:d0a", false),
            ("[!0-9]", "a", true),
            ("[!0-9]", "5", false),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("a[b", "a[b", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a/*", "a/b/c", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(fnmatch(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_forever() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!fnmatch(pattern.as_bytes(), "a".repeat(20_000).as_bytes()));
    }
}
