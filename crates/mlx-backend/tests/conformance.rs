//! The promises that every provider keeps, by the MLX provider on tiny-vl.

use std::{path::Path, sync::Arc};

use llm_core::{Image, testing};
use mlx_backend::{MlxOptions, MlxProvider};

#[test]
fn the_mlx_provider_conforms() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl");
    let path = models.join("full");
    let provider =
        MlxProvider::load(path.to_str().expect("a path of this repository"), MlxOptions::default())
            .expect("the model of this repository loads");
    let with = testing::Conformance {
        prompt: "What can you do?".to_owned(),
        image: Image::Path(models.join("samples/scene.png")),
    };
    testing::check(Arc::new(provider), &with);
}
