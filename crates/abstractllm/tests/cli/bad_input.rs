//! Bad input: a clear error, exit code 1, or 2 where the command line itself is wrong.

use std::{fs, path::Path};

use crate::{hostile, repository, run, run_with_stdin};

#[test]
fn images_that_cannot_be_used() {
    for (name, says) in [
        ("no-such.png", "No such file"),
        ("empty.png", "no bytes"),
        ("text.png", "unsupported image"),
        ("truncated.jpg", "cannot decode JPEG"),
        ("truncated.png", "cannot decode PNG"),
        ("truncated.webp", "cannot decode WebP"),
        ("header_only.jpg", "cannot decode JPEG"),
        ("bomb_60000x60000.png", "number of pixels is 3600000000, the limit is"),
        ("thin_1x201.png", "ratio of the longer to the shorter side is 201, the limit is 200"),
        ("picture.svg", "SVG"),
        ("stub.heic", "HEIC"),
    ] {
        let run = run(["describe", "--quiet", &hostile(name)]);
        run.fails(1, says);
        assert!(run.stderr.contains(name), "the image is not named: {run:?}");
    }
}

#[test]
fn a_thin_image_within_the_limit_is_none_of_them() {
    assert_eq!(run(["describe", "--quiet", &hostile("thin_1x200.png")]).code, 0);
}

#[test]
fn a_directory_is_no_image() {
    run(["describe", "--quiet", &hostile("")]).fails(1, "is a directory, not a file");
}

#[test]
fn data_urls_and_addresses_that_cannot_be_used() {
    for (url, says) in [
        ("data:image/png;base64,%%%", "not valid base64"),
        ("data:text/plain;base64,AQID", "expected a data URL of an image"),
        ("data:image/png;base64,AQID", "unsupported image"),
        ("https://example.org/a.png", "addresses are not fetched"),
    ] {
        run(["describe", "--quiet", url]).fails(1, says);
    }
}

#[test]
fn prompts_that_cannot_be_used() {
    let ask = |prompt: &str| run(["generate", "--quiet", "--prompt", prompt]);
    ask("What is <|image_pad|> here?").fails(1, "<|image_pad|>");
    run_with_stdin(&["generate", "--quiet"], "").fails(1, "is empty");
    run_with_stdin(&["generate", "--quiet"], b"\xff\xfe").fails(1, "not UTF-8");
    let long = "word ".repeat(5000);
    let run = run_with_stdin(&["generate", "--quiet"], long);
    run.fails(1, "the context of the model 4096");
    assert!(run.stderr.contains("hint: shorten the prompt"), "{run:?}");
}

#[test]
fn models_that_cannot_be_used() {
    let ask =
        |model: &str| run(["generate", "--quiet", "--offline", "--prompt", "x", "--model", model]);
    ask("/no/such/folder").fails(1, "no model `/no/such/folder`");
    ask("no-organisation/no-model").fails(1, "no model `no-organisation/no-model`");
    ask(&repository("docs")).fails(1, "config.json");
    let folder = tempfile::tempdir().unwrap();
    copy_with_model_type(folder.path(), "unheard_of");
    let run = ask(folder.path().to_str().unwrap());
    run.fails(1, "unsupported model_type `unheard_of`");
    assert!(run.stderr.contains("qwen2_5_vl"), "the known ones are not named: {run:?}");
}

/// Copies tiny-vl with another `model_type`; the weights are not read before that is checked.
fn copy_with_model_type(to: &Path, model_type: &str) {
    for entry in fs::read_dir(repository("models/tiny-vl/full")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
    }
    let config = fs::read_to_string(to.join("config.json")).unwrap();
    let changed = config.replacen(
        r#""model_type": "qwen2_5_vl""#,
        &format!(r#""model_type": "{model_type}""#),
        1,
    );
    assert_ne!(config, changed);
    fs::write(to.join("config.json"), changed).unwrap();
}

#[test]
fn values_out_of_range_are_named() {
    for (option, value, says) in [
        ("--temperature", "3", "temperature must be within 0..=2, found 3"),
        ("--top-p", "0", "top_p must be above 0"),
        ("--max-tokens", "0", "max_tokens must be at least 1"),
        ("--stop", "", "stop must not hold an empty text"),
        ("--max-pixels", "0", "max_pixels must be at least 1"),
    ] {
        run(["generate", "--quiet", "--prompt", "x", option, value]).fails(1, says);
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for (arguments, says) in [
        (&["generate", "--frobnicate"][..], "unexpected argument '--frobnicate'"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["describe"], "<IMAGE>..."),
        (&["generate", "--temperature", "hot"], "invalid value 'hot'"),
        (&["generate", "--quantize=7"], "expected one of 2, 3, 4, 5, 6, 8"),
        (&["generate", "--quantize", "--group-size", "48"], "expected one of 16, 32, 64, 128"),
        (&["generate", "--group-size", "32"], "--quantize"),
        (&["generate", "-q", "-v"], "cannot be used with"),
    ] {
        let run = run(arguments);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(says), "expected {says:?}: {run:?}");
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn an_error_in_the_middle_of_json_is_json_too() {
    let run = run(["describe", "--quiet", "--json", &hostile("truncated.png")]);
    assert_eq!(run.code, 1);
    let json = run.json();
    assert_eq!(json["error"]["kind"], "image");
    assert_eq!((json["text"].as_str(), json["finish_reason"].is_null()), (Some(""), true));
}
