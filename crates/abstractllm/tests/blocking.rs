//! The blocking front hands on what a provider says, and nothing else.

use abstractllm::{
    ErrorKind, Event, Request, blocking,
    testing::{Script, ScriptedProvider},
};
#[cfg(feature = "session")]
use abstractllm::{
    Message, ToolCall,
    session::{Session, Toolbox},
};

#[test]
fn the_whole_answer_and_its_events_say_the_same() {
    let provider = ScriptedProvider::new([Script::text("one two"), Script::text("one two")]);
    let whole = blocking::generate(&provider, Request::text("count")).unwrap();
    let mut text = String::new();
    let mut ends = 0;
    for event in blocking::stream(&provider, Request::text("count")).unwrap() {
        match event.unwrap() {
            Event::Text(piece) => text.push_str(&piece),
            Event::End(completion) => {
                ends += 1;
                assert_eq!(completion.reason, whole.completion.reason);
            }
            _ => {}
        }
    }
    assert_eq!((text.as_str(), ends), ("one two", 1));
    assert_eq!(whole.text, text);
}

#[test]
fn what_was_read_before_an_error_is_kept() {
    let script = Script::text("one two").fails(ErrorKind::OutOfMemory, "no room");
    let provider = ScriptedProvider::new([script]);
    let events: Vec<_> = blocking::stream(&provider, Request::text("count")).unwrap().collect();
    let (last, before) = events.split_last().unwrap();
    assert!(before.iter().any(|event| matches!(event, Ok(Event::Text(_)))), "{events:?}");
    assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::OutOfMemory);
}

#[test]
fn the_rest_can_be_collected_and_dropping_cancels() {
    let provider = ScriptedProvider::new([Script::text("one two"), Script::text("one two")]);
    let mut events = blocking::stream(&provider, Request::text("count")).unwrap();
    let mut first = String::new();
    while first.is_empty() {
        if let Event::Text(piece) = events.next().unwrap().unwrap() {
            first = piece;
        }
    }
    let rest = events.collect_response().unwrap();
    assert_eq!(first + &rest.text, "one two");
    assert_eq!(provider.cancelled(), 0);
    let mut events = blocking::stream(&provider, Request::text("count")).unwrap();
    assert!(events.next().is_some());
    drop(events);
    assert_eq!(provider.cancelled(), 1);
}

#[cfg(feature = "session")]
#[test]
fn conversations_and_tools_can_be_waited_for() {
    let provider = ScriptedProvider::new([Script::text("one two"), Script::text("three")]);
    let mut session = Session::new();
    let answer = blocking::ask(&mut session, &provider, Message::user(["count".into()])).unwrap();
    assert_eq!(answer.text, "one two");
    let mut heard = String::new();
    let hear = |event: &Event| {
        if let Event::Text(piece) = event {
            heard.push_str(piece);
        }
    };
    let question = Message::user(["go on".into()]);
    let answer = blocking::ask_with(&mut session, &provider, question, hear).unwrap();
    assert_eq!((answer.text.as_str(), heard.as_str()), ("three", "three"));
    assert_eq!(session.turns().len(), 2);
    assert_eq!(provider.requests()[1].messages.len(), 3);

    let calls = [ToolCall::new("1", "nothing", serde_json::json!({}))];
    let results = blocking::run_tools(&Toolbox::default(), &calls);
    assert!(results[0].is_error, "{results:?}");
}
