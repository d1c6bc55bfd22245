//! What becomes of a build whose cache is damaged, or that cannot finish: full
//! disks, missing programs, places that cannot be written, mirrors that are away.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Place, TINY, copy, digests, entries};
use crate::support::{Ran, liveiso, ran};

#[test]
fn damaged_cache_entries_are_made_anew() {
    let flip = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        fs::write(file, bytes).unwrap();
    };
    for stage in ["iso", "initramfs", "root", ""] {
        let place = TINY.warm();
        for file in
            entries(&place.cache().join("v1/stages").join(stage)).iter().flat_map(|dir| files_below(dir))
        {
            flip(&file);
        }
        // A stage is read only by one that has to be made.
        if stage != "iso" {
            fs::remove_dir_all(place.cache().join("v1/stages/iso")).unwrap();
        }
        place.builds_the_same();
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let below = entries(dir).into_iter();
    below.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn failed(code: i32, stderr: &str) -> Ran {
    (Some(code), String::new(), stderr.to_string())
}

/// Damaged archives stay unnoticed where the block cache has all that is in them, and are noticed where not.
#[test]
fn a_changed_overlay_reads_the_packages_only_where_it_must() {
    let build = |place: &Place| {
        let changed = place.path().join("profile");
        copy(&TINY.profile, &changed);
        // Whole blocks: a tail would share its block with those of the kernel's modules.
        fs::write(changed.join("airootfs/changed"), vec![b'x'; 1 << 20]).unwrap();
        let shipped = TINY.profile.to_str().unwrap();
        let words = place.words().into_iter();
        let words = words.map(|w| if w == shipped { changed.to_str().unwrap().to_string() } else { w });
        let (code, _, stderr) = ran(liveiso(words).output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        digests(&place.out())
    };
    let expected = build(&TINY.warm());
    assert_ne!(expected, TINY.reference().artifacts);
    for has_blocks in [true, false] {
        let place = TINY.warm();
        let cache = place.v1();
        let mut archives: Vec<(u64, PathBuf)> = entries(&cache.join("stages/data-tar"))
            .iter()
            .map(|entry| entry.join("data.tar"))
            .map(|path| (fs::metadata(&path).unwrap().len(), path))
            .collect();
        archives.sort();
        for (length, path) in &archives {
            fs::write(path, vec![0x55; *length as usize]).unwrap();
        }
        if !has_blocks {
            fs::remove_dir_all(cache.join("blocks")).unwrap();
        }
        assert_eq!(build(&place), expected);
        // The kernel's, of which the medium itself needs nothing.
        let (_, largest) = archives.last().unwrap();
        let is_damaged_still = fs::read(largest).unwrap().starts_with(&[0x55; 512]);
        assert_eq!(is_damaged_still, has_blocks);
    }
}

#[test]
fn a_full_disk_is_named_and_room_helps() {
    let place = TINY.warm();
    let found = place.namespace(
        "mkdir $PLACE/out; mount -t tmpfs -o size=32m t $PLACE/out\n\
         liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/out\n\
         mount -o remount,size=512m $PLACE/out; liveiso > $PLACE/paths 2>/dev/null; sha256sum < $PLACE/out/tiny-1.0-i386.iso > $PLACE/sum\n\
         exit $code",
    );
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: writing DIR/out/tiny-1.0-i386.iso\n  \
             caused by: No space left on device (os error 28)\n"
        )
    );
    let artifacts = &TINY.reference().artifacts;
    assert_eq!(
        fs::read_to_string(place.path().join("sum")).unwrap()[..64],
        artifacts[&format!("{}.iso", TINY.stem)]
    );
}

#[test]
fn a_full_cache_disk_is_named_and_room_helps() {
    let place = TINY.cold();
    let found = place.namespace(
        "mv $PLACE/cache $PLACE/had; mkdir $PLACE/cache; mount -t tmpfs -o size=100m t $PLACE/cache\n\
         cp -r $PLACE/had/v1 $PLACE/cache/\n\
         liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/cache/v1/work; ls -A $PLACE/out 2>/dev/null || true\n\
         mount -o remount,size=2g $PLACE/cache; liveiso > $PLACE/paths 2>/dev/null\n\
         exit $code",
    );
    let (code, stdout, stderr) = found;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.starts_with("error: cannot build tiny-1.0-i386.iso\n  caused by: "), "{stderr}");
    assert!(stderr.ends_with("  caused by: No space left on device (os error 28)\n"), "{stderr}");
    assert_eq!(digests(&place.out()), TINY.reference().artifacts);
}

#[test]
fn an_output_directory_that_cannot_be_written_is_named() {
    let place = TINY.warm();
    fs::write(place.out(), "mine").unwrap();
    let found = place.shown(ran(place.build().output().unwrap()));
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: the output directory DIR/out is not a directory; \
             name another one with --out\n"
        )
    );
    assert_eq!(fs::read_to_string(place.out()).unwrap(), "mine");

    fs::remove_file(place.out()).unwrap();
    let found = place.namespace(
        "mkdir $PLACE/out; mount -t tmpfs -o ro t $PLACE/out; liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/out; exit $code",
    );
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: creating a file in DIR/out\n  \
             caused by: Read-only file system (os error 30)\n"
        )
    );
    place.builds_the_same();
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let place = TINY.warm();
    fs::remove_dir_all(place.cache().join("v1/stages/iso")).unwrap();
    let found = place.namespace(
        "mount --bind /dev/null \"$(command -v xorriso)\"; liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/cache/v1/work; ls -A $PLACE/out 2>/dev/null || true; exit $code",
    );
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: writing the ISO\n  \
             caused by: writing DIR/cache/v1/work/WORK/medium.iso\n  caused by: xorriso is not installed, but is needed for writing the ISO; install it with \
             `sudo apt-get install xorriso`\n"
        )
    );
    place.builds_the_same();
}

#[test]
fn a_mirror_that_does_not_answer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens on the port of a listener that is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("iso-name = \"x\"\n[debian]\nmirror = \"http://127.0.0.1:{port}/debian\"\n");
    fs::write(dir.path().join("profile.toml"), text).unwrap();
    let words: [&OsStr; 6] = [
        "build".as_ref(),
        dir.path().as_ref(),
        "-o".as_ref(),
        &dir.path().join("out").into_os_string(),
        "--cache-dir".as_ref(),
        &dir.path().join("cache").into_os_string(),
    ];
    let (code, stdout, stderr) = ran(liveiso(words).output().unwrap());
    let stderr = stderr.replace(&format!(":{port}"), ":PORT");
    let expected = "error: suite bookworm of http://127.0.0.1:PORT/debian: the mirror does not answer (Could not \
                    connect to 127.0.0.1:PORT (127.0.0.1). - connect (111: Connection refused)); check the network, \
                    the proxy settings of apt, and the mirror's name\n";
    assert_eq!((code, stdout, stderr), failed(4, expected));
    assert!(!dir.path().join("out").exists());
}
