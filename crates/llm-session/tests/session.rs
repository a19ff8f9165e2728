//! Conversations with scripted models: what they are asked, what is remembered, what is left out.

use std::{
    fs,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_executor::block_on;
use llm_core::{
    Capabilities, Capability, Completion, Error, ErrorKind, Event, EventStream, FinishReason,
    Image, Message, ModelInfo, OutputFormat, Part, Provider, Request, Result, Role, ToolCall,
    ToolChoice, ToolResult, Usage, async_trait,
    testing::{Script, ScriptedProvider},
};
use llm_session::{Session, output_of, parse, schemars};
use serde_json::json;

fn user(text: &str) -> Message {
    Message::user([text.into()])
}

/// A model whose tokens are words, with a context of its own, which answers with `answer`.
#[derive(Debug)]
struct Words {
    info: ModelInfo,
    answer: &'static str,
    /// The tool that it calls instead of its first answer.
    call: Mutex<Option<ToolCall>>,
    asked: Mutex<Vec<Vec<Message>>>,
}

impl Words {
    fn new(model: &str, context: usize, answer: &'static str) -> Self {
        let capabilities = Capabilities::from_iter([Capability::Streaming]);
        let info = ModelInfo::new("words", model, capabilities).with_context_tokens(context);
        Self { info, answer, call: Mutex::default(), asked: Mutex::default() }
    }

    fn calls(mut self, call: ToolCall) -> Self {
        self.info.capabilities.extend([Capability::ToolUse]);
        Self { call: Mutex::new(Some(call)), ..self }
    }

    /// The texts of the last question.
    fn last(&self) -> Vec<String> {
        self.asked.lock().unwrap().last().unwrap().iter().map(Message::text).collect()
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl Provider for Words {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, request: Request) -> Result<EventStream> {
        request.validate(&self.info)?;
        let words = |m: &Message| {
            let results: String = m.tool_results().map(|r| r.content.as_str()).collect();
            m.text().split_whitespace().count() + results.split_whitespace().count()
        };
        let prompt: usize = request.messages.iter().map(words).sum();
        let answer = self.answer.split_whitespace().count();
        self.asked.lock().unwrap().push(request.messages);
        if prompt + answer > self.info.context_tokens.unwrap() {
            return Err(Error::new(ErrorKind::ContextOverflow, format!("{prompt} words")));
        }
        if let Some(call) = self.call.lock().unwrap().take() {
            let end = Completion::new(FinishReason::ToolCalls, Usage::new(prompt, 1));
            return Ok(EventStream::from_iter([Ok(Event::ToolCall(call)), Ok(Event::End(end))]));
        }
        let end = Completion::new(FinishReason::Stop, Usage::new(prompt, answer));
        let events = [Event::Text(self.answer.to_owned()), Event::End(end)];
        Ok(EventStream::from_iter(events.map(Ok)))
    }
}

#[test]
fn everything_said_goes_with_the_next_question() {
    let model = Words::new("m", 1000, "yes");
    let mut session = Session::new();
    session.system = Some("be brief".to_owned());
    for question in ["one", "two", "three"] {
        let mut heard = String::new();
        let answer = block_on(session.ask_with(&model, user(question), |event| {
            if let Event::Text(text) = event {
                heard.push_str(text);
            }
        }));
        assert_eq!((answer.unwrap().text.as_str(), heard.as_str()), ("yes", "yes"));
    }
    assert_eq!(model.last(), ["be brief", "one", "yes", "two", "yes", "three"]);
    // Two words of the system prompt count with the first turn.
    let tokens: Vec<_> = session.turns().iter().map(|turn| turn.tokens.unwrap()).collect();
    assert_eq!(tokens, [4, 2, 2]);
    assert_eq!(session.undo().unwrap().messages[0], user("three"));
    block_on(session.ask(&model, user("four"))).unwrap();
    assert_eq!(model.last(), ["be brief", "one", "yes", "two", "yes", "four"]);
    session.clear();
    block_on(session.ask(&model, user("five"))).unwrap();
    assert_eq!(model.last(), ["be brief", "five"]);
}

#[test]
fn a_turn_that_fails_leaves_nothing_behind() {
    let model = ScriptedProvider::new([
        Script::text("one two"),
        Script::text("half").fails(ErrorKind::Unavailable, "gone"),
        Script::text("three"),
    ]);
    let mut session = Session::new();
    block_on(session.ask(&model, user("a"))).unwrap();
    let error = block_on(session.ask(&model, user("b"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(session.turns().len(), 1);
    // A caller that saw the text can keep it.
    session.record(user("b"), "half").unwrap();
    block_on(session.ask(&model, user("c"))).unwrap();
    let asked = model.requests().pop().unwrap().messages;
    let texts: Vec<_> = asked.iter().map(Message::text).collect();
    assert_eq!(texts, ["a", "one two", "b", "half", "c"]);
    let error = block_on(session.ask(&model, Message::assistant("x"))).unwrap_err();
    assert!(error.to_string().contains("found one of role assistant"), "{error}");
}

#[test]
fn the_oldest_turns_are_left_out_and_the_system_prompt_is_not() {
    let model = Words::new("small", 400, "a long answer of exactly eight words here");
    let mut session = Session::new();
    session.system = Some("be brief".to_owned());
    session.params.max_tokens = Some(50);
    let question = |i: usize| format!("{i} {}", "word ".repeat(30).trim());
    for i in 0..40 {
        block_on(session.ask(&model, user(&question(i)))).unwrap();
        let asked = model.last();
        assert_eq!(asked[0], "be brief");
        assert_eq!(*asked.last().unwrap(), question(i));
        // Whole turns, and no gap: the last ones in their order.
        let turns = (asked.len() - 2) / 2;
        let questions: Vec<_> = asked[1..].iter().step_by(2).cloned().collect();
        let expected: Vec<_> = (i - turns..=i).map(question).collect();
        assert_eq!(questions, expected);
    }
    // Every question was sent once: what was thought of sizes was good enough.
    assert_eq!(model.count(), 40);
    assert!(session.forgotten() > 20);
    // All of it is still known, and a larger model sees all of it.
    let large = Words::new("large", 10_000, "yes");
    block_on(session.ask(&large, user("all?"))).unwrap();
    assert_eq!((session.forgotten(), large.last().len()), (0, 1 + 80 + 1));
}

#[test]
fn an_estimate_that_was_wrong_costs_another_try() {
    // Words of one letter: many more tokens than four bytes each would make.
    let model = Words::new("small", 120, "yes");
    let mut session = Session::new();
    session.params.max_tokens = Some(1);
    for _ in 0..3 {
        session.record(user(&"a ".repeat(39)), "b").unwrap();
    }
    // Thrice forty words and one do not fit, which only the model knows.
    block_on(session.ask(&model, user("c"))).unwrap();
    assert_eq!((model.count(), model.last().len(), session.forgotten()), (2, 5, 1));
    // What is too long alone is an error of the caller.
    let error = block_on(session.ask(&model, user(&"a ".repeat(200)))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextOverflow);
    assert_eq!((session.turns().len(), session.forgotten()), (4, 1));
}

fn with_tools(scripts: impl IntoIterator<Item = Script>) -> ScriptedProvider {
    ScriptedProvider::new(scripts).with_capabilities([Capability::ToolUse])
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct City {
    /// Its name, in English.
    name: String,
    #[serde(default)]
    detailed: bool,
}

fn call(id: &str, tool: &str, arguments: serde_json::Value) -> ToolCall {
    ToolCall::new(id, tool, arguments)
}

#[test]
fn tools_run_side_by_side_and_their_results_go_back() {
    let calls = [
        call("1", "weather", json!({"name": "Oslo"})),
        call("2", "weather", json!({"name": "Rome", "detailed": true})),
        call("3", "weather", json!({"town": "Rome"})),
        call("4", "wether", json!({})),
        call("5", "breaks", json!({})),
        call("6", "later", json!({"name": "Bergen"})),
    ];
    let model = with_tools([
        Script::text("Let me see.").calls(calls.clone()),
        Script::text("Rome is warmer."),
    ]);
    let mut session = Session::new();
    session.tool_choice = ToolChoice::Required;
    // Each waits for the other: one after the other they would never end.
    let both = Arc::new(Barrier::new(2));
    session.tools.add("weather", "Tells the weather.", move |city: City| {
        both.wait();
        match city.name.as_str() {
            "Rome" => Ok(json!({"celsius": 30, "detailed": city.detailed})),
            other => Err(format!("no news of {other}")),
        }
    });
    session.tools.add("breaks", "Breaks.", |_: serde_json::Map<String, serde_json::Value>| {
        if true {
            std::panic::resume_unwind(Box::new("broken"));
        }
        Ok::<_, String>(())
    });
    session.tools.add_async("later", "Says it later.", async |city: City| {
        Ok::<_, String>(format!("rain in {}", city.name))
    });
    let answer = block_on(session.ask(&model, user("Where is it warm?"))).unwrap();
    assert_eq!(answer.text, "Rome is warmer.");
    let [first, second] = &model.requests()[..] else { panic!("asked twice") };
    assert_eq!(
        (&first.tool_choice, &second.tool_choice),
        (&ToolChoice::Required, &ToolChoice::Auto)
    );
    let weather = first.tools.iter().find(|tool| tool.name == "weather").unwrap();
    assert_eq!(weather.parameters["properties"]["name"]["description"], "Its name, in English.");
    assert_eq!(weather.parameters["required"], json!(["name"]));
    let results: Vec<_> = second.messages[2].tool_results().cloned().collect();
    assert_eq!(results[0], ToolResult::error("1", "no news of Oslo"));
    assert_eq!(results[1], ToolResult::new("2", r#"{"celsius":30,"detailed":true}"#));
    assert!(results[2].is_error && results[2].content.contains("missing field `name`"));
    assert_eq!(
        results[3].content,
        "there is no tool `wether`; there is `breaks`, `later`, `weather`"
    );
    assert_eq!(results[4], ToolResult::error("5", "the tool panicked"));
    assert_eq!(results[5], ToolResult::new("6", "rain in Bergen"));
    let roles: Vec<_> = session.turns()[0].messages.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
}

#[test]
fn rounds_have_an_end() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let model = with_tools([Script::default().calls([call("1", "again", json!({}))])]);
    let mut session = Session::new();
    session.max_tool_rounds = 3;
    session.tools.add("again", "Does it again.", move |_: serde_json::Value| {
        Ok::<_, String>(counted.fetch_add(1, Ordering::SeqCst))
    });
    let error = block_on(session.ask(&model, user("go"))).unwrap_err();
    assert!(error.to_string().contains("still calls tools after 3 rounds"), "{error}");
    assert_eq!(runs.load(Ordering::SeqCst), 4);
    assert_eq!(model.requests().last().unwrap().tool_choice, ToolChoice::None);
    assert_eq!(session.turns().len(), 0);
}

#[test]
fn a_turn_with_tools_is_left_out_whole() {
    let model = Words::new("m", 1000, "yes").calls(call("1", "long", json!({})));
    let mut session = Session::new();
    session.params.max_tokens = Some(100);
    session.tools.add("long", "Returns a long text.", |_: serde_json::Value| {
        Ok::<_, String>("word ".repeat(900))
    });
    block_on(session.ask(&model, user("go"))).unwrap();
    assert_eq!(session.turns()[0].tokens, Some(902));
    block_on(session.ask(&model, user("go on"))).unwrap();
    // A result that has no room any more takes its call and the question with it.
    assert_eq!((session.forgotten(), model.last().len()), (1, 1));
    assert_eq!(model.count(), 3);
}

#[test]
fn another_model_can_go_on() {
    let png = || Image::encoded(b"\x89PNG\r\n\x1a\n".to_vec());
    let sees =
        with_tools([Script::default().calls([call("1", "f", json!({}))]), Script::text("A cat.")]);
    let mut session = Session::new();
    session.tools.add("f", "Does.", |_: serde_json::Value| Ok::<_, String>("done"));
    let question = Message::user([png().into(), "What is it?".into()]);
    block_on(session.ask(&sees, question)).unwrap();
    session.tools.remove("f");
    // This one can neither see nor call.
    let blind = Words::new("blind", 100, "yes");
    block_on(session.ask(&blind, user("Is it nice?"))).unwrap();
    assert_eq!(blind.last(), ["[an image]What is it?", "A cat.", "Is it nice?"]);
    // A new image is refused: to leave it out would be to answer another question.
    let error = block_on(session.ask(&blind, Message::user([png().into()]))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // The first sees the picture again.
    block_on(session.ask(&sees, user("Sure?"))).unwrap();
    let asked = sees.requests().pop().unwrap().messages;
    assert_eq!(asked.iter().flat_map(Message::images).collect::<Vec<_>>(), [&png()]);
    assert_eq!(asked.len(), 7);
}

#[test]
fn a_saved_conversation_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("a.png");
    fs::write(&picture, b"\x89PNG\r\n\x1a\n").unwrap();
    let model = with_tools([
        Script::text("hm").calls([call("1", "f", json!({"a": [1, 2]}))]),
        Script::text("done"),
    ]);
    let mut session = Session::new();
    session.system = Some("be brief".to_owned());
    session.params.temperature = Some(0.3);
    session.tools.add("f", "Does.", |_: serde_json::Value| Ok::<_, String>("r"));
    let question = Message::user([Part::image_file(&picture), "What is it?".into()]);
    block_on(session.ask(&model, question)).unwrap();
    let file = dir.path().join("s.json");
    session.save(&file).unwrap();
    // The picture is in the file.
    fs::remove_file(&picture).unwrap();
    let loaded = Session::load(&file).unwrap();
    assert_eq!(loaded.turns(), session.turns());
    assert_eq!((&loaded.system, &loaded.params), (&session.system, &session.params));
    assert_eq!(loaded.turns()[0].messages[0].images().count(), 1);
    let names: Vec<_> = dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["s.json"], "nothing else is left");
    // A file that cannot be written leaves the old one alone.
    let written = fs::read(&file).unwrap();
    assert_eq!(session.save(dir.path().join("no/s.json")).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(fs::read(&file).unwrap(), written);
}

#[test]
fn what_a_program_that_was_killed_left_is_removed_some_time_later() {
    let dir = tempfile::tempdir().unwrap();
    let left = [".s.json1.partial", ".s.json2.partial", ".other.json.partial", "s.json.partial"];
    let left = left.map(|name| dir.path().join(name));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for path in &left {
        fs::write(path, "half a conversation").unwrap();
        if path != &left[1] {
            fs::File::options().append(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
    }
    Session::new().save(dir.path().join("s.json")).unwrap();
    // The second may be of a program that saves just now, and the others are not ours.
    assert_eq!(left.map(|path| path.exists()), [false, true, true, true]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn what_is_no_conversation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.json");
    let turns = |turns: serde_json::Value| {
        json!({"format": "llm-session", "version": 1, "turns": turns}).to_string()
    };
    let says = |role: &str| json!({"role": role, "parts": [{"text": "x"}]});
    for (text, expected) in [
        ("{".to_owned(), "found no JSON"),
        ("[]".to_owned(), "expected a saved conversation"),
        (json!({"format": "llm-session"}).to_string(), "expected \"version\": 1"),
        (json!({"format": "llm-session", "version": 2}).to_string(), "of a newer program"),
        (json!({"format": "llm-session", "version": 1}).to_string(), "missing field `turns`"),
        (turns(json!([{"messages": []}])), "turn 0: it is empty"),
        (turns(json!([{"messages": [says("assistant")]}])), "turn 0: it begins without a question"),
        (turns(json!([{"messages": [says("user")]}])), "turn 0: it ends without an answer"),
        (turns(json!([{"messages": [{"role": "user", "parts": [{"x": 1}]}]}])), "unknown variant"),
    ] {
        fs::write(&path, &text).unwrap();
        let error = Session::load(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.chain().contains(expected), "{text}: {}", error.chain());
    }
    let error = Session::load(dir.path().join("none.json")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn dropping_a_question_changes_nothing() {
    let model = Words::new("m", 100, "yes");
    let mut session = Session::new();
    drop(session.ask(&model, user("a")));
    assert_eq!((session.turns().len(), model.count()), (0, 0));
    block_on(session.ask(&model, user("b"))).unwrap();
    assert_eq!(model.last(), ["b"]);
    // Whoever asks may do so on any thread.
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    drop(is_send(session.ask(&model, user("c"))));
}

#[test]
fn answers_can_be_values() {
    #[derive(Debug, PartialEq, serde::Deserialize, schemars::JsonSchema)]
    struct Scene {
        shapes: Vec<String>,
    }
    let OutputFormat::JsonSchema { name, schema } = output_of::<Scene>() else { panic!() };
    assert_eq!((name.as_str(), &schema["type"]), ("Scene", &json!("object")));
    assert!(output_of::<Vec<Option<Scene>>>().validate().is_ok());
    let model = ScriptedProvider::new([Script::text(r#"{"shapes": ["star"]}"#), Script::text("{")])
        .with_capabilities([Capability::StructuredOutput]);
    let mut session = Session::new();
    session.output = output_of::<Scene>();
    let answer = block_on(session.ask(&model, user("Which?"))).unwrap();
    assert_eq!(parse::<Scene>(&answer).unwrap(), Scene { shapes: vec!["star".to_owned()] });
    let answer = block_on(session.ask(&model, user("Which?"))).unwrap();
    assert!(parse::<Scene>(&answer).unwrap_err().chain().contains("EOF while parsing"));
}
