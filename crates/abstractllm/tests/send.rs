//! Futures of the public calls can be moved to another thread, as runtimes with several threads do.
#![cfg(feature = "session")]

use std::{sync::Arc, thread};

use abstractllm::{
    EventStream, Message, Provider, Request, create_llm_async, register_provider,
    session::{Session, Toolbox},
    testing::{Script, ScriptedProvider},
};
use futures_executor::block_on;

fn elsewhere<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    thread::spawn(|| block_on(future)).join().unwrap()
}

fn sent<T: Send>(value: T) -> T {
    value
}

fn shared<T: Send + Sync + 'static>() {}

#[test]
fn futures_are_polled_on_another_thread() {
    let scripted = || ScriptedProvider::new([Script::text("one two")]);
    let provider: Arc<dyn Provider> = Arc::new(scripted());
    let asked = provider.clone();
    let answer = elsewhere(async move { asked.generate(Request::text("x")).await }).unwrap();
    assert_eq!(answer.text, "one two");

    let asked = provider.clone();
    let start = async move { asked.generate_stream(Request::text("x")).await };
    let mut stream: EventStream = elsewhere(start).unwrap();
    assert!(block_on(sent(stream.next())).is_some());
    assert_eq!(elsewhere(stream.collect()).unwrap().text, "two");

    let asked = provider.clone();
    let turns = elsewhere(async move {
        let mut session = Session::new();
        let question = || Message::user(["x".into()]);
        sent(session.ask(&*asked, question())).await.unwrap();
        sent(session.ask_with(&*asked, question(), |_| {})).await.unwrap();
        session.turns().len()
    });
    assert_eq!(turns, 2);

    let tools = Toolbox::default();
    assert!(block_on(sent(tools.run(&[]))).is_empty());

    register_provider("scripted", move |_| Ok(Box::new(scripted()))).unwrap();
    let llm = elsewhere(create_llm_async("scripted", [("model", "x")])).unwrap();
    assert_eq!(block_on(llm.generate(Request::text("x"))).unwrap().text, "one two");
}

#[test]
fn what_is_shared_can_be() {
    shared::<Box<dyn Provider>>();
    shared::<Session>();
    shared::<Toolbox>();
    shared::<abstractllm::Config>();
    shared::<abstractllm::Error>();
    #[cfg(feature = "mlx")]
    shared::<abstractllm::mlx::MlxProvider>();
    #[cfg(feature = "openai")]
    shared::<abstractllm::http::OpenAiProvider>();
    #[cfg(feature = "anthropic")]
    shared::<abstractllm::http::AnthropicProvider>();
    #[cfg(feature = "media")]
    shared::<abstractllm::media::Loader>();
    shared::<abstractllm::perf::PerformanceMonitor>();
}
