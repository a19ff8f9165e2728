//! The provider keeps the promises of all providers, and is found by its name.

use abstractllm::{Image, Request, blocking, create_llm};
use llm_core::testing::{Conformance, check};

#[test]
fn it_conforms_and_is_found_by_name() {
    own_provider::register().unwrap();
    let llm = create_llm("backwards", [("max_tokens", "2")]).unwrap();
    let answer = blocking::generate(&*llm, Request::text("one two three")).unwrap();
    assert_eq!(answer.text, "three two ");
    let llm = create_llm("backwards", [("max_tokens", "64")]).unwrap();
    let with =
        Conformance { prompt: "say this backwards".to_owned(), image: Image::encoded(vec![1]) };
    check(llm.into(), &with);
}
