//! `--provider` and `--set`: the same question to a model here and to a server, which is our own.

use crate::{case, program, repository, run, serve::start};
use nix::sys::signal::Signal;

#[test]
fn a_provider_is_swapped_by_its_name() {
    let (server, address, _stdout) = start(&["--alias", "elsewhere"]);
    let base_url = format!("base_url=http://{address}/v1");
    let there = ["--provider", "openai", "--model", "elsewhere", "--set", &base_url];
    let wanted = case("01-describe");
    let ask = |more: &[&str]| {
        let image = ["describe", "--json", "--prompt", &wanted.prompt, &wanted.images[0]];
        let mut command = program(image.iter().chain(more));
        // Of the server, and no setting of any provider.
        command.env("ABSTRACTLLM_API_KEY", "sk-of-the-server").env_remove("OPENAI_API_KEY");
        crate::Run::from(command.output().unwrap()).json()
    };
    let (here, there) = (ask(&["-q"]), ask(&there));
    assert_eq!(here["text"], wanted.answer.as_str());
    assert_eq!((&here["model"], &there["model"]), (&"tiny-vl".into(), &"elsewhere".into()));
    for field in ["text", "finish_reason", "images"] {
        assert_eq!(here[field], there[field], "{field}");
    }
    for tokens in ["prompt_tokens", "completion_tokens"] {
        assert_eq!(here["usage"][tokens], there["usage"][tokens], "{tokens}");
    }

    // The environment says it as well, and the same of a conversation.
    let mut chat = program(["chat", "--provider", "openai", "-q"]);
    chat.env("ABSTRACTLLM_OPENAI_BASE_URL", format!("http://{address}/v1"))
        .env("ABSTRACTLLM_OPENAI_MODEL", "elsewhere")
        .env("ABSTRACTLLM_MAX_TOKENS", "1");
    let cut = crate::piped(chat, "Hello\n");
    let whole = crate::run_with_stdin(&["chat", "-q", "--set", "max_tokens=1"], "Hello\n");
    assert_eq!(cut.ok(), whole.ok());
    assert_eq!(crate::serve::end(server, Signal::SIGTERM), Some(0));
}

#[test]
fn settings_that_nobody_knows_are_refused_before_a_model_is_loaded() {
    let ask = |more: &[&str]| run(["generate", "--prompt", "x"].iter().chain(more));
    ask(&["--set", "max_bach=2"]).fails(1, "did you mean `max_batch`?");
    ask(&["--provider", "opnai"]).fails(1, "unknown provider `opnai`; did you mean `openai`?");
    ask(&["--provider", "openai"]).fails(1, "missing key `model`");
    ask(&["--provider", "openai", "--model", "m", "--kv-bits", "8"])
        .fails(1, "--kv-bits is an option of the provider mlx");
    ask(&["--set", "temperature=3"]).fails(1, "temperature must be within 0..=2");
    ask(&["--set", "max_tokens"]).fails(2, "expected KEY=VALUE");
    let mut command = program(["generate", "--prompt", "x"]);
    command.env("ABSTRACTLLM_TOPP", "1");
    crate::Run::from(command.output().unwrap())
        .fails(1, "ABSTRACTLLM_TOPP: unknown key `topp`; did you mean `top_p`?");
}

#[test]
fn a_setting_counts_where_no_option_says_otherwise() {
    let ask = |more: &[&str]| {
        let fixed = ["generate", "--prompt", "Who are you?", "--json", "--set", "max_tokens=2"];
        run(fixed.iter().chain(more))
    };
    let two = ask(&[]);
    assert!(two.stderr.contains("--max-tokens is 2"), "{two:?}");
    assert_eq!(two.json()["usage"]["completion_tokens"], 2);
    assert_eq!(ask(&["--max-tokens", "3", "-q"]).json()["usage"]["completion_tokens"], 3);
    let folder = repository("testdata/golden/tiny_q4");
    let named = ask(&["--set", &format!("model={folder}"), "-q"]).json();
    assert_eq!(named["model"], folder.as_str());
}
