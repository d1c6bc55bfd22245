//! The texts a kernel package brings beside its modules: modules.order,
//! modules.builtin and modules.builtin.modinfo, divided by form feeds, and a module.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liveiso::kmod::depmod;
use liveiso::tree::{Content, Meta, Tree, listing};

fuzz_target!(|bytes: &[u8]| {
    let mut tree = Tree::new();
    let origin = tree.add_origin("fuzz");
    let files = ["modules.order", "modules.builtin", "modules.builtin.modinfo", "kernel/a.ko"];
    for (name, text) in files.iter().zip(bytes.splitn(files.len(), |&b| b == 0x0c)) {
        let path = format!("usr/lib/modules/1/{name}");
        tree.add_file(path.as_bytes(), Content::bytes(text), Meta::default(), origin).expect("a new tree");
    }
    if depmod(&mut tree, "1", 0).is_ok() {
        let first = listing(&tree).expect("an index is in memory");
        depmod(&mut tree, "1", 0).expect("a second time as the first");
        assert_eq!(listing(&tree).expect("an index is in memory"), first);
    }
});
