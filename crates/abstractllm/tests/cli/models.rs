//! `models`, with a cache of its own and a hub on this machine.

use std::{
    fs::{self, File},
    io::Write,
};

use nix::pty::openpty;
use serde_json::{Value, json};

use crate::{
    Run,
    hub::{COMMIT, Place, source},
    program, repository,
};

fn names(place: &Place) -> Vec<String> {
    let listed = place.run(&["list", "--json"]).json();
    let models = listed["models"].as_array().unwrap().iter();
    models.map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_model_comes_is_described_and_goes() {
    let place = Place::new();
    assert_eq!(names(&place), ["tiny-vl"]);
    let pulled = place.run(&["pull", "org/tiny"]);
    let snapshot = place.cache.path().join("models--org--tiny/snapshots").join(COMMIT);
    assert!(pulled.ok().ends_with(&format!(", in {}\n", snapshot.display())), "{pulled:?}");
    assert_eq!(names(&place), ["tiny-vl", "org/tiny"]);

    let info = place.run(&["info", "org/tiny", "--json"]).json();
    assert_eq!(info["family"], "qwen2_5_vl");
    assert_eq!(info["quantize"], json!({"mode": "affine", "bits": 4, "group_size": 64}));
    assert_eq!((&info["source"], &info["problem"]), (&json!("cache"), &Value::Null));
    assert_eq!(info["location"], place.cache.path().to_str().unwrap());
    assert_eq!(info["path"], snapshot.to_str().unwrap());
    assert_eq!(info["revisions"][0]["revisions"], json!(["main"]));
    assert!(info["capabilities"].as_array().unwrap().contains(&json!("vision")), "{info}");
    let bytes: u64 =
        fs::read_dir(source()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(info["bytes"].as_u64().unwrap() >= bytes, "{info}");
    let told = place.run(&["info", "org/tiny"]);
    for says in ["qwen2_5_vl", "4 bits in groups of 64", "vision", COMMIT, "(main)"] {
        assert!(told.ok().contains(says), "{says}: {told:?}");
    }

    // Nobody is there to be asked.
    place.run(&["rm", "org/tiny"]).fails(1, "give --yes");
    assert_eq!(names(&place), ["tiny-vl", "org/tiny"]);
    let removed = place.run(&["rm", "--yes", "org/tiny", "--json"]).json();
    assert_eq!(removed, json!({"removed": ["org/tiny"], "freed_bytes": info["bytes"]}));
    assert_eq!(names(&place), ["tiny-vl"]);
    place.run(&["rm", "--yes", "org/tiny"]).fails(1, "no model `org/tiny` in the cache");
}

#[test]
fn a_second_pull_fetches_what_is_new() {
    let place = Place::new();
    let lines = |run: &Run| -> Vec<Value> {
        run.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = lines(&place.run(&["pull", "org/tiny", "--json"]));
    let files = first.iter().filter(|line| line["event"] == "file").count();
    assert_eq!(files, fs::read_dir(source()).unwrap().count(), "{first:?}");
    assert!(first.last().unwrap()["bytes"].as_u64() > Some(100_000), "{first:?}");
    let second = lines(&place.run(&["pull", "org/tiny", "--json"]));
    assert_eq!(second.len(), 1);
    assert_eq!((&second[0]["event"], &second[0]["bytes"]), (&json!("end"), &json!(0)));
    assert!(place.run(&["pull", "org/tiny"]).ok().contains("up to date"));
    place.run(&["pull", "org/other"]).fails(1, "no model `org/other`");
    place.run(&["pull", "tiny-vl"]).fails(1, "not a hub name");
}

#[test]
fn nothing_outside_of_the_cache_is_removed() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let name = folder.path().to_str().unwrap();
    place.run(&["rm", "--yes", name]).fails(1, "delete it yourself");
    place.run(&["rm", "--yes", "tiny-vl"]).fails(1, "a part of this program");
    place.run(&["pull", "org/tiny"]).ok();
    // All or nothing.
    place.run(&["rm", "--yes", "org/tiny", "org/../.."]).fails(1, "no model `org/../..`");
    assert_eq!(names(&place), ["tiny-vl", "org/tiny"]);
    assert!(folder.path().join("config.json").exists());
}

#[test]
fn folders_are_listed_with_what_is_wrong_in_them() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in [("alien", r#"{"model_type": "mamba"}"#), ("broken", "{")] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("config.json"), config).unwrap();
    }
    let weights = source().join("model.safetensors");
    fs::copy(weights, folder.path().join("alien/model.safetensors")).unwrap();
    fs::create_dir(folder.path().join("no-model")).unwrap();
    let golden = repository("testdata/golden");
    let listed = place.run(&["list", "--json", folder.path().to_str().unwrap(), &golden]).json();
    let find = |name: &str| {
        let mut models = listed["models"].as_array().unwrap().iter();
        let found = models.find(|model| model["name"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("{name}: {listed}"))
    };
    assert_eq!(find("tiny_fp32")["float_type"], "f32");
    assert_eq!(find("tiny_q4")["problem"], Value::Null);
    let problem = |name: &str| find(name)["problem"].as_str().unwrap();
    assert!(problem("alien").starts_with("unsupported model_type `mamba`"));
    assert!(problem("broken").contains("not valid JSON"));
    assert_eq!(listed["models"].as_array().unwrap().len(), 5);
    let told = place.run(&["list", &golden]);
    assert!(told.ok().starts_with("embedded in this program\n  tiny-vl"), "{told:?}");
    place.run(&["list", "/no/such"]).fails(1, "cannot read the folder /no/such");
    place.run(&["info", "no/such"]).fails(1, "no model `no/such`");
}

#[test]
fn a_person_is_asked_before_a_model_goes() {
    let place = Place::new();
    place.run(&["pull", "org/tiny"]).ok();
    let remove = |says: &[u8]| -> Run {
        let pty = openpty(None, None).unwrap();
        File::from(pty.master.try_clone().unwrap()).write_all(says).unwrap();
        let mut command = program(["models", "rm", "org/tiny"]);
        command.env("HF_HUB_CACHE", place.cache.path()).stdin(File::from(pty.slave));
        command.output().unwrap().into()
    };
    let kept = remove(b"no\n");
    assert!(kept.stderr.starts_with("remove org/tiny, "), "{kept:?}");
    assert_eq!((kept.code, names(&place).len()), (0, 2));
    let gone = remove(b"y\n");
    assert!(gone.stderr.contains("? [y/N] removed org/tiny, "), "{gone:?}");
    assert_eq!((gone.code, names(&place).len()), (0, 1));
}
