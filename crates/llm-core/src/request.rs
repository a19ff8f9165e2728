//! One question to a model.

use serde::{Deserialize, Serialize};

use crate::{
    Capability, Error, ErrorKind, GenerateParams, Image, Message, ModelInfo, OutputFormat, Part,
    Result, Role, Tool, ToolChoice, Video, VideoSource, conversation,
};

/// A conversation and how its next turn is wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// The conversation so far; the last message is answered.
    pub messages: Vec<Message>,
    /// How the answer is wanted.
    pub params: GenerateParams,
    /// The tools that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it may or must call.
    pub tool_choice: ToolChoice,
    /// The form of the text.
    pub output: OutputFormat,
}

impl Request {
    /// Returns a request with default parameters.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect(), ..Self::default() }
    }

    /// Returns a request of one text message.
    pub fn text(prompt: impl Into<String>) -> Self {
        Self::new([Message::user([Part::Text(prompt.into())])])
    }

    /// Returns a request of one message: the images in order, then the text.
    pub fn images(images: impl IntoIterator<Item = Image>, prompt: impl Into<String>) -> Self {
        let images = images.into_iter().map(Part::Image);
        Self::new([Message::user(images.chain([Part::Text(prompt.into())]))])
    }

    /// Returns this request with `params`.
    #[must_use]
    pub fn with_params(mut self, params: GenerateParams) -> Self {
        self.params = params;
        self
    }

    /// Returns this request with tools that the model may call.
    #[must_use]
    pub fn with_tools(mut self, tools: impl IntoIterator<Item = Tool>) -> Self {
        self.tools = tools.into_iter().collect();
        self
    }

    /// Returns this request with the form that the text must have.
    #[must_use]
    pub fn with_output(mut self, output: OutputFormat) -> Self {
        self.output = output;
        self
    }

    /// Returns the messages with [`GenerateParams::system`] put in front as a system message.
    #[must_use]
    pub fn messages_with_system(&self) -> Vec<Message> {
        let system = self.params.system.iter().map(|text| Message::system(text.clone()));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Checks what any provider can check without its model: parameter ranges, that there is
    /// something to answer, one system prompt at most and first, and the capabilities of `info`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] or, for a missing capability, [`ErrorKind::Unsupported`].
    pub fn validate(&self, info: &ModelInfo) -> Result<()> {
        self.params.validate()?;
        let invalid = |what: &str| Err(Error::new(ErrorKind::InvalidRequest, what));
        let Some(last) = self.messages.last() else {
            return invalid("the request holds no message");
        };
        if last.role == Role::System {
            return invalid("the last message is a system message; there is nothing to answer");
        }
        if let Some(i) = self.messages.iter().position(|m| m.parts.is_empty()) {
            return invalid(&format!("message {i} has no parts"));
        }
        let mut systems = self.messages.iter().enumerate().filter(|(_, m)| m.role == Role::System);
        if let Some((index, _)) = systems.next() {
            if self.params.system.is_some() {
                return invalid("both params.system and a system message are given; use one");
            }
            if index != 0 || systems.next().is_some() {
                return invalid("a system message must be the first message, and the only one");
            }
        }
        conversation::check(&self.messages)?;
        self.check_tools()?;
        self.output.validate()?;
        self.messages.iter().flat_map(Message::videos).try_for_each(Video::validate)?;
        match self.needs().into_iter().find(|(capability, _)| !info.capabilities.has(*capability)) {
            Some((capability, what)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} cannot take {what}: it lacks {capability}", info.model),
            )),
            None => Ok(()),
        }
    }

    fn check_tools(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::InvalidRequest, what));
        for (i, tool) in self.tools.iter().enumerate() {
            tool.validate()?;
            if self.tools[..i].iter().any(|other| other.name == tool.name) {
                return invalid(format!("two tools have the name `{}`", tool.name));
            }
        }
        match &self.tool_choice {
            ToolChoice::Required if self.tools.is_empty() => {
                invalid("tool_choice is required, and there are no tools".to_owned())
            }
            ToolChoice::Named(name) if !self.tools.iter().any(|tool| tool.name == *name) => {
                invalid(format!("tool_choice names `{name}`, which is none of the tools"))
            }
            _ => Ok(()),
        }
    }

    /// Returns what the model must be able to do, and because of what.
    fn needs(&self) -> Vec<(Capability, String)> {
        let images = || self.messages.iter().flat_map(Message::images);
        let videos = || self.messages.iter().flat_map(Message::videos);
        let count = images().count();
        let uses_tools = !self.tools.is_empty()
            || self.messages.iter().any(|m| m.role == Role::Tool || m.tool_calls().count() > 0);
        let needs = [
            (count > 0, Capability::Vision, format!("{count} image(s)")),
            (count > 1, Capability::MultipleImages, format!("{count} image(s)")),
            (
                images().any(|image| matches!(image, Image::Url(_))),
                Capability::ImageUrls,
                "the address of an image, only its bytes or its path".to_owned(),
            ),
            (videos().count() > 0, Capability::Video, format!("{} video(s)", videos().count())),
            (
                videos().any(|video| matches!(video.source, VideoSource::Url(_))),
                Capability::ImageUrls,
                "the address of a video, only its bytes or its path".to_owned(),
            ),
            (uses_tools, Capability::ToolUse, "tools".to_owned()),
            (!self.params.logit_bias.is_empty(), Capability::LogitBias, "logit_bias".to_owned()),
            (self.params.adapter.is_some(), Capability::Adapters, "adapter".to_owned()),
        ];
        let needs = needs.into_iter().filter(|need| need.0).map(|(_, c, what)| (c, what));
        let output = self.output.capability().map(|c| (c, "a form of the answer".to_owned()));
        needs.chain(output).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Capabilities, ToolCall, ToolResult};

    fn info(capabilities: &[Capability]) -> ModelInfo {
        ModelInfo::new("test", "m", Capabilities::from_iter(capabilities.iter().copied()))
    }

    #[test]
    fn a_missing_capability_is_named() {
        let two = Request::images([Image::encoded(vec![1]), Image::encoded(vec![2])], "compare");
        let error = two.validate(&info(&[Capability::Vision])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "m cannot take 2 image(s): it lacks multiple_images");
        assert!(two.validate(&info(&[Capability::Vision, Capability::MultipleImages])).is_ok());
    }

    #[test]
    fn shapes_that_cannot_be_answered_are_refused() {
        let user = || Message::user(["hi".into()]);
        let cases = [
            ("no message", vec![]),
            ("nothing to answer", vec![user(), Message::system("x")]),
            ("first message", vec![user(), Message::system("x"), user()]),
            ("first message", vec![Message::system("x"), Message::system("x"), user()]),
            ("no parts", vec![Message::user([])]),
        ];
        for (says, messages) in cases {
            let error = Request::new(messages).validate(&info(&[])).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let mut both = Request::new([Message::system("x"), user()]);
        both.params.system = Some("y".into());
        assert!(both.validate(&info(&[])).unwrap_err().to_string().contains("use one"));
    }

    #[test]
    fn tools_and_forms_need_a_model_that_has_them() {
        let tool = |name: &str| Tool::new(name, "", json!({"type": "object"}));
        let tools = Request::text("x").with_tools([tool("f")]);
        let schema = OutputFormat::json_schema("s", json!({}));
        let url = Image::url("https://example.org/a.png").unwrap();
        let calls = Message::new(Role::Assistant, [ToolCall::new("1", "f", json!({})).into()]);
        let history = Request::new([
            Message::user(["x".into()]),
            calls,
            Message::tool([ToolResult::new("1", "")]),
        ]);
        let video = Request::new([Message::user([Video::path("a.mp4").into(), "x".into()])]);
        let mut biased = Request::text("x");
        biased.params.logit_bias = [(1, 2.0)].into();
        let mut adapted = Request::text("hi");
        adapted.params.adapter = Some("tuned".to_owned());
        for (request, lacks) in [
            (tools.clone(), Capability::ToolUse),
            (history, Capability::ToolUse),
            (Request::text("x").with_output(OutputFormat::Json), Capability::JsonMode),
            (Request::text("x").with_output(schema), Capability::StructuredOutput),
            (Request::images([url], "x"), Capability::ImageUrls),
            (video, Capability::Video),
            (biased, Capability::LogitBias),
            (adapted, Capability::Adapters),
        ] {
            let error = request.validate(&info(&[Capability::Vision])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().ends_with(&format!("it lacks {lacks}")), "{error}");
            assert!(request.validate(&info(&[Capability::Vision, lacks])).is_ok());
        }
        let info = info(&[Capability::ToolUse]);
        let choose = |choice: &str, request: Request| Request {
            tool_choice: choice.parse().unwrap(),
            ..request
        };
        for (says, request) in [
            ("two tools have the name `f`", Request::text("x").with_tools([tool("f"), tool("f")])),
            ("there are no tools", choose("required", Request::text("x"))),
            ("names `g`, which is none", choose("g", tools)),
        ] {
            let error = request.validate(&info).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_request_is_the_same_after_json() {
        let request = Request::text("x")
            .with_tools([Tool::new("f", "does", json!({"type": "object"}))])
            .with_output(OutputFormat::json_schema("s", json!({"type": "string"})));
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }
}
