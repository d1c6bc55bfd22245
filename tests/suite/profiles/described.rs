//! What a profile adds by name: described files, hooks, microcode.

use super::{Case, assert_golden};

#[test]
fn a_description_is_checked_line_by_line() {
    let case = Case::new("iso-name = \"x\"\n\n[initramfs]\ndescription = \"files/list\"\n");
    case.write(
        "files/list",
        "# tools\ndir /data 0755 0 0\nfile /data/a files/a 0644 0 0\nfile /init files/list 755 0 0\n\
                              file /data/b ${HOME}/b 0644 0 0\nfile /data/c ../c 0644 0 0\nnode /dev/x\n",
    );
    assert_golden("description.txt", &case.messages());
    case.write("files/a", "a");
    case.write("files/list", "dir /data 0755 0 0\nfile /data/a files/a 0644 0 0 /data/b\n");
    let (messages, plan) = case.resolve();
    assert_eq!(messages, "");
    let description = serde_json::to_value(plan.unwrap().identity().initramfs.description).unwrap();
    let digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert_eq!(
        description,
        serde_json::json!([
            {"name": "data", "type": "dir", "mode": 0o755, "uid": 0, "gid": 0},
            {"name": "data/a", "type": "file", "mode": 0o644, "uid": 0, "gid": 0,
             "content": {"size": 1, "sha256": digest}, "links": ["data/b"]},
        ])
    );
}

/// In the root nothing is reserved: it replaces what packages brought.
#[test]
fn the_root_is_described_in_the_same_words() {
    let case = Case::new("iso-name = \"x\"\npackages = [\"nano\"]\n[root]\ndescription = \"list\"\n");
    case.write("list", "nod /data 0644 root 0 c 1 3\n");
    let first = case.messages().lines().next().map(str::to_string);
    assert_eq!(first.as_deref(), Some("error: `root` is no user or group number"));
    case.write("list", "slink /init bin/busybox 0777 0 0\n");
    let (messages, plan) = case.resolve();
    assert_eq!(messages, "");
    assert_eq!(
        serde_json::to_value(plan.unwrap().root.description).unwrap(),
        serde_json::json!([
            {"name": "init", "type": "slink", "target": "bin/busybox", "mode": 0o777, "uid": 0, "gid": 0},
        ])
    );
}

#[test]
fn hooks_are_pinned_stage_by_stage() {
    let table = "[initramfs]\nprograms = [\"/sbin/lvm\"]\n[initramfs.hooks]\n\
                 bottom = [\"b.sh\"]\nmedia = [\"hooks/z.sh\", \"hooks/a.sh\"]\n";
    let case = Case::new(&format!("iso-name = \"x\"\n{table}"));
    for name in ["b.sh", "hooks/z.sh", "hooks/a.sh"] {
        case.write(name, "a");
    }
    let (messages, plan) = case.resolve();
    assert_eq!(messages, "");
    let initramfs = plan.unwrap().identity().initramfs;
    assert_eq!(initramfs.programs, ["/sbin/lvm"]);
    let digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    let hook = |stage: &str, name: &str| serde_json::json!({"stage": stage, "name": name, "content": {"size": 1, "sha256": digest}});
    assert_eq!(
        serde_json::to_value(initramfs.hooks).unwrap(),
        serde_json::json!([hook("media", "z.sh"), hook("media", "a.sh"), hook("bottom", "b.sh")])
    );
    let resident = table.replace("[initramfs]", "[initramfs]\nlayout = \"resident\"");
    let messages = Case::new(&format!("iso-name = \"x\"\n{resident}")).messages();
    assert_eq!(messages.matches("error: the layout `resident` has no stages to hook into").count(), 2);
}

#[test]
fn microcode_is_a_package_s_or_a_file_s() {
    let toml = |components: &str, microcode: &str| {
        format!(
            "iso-name = \"x\"\n[debian]\ncomponents = [{components}]\n[initramfs]\nmicrocode = {microcode}\n"
        )
    };
    let messages = Case::new(&toml("\"main\"", "true")).messages();
    let first = "error: microcode is not free software, and [debian] `components` does not allow for it";
    assert_eq!(messages.lines().next().unwrap(), first);
    let free = toml("\"main\", \"non-free-firmware\"", "true");
    let (_, plan) = Case::new(&free).resolve();
    let plan = plan.unwrap();
    let names: Vec<&str> = plan.packages.initramfs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["amd64-microcode", "busybox-static", "intel-microcode"]);
    let case = Case::new(&toml("\"main\"", "[\"ucode/amd\", \"profile.toml\", \"missing\"]"));
    case.write("ucode/amd", b"DMA\0");
    let messages = case.messages();
    let errors: Vec<&str> = messages.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(
        errors,
        [
            "error: `profile.toml` is no microcode of Intel or AMD",
            "error: `missing` cannot be read: No such file or directory (os error 2)"
        ]
    );
}
