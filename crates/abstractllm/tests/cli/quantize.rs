//! `quantize`: a smaller copy that answers alike.

use crate::{case, repository, run};

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
fn what_is_no_checkpoint_cannot_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("packed");
    run(["quantize", &repository("docs"), target.to_str().unwrap()]).fails(1, "config.json");
    assert!(!target.exists());
}
