//! The program as scripts meet it: exit codes, and which stream says what.

use std::fs;
#[allow(clippy::disallowed_methods, reason = "the program under test is started directly")]
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_liveiso"))
        .args(arguments)
        .env_remove("SOURCE_DATE_EPOCH")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn exit_codes_and_streams_are_as_published() {
    let dir = tempfile::tempdir().unwrap();
    let profile = |name: &str, text: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("profile.toml"), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_string()
    };
    let good = profile("good", "iso-name = \"x\"\n");
    let doubtful = profile("doubtful", "iso-name = \"x\"\npackages = [\"nano\", \"nano\"]\n");
    let bad = profile("bad", "iso-name = 5\n");
    let cache = dir.path().join("cache").to_str().unwrap().to_string();

    assert_eq!(run(&["check", "--offline", &good], &[]), (Some(0), String::new(), String::new()));
    let file = format!("{good}/profile.toml");
    assert_eq!(run(&["check", "--offline", &file], &[]), (Some(0), String::new(), String::new()));
    let warning = format!(
        "warning: package `nano` is listed twice\n --> {doubtful}/profile.toml:2:21\n  |\n\
         2 | packages = [\"nano\", \"nano\"]\n  |                     ^^^^^^\n  |\n  = help: remove one of them\n"
    );
    assert_eq!(run(&["check", "--offline", &doubtful], &[]), (Some(0), String::new(), warning));
    let error = format!(
        "error: `iso-name` must be a string, but this is an integer\n --> {bad}/profile.toml:1:12\n  |\n\
         1 | iso-name = 5\n  |            ^\n  |\n  = help: write `\"5\"`\n"
    );
    assert_eq!(run(&["check", "--offline", &bad], &[]), (Some(3), String::new(), error));
    let (code, stdout, stderr) = run(&["check", "--offline", "--color=always", &bad], &[]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.starts_with("\x1b["), "{stderr}");

    let unresolved =
        "error: offline: this cache has not resolved these packages yet; run it once without --offline\n";
    assert_eq!(
        run(&["plan", "--offline", "--cache-dir", &cache, &good], &[]),
        (Some(4), String::new(), unresolved.to_string())
    );
    let epoch =
        "error: SOURCE_DATE_EPOCH must be seconds since 1970, from 315532800 to 4294967295, but is `soon`\n";
    assert_eq!(
        run(&["check", "--offline", &good], &[("SOURCE_DATE_EPOCH", "soon")]),
        (Some(2), String::new(), epoch.to_string())
    );
    let (code, stdout, stderr) = run(&["chekc", &good], &[]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("similar subcommand exists: 'check'"), "{stderr}");
    let (code, stdout, stderr) = run(&["--help"], &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("Exit status: 0 done"), "{stdout}");
}
