//! A Packages index: deb822 stanzas and the package relations in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::source::Index;

fuzz_target!(|text: &str| {
    let mut index = Index::default();
    if index.add(text, "suite").is_ok() {
        let _ = index.suggest(&text.chars().take(12).collect::<String>());
    }
});
