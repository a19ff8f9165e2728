//! The build on Apple systems repeats what the published build script said. No other system can
//! run that script, so this feeds the part that repeats with messages as Cargo writes them.

#[path = "../build/published.rs"]
mod published;

use std::path::Path;

use published::PublishedBuild;

/// Three lines of `cargo build --message-format=json`, less the fields that nobody reads.
const MESSAGES: &str = r#"
{"reason":"build-script-executed","package_id":"registry+https://example.org/index#libc@0.2.1","linked_libs":[],"linked_paths":[],"cfgs":[],"env":[],"out_dir":"/t/build/libc-1/out"}
{"reason":"build-script-executed","package_id":"registry+https://example.org/index#mlx-sys@0.7.0","linked_libs":["static=mlxc","c++","framework=Metal"],"linked_paths":["native=/t/build/mlx-sys-1/out/build/lib"],"cfgs":[],"env":[],"out_dir":"/t/build/mlx-sys-1/out"}
{"reason":"build-finished","success":true}
"#;

#[test]
fn what_the_published_script_said_is_said_again() {
    let build = PublishedBuild::from_messages(MESSAGES).unwrap();
    assert_eq!(
        build.directives(Path::new("/nowhere"), "0.32.2"),
        [
            "cargo::rustc-link-search=native=/t/build/mlx-sys-1/out/build/lib",
            "cargo::rustc-link-lib=static=mlxc",
            "cargo::rustc-link-lib=c++",
            "cargo::rustc-link-lib=framework=Metal",
            "cargo::rustc-env=MLX_SYS_BINDINGS=/t/build/mlx-sys-1/out/bindings.rs",
            "cargo::metadata=include=",
            "cargo::metadata=defines=MLX_STATIC",
            "cargo::metadata=version=0.32.2",
        ]
    );
}

#[test]
fn other_messages_are_not_mistaken_for_it() {
    let others: Vec<_> = MESSAGES.lines().filter(|line| !line.contains("#mlx-sys@")).collect();
    assert!(PublishedBuild::from_messages(&others.join("\n")).is_none());
    assert!(PublishedBuild::from_messages("no JSON at all").is_none());
}
