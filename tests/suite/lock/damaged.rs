//! What is wrong with a lock file, mistake by mistake.

use std::sync::LazyLock;

use super::{package, parse};

static LOCK: LazyLock<String> = LazyLock::new(|| {
    const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    format!(
        r#"lock-version = 1
request = "{DIGEST}"
timestamp = 2026-01-02T03:04:05Z
left-out = []
[[source]]
suite = "t"
components = ["main"]
{}"#,
        package("alpha", "\"root\"", "5", DIGEST)
    )
});

/// The first lines of every message: what and where.
fn headlines(rendered: &str) -> Vec<String> {
    let blocks = rendered.split("error: ").filter(|block| !block.is_empty());
    let headline = |block: &str| {
        let mut lines = block.lines();
        let (message, place) = (lines.next().unwrap(), lines.next().unwrap());
        let place = place.trim_start_matches([' ', '-', '>']).trim_start_matches("p/liveiso.lock:");
        format!("{place} {message}")
    };
    blocks.map(headline).collect()
}

#[test]
fn every_mistake_of_a_damaged_lock_is_reported() {
    assert_eq!(parse(&LOCK).1, "");
    let package = &LOCK[LOCK.find("[[package]]").unwrap()..];
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "lock-version = 1",
            "lock-version = 2",
            &["1:16 this program reads lock files of version 1, but this is 2"],
        ),
        ("lock-version = 1\n", "", &["1:1 `lock-version` is missing"]),
        (
            "T03:04:05Z",
            "T03:04:05+01:00",
            &["3:13 `timestamp` must be a time in UTC such as 2026-01-31T12:00:00Z, from 1980 to 2105"],
        ),
        (
            "2026-01-02",
            "1979-01-02",
            &["3:13 `timestamp` must be a time in UTC such as 2026-01-31T12:00:00Z, from 1980 to 2105"],
        ),
        (
            "left-out = []",
            "left-out = [1]",
            &["4:13 every element of `left-out` must be a string, but this is an integer"],
        ),
        ("\"1:1-1\"", "\"1 1\"", &["10:11 `version` must be a version, but is `1 1`"]),
        (
            "\"pool/alpha",
            "\"../alpha",
            &["15:12 `filename` must be a file name in an archive, but is `../alpha_1-1_i386.deb`"],
        ),
        (
            "suite = \"t\"\nfilename",
            "suite = \"u\"\nfilename",
            &["14:9 `suite` must be the suite of a [[source]], but is `u`"],
        ),
        ("\nsize = 5", "\nsize = -5", &["16:8 `size` must not be negative"]),
        ("\nsize = 5", "\nsize = \"5\"", &["16:8 `size` must be a 64-bit integer"]),
        (
            "\"root\"]",
            "\"root\", \"rot\", \"root\"]",
            &[
                "13:18 unknown role `rot`, expected `root`, `kernel`, `loaders`, `initramfs` or `second-root`",
                "13:25 role `root` is listed twice",
            ],
        ),
        (package, &[package, package].concat(), &["18:1 package `alpha` is listed twice as root"]),
        ("\nsize = 5", "\nsize = 5\nsize = 6", &["17:1 duplicate key"]),
        ("[[package]]", "[package]", &["8:1 `package` must be written as [[package]]"]),
        ("size = 5", "size = ", &["16:8 string values must be quoted, expected literal string"]),
        // Several at once.
        (
            "name = \"alpha\"\n",
            "nam = \"alpha\"\n",
            &["8:1 `name` is missing", "9:1 unknown field `nam`; did you mean `name`?"],
        ),
        (
            "ff\"\n",
            "fF\"\n",
            &[
                "2:11 `request` must be a SHA-256 of 64 lower-case hex digits, but is `00112233445566778899aabbccddeeff00112233445566778899aabbccddeefF`",
                "17:10 `sha256` must be a SHA-256 of 64 lower-case hex digits, but is `00112233445566778899aabbccddeeff00112233445566778899aabbccddeefF`",
            ],
        ),
    ];
    for (from, to, expected) in cases {
        let damaged = LOCK.replace(from, to);
        assert_ne!(damaged, *LOCK, "{from}");
        let (lock, messages) = parse(&damaged);
        assert_eq!(lock, None, "{to}");
        assert_eq!(headlines(&messages), *expected, "{to}\n{messages}");
    }
}

#[test]
fn a_lock_cut_or_changed_anywhere_is_reported_without_panic() {
    for at in 0..LOCK.len() {
        parse(&LOCK[..at]);
        for byte in ["", "\"", "[", "=", "\n", "9", "\u{0}", "ü"] {
            parse(&format!("{}{byte}{}", &LOCK[..at], &LOCK[at + 1..]));
        }
    }
}
