//! The provider with low-rank adapters, on tiny-vl: each request gets the answer of its own adapter, as mlx-vlm
//! gives it, whatever else is asked meanwhile and whatever caches hold.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use futures_executor::block_on;
use llm_core::{Capability, ErrorKind, GenerateParams, Image, Provider, Request, Response};
use mlx_backend::{CacheLimits, Caches, DiskCache, MlxOptions, MlxProvider};
use serde_json::Value;

/// All tests share the MLX thread, and some look at what it does.
fn alone() -> MutexGuard<'static, ()> {
    static MLX: Mutex<()> = Mutex::new(());
    MLX.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folder(name: &str) -> PathBuf {
    root().join("testdata/adapters/tiny-vl").join(name)
}

/// `words` changes the decoder, `eyes` the tower.
fn adapters() -> BTreeMap<String, PathBuf> {
    ["eyes", "words"].map(|name| (name.to_owned(), folder(name))).into()
}

fn load(model: &str, adapters: BTreeMap<String, PathBuf>, limits: CacheLimits) -> MlxProvider {
    let path = root().join("models/tiny-vl").join(model);
    let caches = Caches::open(limits).unwrap();
    let options = MlxOptions { adapters, caches, ..MlxOptions::default() };
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

/// What mlx-vlm was asked, and what it answered.
fn expected() -> Value {
    serde_json::from_slice(&fs::read(folder("expected.json")).unwrap()).unwrap()
}

fn request(question: &Value, max_tokens: u64, adapter: Option<&str>) -> Request {
    let images = question["images"].as_array().unwrap().iter();
    let images = images
        .map(|name| root().join("testdata/scenes").join(name.as_str().unwrap()))
        .map(Image::Path);
    Request::images(images, question["prompt"].as_str().unwrap()).with_params(GenerateParams {
        max_tokens: Some(max_tokens.try_into().unwrap()),
        adapter: adapter.map(str::to_owned),
        ..GenerateParams::default()
    })
}

/// The questions of `checkpoint` with the texts of mlx-vlm, one adapter after the other.
fn cases(checkpoint: &str) -> Vec<(String, Request, String)> {
    let all = expected();
    let questions = all["questions"].as_array().unwrap();
    let answers = all["answers"].as_array().unwrap().iter();
    let mut cases: Vec<(String, Request, String)> = answers
        .filter(|answer| answer["checkpoint"] == checkpoint)
        .map(|answer| {
            let question = questions.iter().find(|q| q["name"] == answer["question"]).unwrap();
            let adapter = answer["adapter"].as_str();
            let max_tokens = all["max_tokens"].as_u64().unwrap();
            (
                format!("{checkpoint}, {}, {}", answer["adapter"], answer["question"]),
                request(question, max_tokens, adapter),
                answer["text"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    // None, words, eyes, none ...: another one for each answer.
    let of_one = questions.len();
    assert_eq!(cases.len(), 3 * of_one);
    cases = (0..cases.len()).map(|i| cases[i % 3 * of_one + i / 3].clone()).collect();
    cases
}

fn ask(provider: &dyn Provider, request: &Request) -> Response {
    block_on(provider.generate(request.clone())).unwrap()
}

#[test]
fn each_adapter_answers_as_in_mlx_vlm_and_the_model_as_before() {
    let _alone = alone();
    for checkpoint in ["full", "4bit"] {
        let provider = load(checkpoint, adapters(), CacheLimits::none());
        assert!(provider.info().capabilities.has(Capability::Adapters));
        let cases = cases(checkpoint);
        for (name, request, text) in &cases {
            assert_eq!(ask(&provider, request).text, *text, "{name}");
        }
        // Each of them changes what is said of what is read and compared.
        for of_question in cases.chunks(3).skip(1).take(2) {
            let [none, words, eyes] = [0, 1, 2].map(|i| of_question[i].2.as_str());
            assert!(none != words && none != eyes && words != eyes, "{none}, {words}, {eyes}");
        }
    }
}

#[test]
fn requests_at_a_time_get_the_answers_of_their_own_adapters() {
    let _alone = alone();
    for limits in [CacheLimits::none(), CacheLimits::default()] {
        let provider = load("full", adapters(), limits);
        let cases = cases("full");
        // The second time with what was kept of the first.
        for round in 0..2 {
            let ask = &|case: &(String, Request, String)| ask(&provider, &case.1).text;
            let found: Vec<String> = thread::scope(|scope| {
                let callers: Vec<_> =
                    cases.iter().map(|case| scope.spawn(move || ask(case))).collect();
                callers.into_iter().map(|caller| caller.join().unwrap()).collect()
            });
            for ((name, _, text), found) in cases.iter().zip(found) {
                assert_eq!(found, *text, "{name}, round {round}");
            }
        }
    }
}

#[test]
fn what_is_kept_is_of_one_adapter() {
    let _alone = alone();
    let provider = load("full", adapters(), CacheLimits::default());
    let of = |adapter| request(&expected()["questions"][0], 12, adapter);
    let features = || {
        let report = provider.caches().report().features;
        (report.hits, report.misses)
    };
    let cached = |adapter| ask(&provider, &of(adapter)).completion.usage.cached_tokens;
    assert_eq!((cached(None), features()), (0, (0, 1)));
    // The decoder is another one, and the picture is seen as before.
    assert_eq!((cached(Some("words")), features()), (0, (1, 1)));
    // The tower is another one.
    assert_eq!((cached(Some("eyes")), features()), (0, (1, 2)));
    for adapter in [None, Some("words"), Some("eyes")] {
        assert!(cached(adapter) > 64, "{adapter:?}");
    }
    assert_eq!(features(), (1, 2), "the tower ran again");
}

#[test]
fn on_disk_an_adapter_is_known_by_what_it_holds() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (disk, own) = (dir.path().join("cache"), dir.path().join("own"));
    let put = |name: &str| {
        fs::create_dir_all(&own).unwrap();
        for file in ["adapter_config.json", "adapters.safetensors"] {
            fs::copy(folder(name).join(file), own.join(file)).unwrap();
        }
    };
    let asked = || {
        let mut limits = CacheLimits::default();
        limits.disk = Some(DiskCache::new(&disk));
        let provider = load("full", [("own".to_owned(), own.clone())].into(), limits);
        let answer = ask(&provider, &request(&expected()["questions"][1], 24, Some("own")));
        provider.caches().flush();
        (answer.text, answer.completion.usage.cached_tokens)
    };
    put("words");
    let (first, cached) = asked();
    assert_eq!(cached, 0);
    let (again, cached) = asked();
    assert!(again == first && cached >= 64, "{cached} tokens of {again}");
    // Another one of the same name, in the same place.
    put("eyes");
    let (other, cached) = asked();
    assert_eq!(cached, 0);
    assert_ne!(other, first);
}

#[test]
fn a_model_with_an_adapter_is_a_model() {
    let _alone = alone();
    let provider = load("4bit", adapters(), CacheLimits::none());
    let words = provider.adapted("words").unwrap();
    assert_eq!(words.info().model, "words");
    for (name, mut request, text) in cases("4bit") {
        match request.params.adapter.take() {
            None => assert_eq!(ask(&provider, &request).text, text, "{name}"),
            Some(adapter) if adapter == "words" => {
                assert_eq!(ask(&words, &request).text, text, "{name}");
            }
            Some(_) => {}
        }
    }
    // It outlives what it was made of.
    drop(provider);
    let (_, mut request, text) = cases("4bit").swap_remove(1);
    request.params.adapter = None;
    assert_eq!(ask(&words, &request).text, text);
}

#[test]
fn adapters_that_are_not_there_are_named() {
    let _alone = alone();
    let provider = load("full", adapters(), CacheLimits::none());
    let mut request = Request::text("Hello");
    request.params.adapter = Some("wodrs".to_owned());
    let error = block_on(provider.generate(request.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.to_string(), "there is no adapter `wodrs`; there is `eyes`, `words`");
    assert!(provider.adapted("wodrs").is_err());

    let provider = load("full", BTreeMap::new(), CacheLimits::none());
    assert!(!provider.info().capabilities.has(Capability::Adapters));
    let error = block_on(provider.generate(request)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let of_another_model = root().join("testdata/adapters/language");
    for (folder, says) in [
        (root().join("testdata"), "adapter_config.json"),
        (of_another_model, "language_model.model.layers.0"),
    ] {
        let path = root().join("models/tiny-vl/full");
        let adapters = [("x".to_owned(), folder)].into();
        let options = MlxOptions { adapters, ..MlxOptions::default() };
        let error = MlxProvider::load(path.to_str().unwrap(), options).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
