//! The lock file's text: a fixed order of keys, so that equal locks are equal bytes.

use std::fmt::Write;

use super::{LOCK_VERSION, Lock};
use crate::format::civil::civil_time;

const HEADER: &str = "\
# The exact packages of this profile, written by `liveiso lock`.
# Keep it under version control; change it with `liveiso lock PROFILE --update`.
";

pub(super) fn text(lock: &Lock) -> String {
    let mut text = HEADER.to_string();
    let out = &mut text;
    line(out, "lock-version", &LOCK_VERSION.to_string());
    line(out, "request", &string(&lock.request));
    line(out, "timestamp", &date(lock.timestamp));
    match lock.left_out.as_slice() {
        [] => line(out, "left-out", "[]"),
        reasons => {
            let rows: String = reasons.iter().map(|r| format!("    {},\n", string(r))).collect();
            line(out, "left-out", &format!("[\n{rows}]"));
        }
    }
    for (suite, components) in &lock.sources {
        out.push_str("\n[[source]]\n");
        line(out, "suite", &string(suite));
        line(out, "components", &strings(components));
    }
    for (package, roles) in lock.with_roles() {
        out.push_str("\n[[package]]\n");
        line(out, "name", &string(&package.name));
        line(out, "version", &string(&package.version));
        line(out, "arch", &string(&package.arch));
        line(out, "source", &string(&package.source));
        line(out, "roles", &strings(&roles));
        line(out, "suite", &string(&package.suite));
        line(out, "filename", &string(&package.filename));
        line(out, "size", &package.size.to_string());
        line(out, "sha256", &string(&package.sha256));
    }
    text
}

fn line(out: &mut String, key: &str, value: &str) {
    writeln!(out, "{key} = {value}").expect("writing to a String");
}

/// Escaped as TOML wants it.
fn string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn strings(words: &[impl AsRef<str>]) -> String {
    let words: Vec<String> = words.iter().map(|word| string(word.as_ref())).collect();
    format!("[{}]", words.join(", "))
}

/// RFC 3339 in UTC, a TOML date-time.
fn date(timestamp: i64) -> String {
    let t = civil_time(timestamp);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", t.year, t.month, t.day, t.hour, t.minute, t.second)
}
