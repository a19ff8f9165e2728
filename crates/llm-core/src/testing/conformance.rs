//! What every provider must keep to, checked by asking it.

use std::{sync::Arc, thread};

use futures_executor::block_on;

use serde_json::{Value, json};

use crate::{
    Capability, ErrorKind, Event, FinishReason, GenerateParams, Image, Message, OutputFormat,
    Provider, Request, Response, Tool, ToolChoice, ToolResult,
};

/// What the suite asks.
#[derive(Clone, Debug)]
pub struct Conformance {
    /// A prompt whose greedy answer has at least two words.
    pub prompt: String,
    /// An image for providers with [`Capability::Vision`].
    pub image: Image,
}

/// Runs every check against the provider.
///
/// Answers are asked for greedily, so a provider must answer the same prompt the same way.
///
/// # Panics
/// If a check fails; the message says which promise was broken.
pub fn check(provider: Arc<dyn Provider>, with: &Conformance) {
    let suite = Suite { provider, with };
    let plain = suite.answer(suite.request());
    suite.describes_itself();
    suite.answers(&plain);
    suite.streams_what_it_answers(&plain);
    suite.honours_max_tokens();
    suite.honours_stop(&plain);
    suite.refuses_bad_requests();
    suite.survives_cancellation(&plain);
    suite.answers_two_at_once(&plain);
    suite.repeats_a_seed();
    suite.reads_images();
    suite.holds_to_json();
    suite.calls_tools();
}

struct Suite<'a> {
    provider: Arc<dyn Provider>,
    with: &'a Conformance,
}

