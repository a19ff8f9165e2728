//! `quantize`: a smaller copy that answers alike.

use std::{
    fs, os::unix::process::ExitStatusExt, path::Path, process::Stdio, thread, time::Duration,
};

use serde_json::Value;

use crate::{case, program, repository, run};

#[test]
fn the_copy_is_smaller_and_answers_alike() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("packed");
    let packed = target.to_str().unwrap();
    let done = run(["quantize", &repository("models/tiny-vl/full"), packed, "--bits", "8"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("8 bits in groups of 64"), "{done:?}");
    let case = case("01-describe");
    let answer = run([
        "generate",
        "-q",
        "--model",
        packed,
        "--prompt",
        &case.prompt,
        "--image",
        &case.images[0],
    ]);
    assert_eq!((answer.code, answer.stdout), (0, case.answer + "\n"));
    // Neither a folder that exists nor a checkpoint that is packed already is touched.
    run(["quantize", "tiny-vl", packed]).fails(1, "exists already");
    let again = folder.path().join("again");
    run(["quantize", packed, again.to_str().unwrap()]).fails(1, "quantised already");
    assert!(!again.exists());
}

#[test]
fn what_was_written_is_told_in_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("packed");
    let told = run(["quantize", "tiny-vl", target.to_str().unwrap(), "--json"]).json();
    assert_eq!((&told["recipe"], &told["resumed"]), (&"4 bits in groups of 64".into(), &0.into()));
    assert_eq!(told["target"], target.to_str().unwrap());
    let bytes = |field: &str| told[field].as_u64().unwrap();
    let written = fs::metadata(target.join("model.safetensors")).unwrap().len();
    assert_eq!(bytes("weight_bytes"), written);
    assert!(written < bytes("source_weight_bytes") && bytes("tensors") > 100, "{told}");
}

#[test]
fn what_is_no_checkpoint_cannot_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("packed");
    run(["quantize", &repository("docs"), target.to_str().unwrap()]).fails(1, "config.json");
    assert!(!target.exists());
}

#[test]
fn modes_recipes_and_rules() {
    let folder = tempfile::tempdir().unwrap();
    let source = repository("models/tiny-vl/full");
    let pack = |name: &str, options: &[&str]| {
        let target = folder.path().join(name);
        let done = run(["quantize", &source, target.to_str().unwrap()].iter().chain(options));
        assert_eq!(done.code, 0, "{done:?}");
        let config = fs::read_to_string(target.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["quantization"], config["quantization_config"]);
        (done.stdout, config["quantization"].clone())
    };
    let (said, block) = pack("floats", &["--mode", "mxfp8"]);
    assert!(said.contains(" of weights, mxfp8; "), "{said}");
    assert_eq!(block, serde_json::json!({"group_size": 32, "bits": 8, "mode": "mxfp8"}));
    let rules = ["--recipe", "mixed_4_8", "--rule", "*.layers.0.*=full", "--rule", "*q_proj=nvfp4"];
    let (said, block) = pack("mixed", &rules);
    assert!(said.contains("4 and 8 bits in groups of 64 and 2 rules"), "{said}");
    let of = |path: &str| block[format!("language_model.model.{path}")]["bits"].as_i64();
    assert_eq!((block["bits"].as_i64(), of("embed_tokens")), (Some(4), Some(8)));
    assert_eq!((of("layers.2.mlp.down_proj"), of("layers.0.mlp.down_proj")), (Some(8), None));
    let query = &block["language_model.model.layers.1.self_attn.q_proj"];
    assert_eq!(*query, serde_json::json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}));

    for (options, says) in [
        (&["--mode", "mxfp4", "--bits", "8"][..], "in the mode mxfp4, found 8"),
        (&["--rule", "*.nothing=8"], "*.nothing=8/64 matches no layer"),
    ] {
        let target = folder.path().join("refused");
        let all = ["quantize", &source, target.to_str().unwrap()].into_iter();
        let failed = run(all.chain(options.iter().copied()));
        assert!(failed.code != 0 && failed.stderr.contains(says), "{failed:?}");
        assert!(!target.exists());
    }
}

/// Killed at several moments, a conversion goes on where it was, and ends with the same bytes.
#[test]
fn a_conversion_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let source = repository("models/tiny-vl/full");
    let whole = folder.path().join("whole");
    assert_eq!(run(["quantize", &source, whole.to_str().unwrap()]).code, 0);
    let expected = fs::read(whole.join("model.safetensors")).unwrap();

    let target = folder.path().join("packed");
    let journal = folder.path().join("packed.incomplete/.progress");
    let lines = |path: &Path| fs::read(path).map_or(0, |text| text.split(|b| *b == b'\n').count());
    let mut done = 0;
    let mut kills = 0;
    while kills < 3 {
        let mut child = program(["quantize", &source, target.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while lines(&journal) <= done + 20 && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(100));
        }
        // SIGKILL.
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if target.exists() {
            // It was quicker than this loop saw.
            break;
        }
        assert_eq!(status.signal(), Some(9));
        assert!(lines(&journal) > done, "what was done is kept");
        done = lines(&journal);
        kills += 1;
    }
    assert!(kills > 0, "never caught in the middle");
    if !target.exists() {
        let last = run(["quantize", &source, target.to_str().unwrap()]);
        assert_eq!(last.code, 0, "{last:?}");
        // All whole lines but the first were kept.
        let kept = last.stdout.lines().last().unwrap().split(' ').next().unwrap();
        assert!(kept.parse::<usize>().unwrap() >= done - 2, "{done}: {last:?}");
    }
    assert!(fs::read(target.join("model.safetensors")).unwrap() == expected);
    assert!(!journal.exists());
    let same = |name: &str| {
        assert_eq!(fs::read(target.join(name)).unwrap(), fs::read(whole.join(name)).unwrap());
    };
    ["config.json", "model.safetensors.index.json", "tokenizer.json"].into_iter().for_each(same);
}

/// The limit on a file's size stands for a full disk: an error, and the next try goes on.
#[test]
fn a_full_disk_is_an_error_that_the_next_try_mends() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("packed");
    let command = program(["quantize", "tiny-vl", target.to_str().unwrap()]);
    let mut limited = std::process::Command::new("sh");
    // 4096 blocks of 512 or 1024 bytes, less than the weights. The signal is ignored for the error.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let failed = crate::Run::from(limited.output().unwrap());
    failed.fails(1, "packed.incomplete");
    assert!(!target.exists());
    let done = run(["quantize", "tiny-vl", target.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{done:?}");
}