impl Suite<'_> {
    fn request(&self) -> Request {
        Request::text(&self.with.prompt).with_params(GenerateParams {
            temperature: Some(0.0),
            max_tokens: Some(64),
            ..Default::default()
        })
    }

    fn has(&self, capability: Capability) -> bool {
        self.provider.info().capabilities.has(capability)
    }

    fn answer(&self, request: Request) -> Response {
        block_on(self.provider.generate(request)).expect("a valid request must be answered")
    }

    fn refuses(&self, what: &str, request: Request, kinds: &[ErrorKind]) {
        match block_on(self.provider.generate(request)) {
            Ok(response) => panic!("{what} must be refused, but was answered: {response:?}"),
            Err(e) => assert!(kinds.contains(&e.kind()), "{what}: expected {kinds:?}, found {e:?}"),
        }
    }

    fn describes_itself(&self) {
        let info = self.provider.info();
        assert!(!info.provider.is_empty(), "the provider must have a name");
        assert!(!info.model.is_empty(), "the model must have a name");
        assert_ne!(info.context_tokens, Some(0), "a context of no tokens cannot be used");
    }

    fn answers(&self, plain: &Response) {
        let words = plain.text.split_whitespace().count();
        assert!(words >= 2, "the prompt must lead to two words or more, found {:?}", plain.text);
        assert!(plain.completion.usage.prompt_tokens > 0, "prompt tokens must be counted");
        assert!(plain.completion.usage.completion_tokens > 0, "new tokens must be counted");
    }

    fn streams_what_it_answers(&self, plain: &Response) {
        let mut stream = block_on(self.provider.generate_stream(self.request())).unwrap();
        let (mut text, mut ends) = (String::new(), 0);
        while let Some(event) = block_on(stream.next()) {
            match event.expect("the stream must not fail where the whole answer does not") {
                Event::Text(piece) => {
                    assert!(!piece.is_empty(), "a text event must not be empty");
                    assert_eq!(ends, 0, "no text may follow the end");
                    text.push_str(&piece);
                }
                Event::End(completion) => {
                    ends += 1;
                    assert_eq!(completion.reason, plain.completion.reason);
                    assert_eq!(
                        completion.usage.completion_tokens,
                        plain.completion.usage.completion_tokens
                    );
                }
                Event::Notice(_) => {}
                Event::ToolCall(call) => panic!("a call, but there are no tools: {call:?}"),
                Event::Progress(p) => {
                    assert!(p.done <= p.total, "progress beyond its total: {p:?}")
                }
            }
        }
        assert_eq!(ends, 1, "a stream must end with exactly one end event");
        assert_eq!(text, plain.text, "the stream and the whole answer must be the same text");
    }

    fn honours_max_tokens(&self) {
        let mut request = self.request();
        request.params.max_tokens = Some(1);
        let completion = self.answer(request).completion;
        assert_eq!(completion.usage.completion_tokens, 1, "max_tokens = 1 must give one token");
        assert_eq!(completion.reason, FinishReason::Length);
    }

    fn honours_stop(&self, plain: &Response) {
        // The stop text spans a word break, which most tokenisers put into two tokens.
        let space = plain.text.trim_end().rfind(' ').expect("two words or more");
        let from = plain.text[..space].char_indices().next_back().map_or(0, |(i, _)| i);
        let to =
            plain.text[space + 1..].chars().next().map_or(space + 1, |c| space + 1 + c.len_utf8());
        let stop = &plain.text[from..to];
        let mut request = self.request();
        request.params.stop = vec![stop.to_owned()];
        let stopped = self.answer(request);
        let expected = &plain.text[..plain.text.find(stop).expect("taken from the text")];
        assert_eq!(
            stopped.text, expected,
            "the answer must end just before the stop text {stop:?}"
        );
        assert_eq!(stopped.completion.reason, FinishReason::Stop);
    }

    fn refuses_bad_requests(&self) {
        self.refuses("an empty request", Request::default(), &[ErrorKind::InvalidRequest]);
        let mut request = self.request();
        request.params.temperature = Some(-1.0);
        self.refuses("a negative temperature", request, &[ErrorKind::InvalidRequest]);
        let mut request = self.request();
        request.params.system = Some("a".into());
        request.messages.insert(0, Message::system("b"));
        self.refuses("two system prompts", request, &[ErrorKind::InvalidRequest]);
        let mut request = self.request();
        request.messages.push(Message::tool([ToolResult::new("1", "x")]));
        self.refuses("a result of no call", request, &[ErrorKind::InvalidRequest]);
    }

    fn survives_cancellation(&self, plain: &Response) {
        for read in [0, 1] {
            let mut stream = block_on(self.provider.generate_stream(self.request())).unwrap();
            for _ in 0..read {
                block_on(stream.next()).expect("an event").expect("no error");
            }
            drop(stream);
            let again = self.answer(self.request());
            assert_eq!(again.text, plain.text, "an answer after a cancelled one must be unchanged");
        }
    }

    fn answers_two_at_once(&self, plain: &Response) {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (provider, request) = (self.provider.clone(), self.request());
                thread::spawn(move || block_on(provider.generate(request)))
            })
            .collect();
        for thread in threads {
            let answer = thread.join().expect("no panic").expect("both must be answered");
            assert_eq!(answer.text, plain.text, "answers at the same time must not mix");
        }
    }

    fn repeats_a_seed(&self) {
        if !self.has(Capability::Seed) {
            return;
        }
        let seeded = || {
            let mut request = self.request();
            request.params.temperature = Some(1.5);
            request.params.seed = Some(7);
            self.answer(request).text
        };
        assert_eq!(seeded(), seeded(), "the same seed must give the same answer");
    }

    fn reads_images(&self) {
        let with_image = |image: Image| {
            let mut request = self.request();
            request.messages = Request::images([image], &self.with.prompt).messages;
            request
        };
        if !self.has(Capability::Vision) {
            let request = with_image(self.with.image.clone());
            return self.refuses("an image", request, &[ErrorKind::Unsupported]);
        }
        self.answer(with_image(self.with.image.clone()));
        let broken = with_image(Image::encoded(b"not an image".to_vec()));
        self.refuses("a broken image", broken, &[ErrorKind::Image]);
        let missing = with_image(Image::Path("no-such-folder/no-such-image.png".into()));
        self.refuses("a missing image", missing, &[ErrorKind::Image, ErrorKind::Io]);
    }

    fn holds_to_json(&self) {
        let schema = json!({
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": false,
        });
        for output in [OutputFormat::Json, OutputFormat::json_schema("answer", schema)] {
            let mut request = self.request().with_output(output.clone());
            request.messages = Request::text("Answer in JSON: is fire red or blue?").messages;
            if output.capability().is_some_and(|capability| !self.has(capability)) {
                self.refuses("a form of the answer", request, &[ErrorKind::Unsupported]);
                continue;
            }
            let answer = self.answer(request);
            if answer.completion.reason == FinishReason::Length && output == OutputFormat::Json {
                // Only a schema bounds how long a value may be.
                continue;
            }
            let value: Value = serde_json::from_str(&answer.text)
                .unwrap_or_else(|e| panic!("{output:?}: {e}: {:?}", answer.text));
            if let OutputFormat::JsonSchema { .. } = output {
                let allowed = [json!({"colour": "red"}), json!({"colour": "blue"})];
                assert!(allowed.contains(&value), "the schema does not allow {value}");
            }
        }
    }

    fn calls_tools(&self) {
        let schema = json!({
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": false,
        });
        let tool = Tool::new("get_weather", "Tells the weather in a city.", schema);
        let mut request = self.request().with_tools([tool]);
        request.messages = Request::text("How is the weather in Rome?").messages;
        request.tool_choice = ToolChoice::Named("get_weather".into());
        // Where each letter is a token, a call has more than a hundred.
        request.params.max_tokens = Some(256);
        if !self.has(Capability::ToolUse) {
            return self.refuses("tools", request, &[ErrorKind::Unsupported]);
        }
        let answer = self.answer(request.clone());
        assert!(!answer.tool_calls.is_empty(), "the tool must be called, found {answer:?}");
        assert_eq!(answer.completion.reason, FinishReason::ToolCalls);
        for call in &answer.tool_calls {
            assert_eq!(call.name, "get_weather");
            assert!(call.arguments.is_object(), "arguments must be an object: {call:?}");
        }
        let results = answer.tool_calls.iter().map(|call| ToolResult::new(&call.id, "sunny"));
        request.messages.extend([answer.to_message(), Message::tool(results)]);
        request.tool_choice = ToolChoice::None;
        let answer = self.answer(request);
        assert!(answer.tool_calls.is_empty(), "no tool may be called, found {answer:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, ScriptedProvider};

    #[test]
    fn the_scripted_provider_conforms() {
        let provider = ScriptedProvider::new([Script::text("a red circle on white")]);
        let with = Conformance {
            prompt: "Describe this image.".into(),
            image: Image::encoded(b"\x89PNG\r\n".to_vec()),
        };
        check(Arc::new(provider), &with);
    }

    #[test]
    #[should_panic(expected = "unchanged")]
    fn a_provider_that_changes_its_answer_does_not() {
        // Six answers agree, up to the first cancelled stream; those after the second one differ.
        let mut scripts = vec![Script::text("a b c"); 6];
        scripts.push(Script::text("something else"));
        let with = Conformance { prompt: "x".into(), image: Image::encoded(vec![1]) };
        check(Arc::new(ScriptedProvider::new(scripts)), &with);
    }
}
