//! A conversation, and how it goes on.

use llm_core::{
    Error, ErrorKind, Event, GenerateParams, Message, ModelInfo, OutputFormat, Provider, Request,
    Response, Result, Role, ToolChoice,
};
use serde::{Deserialize, Serialize};

use crate::{adapt::adapt, images, tools::Toolbox, window::Window};

/// A conversation with one or, in turn, several models.
#[derive(Clone, Debug)]
pub struct Session {
    /// What the model is told before everything else; never left out.
    pub system: Option<String>,
    /// How answers are wanted; [`GenerateParams::system`] is not used.
    pub params: GenerateParams,
    /// The tools that the model may call.
    pub tools: Toolbox,
    /// Which of them it may or must call first; once it has called, it decides.
    pub tool_choice: ToolChoice,
    /// The form of answers.
    pub output: OutputFormat,
    /// How often in a turn tools are run, at most. Then the model must answer without. Default 8.
    pub max_tool_rounds: usize,
    turns: Vec<Turn>,
    window: Window,
}

/// What a person said, and everything up to the end of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// The question first; then calls with their results, if any, and the answer.
    pub messages: Vec<Message>,
    /// How many tokens the turn is long, where the provider said so. The first turn's number
    /// includes the system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Returns a conversation in which nothing was said.
    #[must_use]
    pub fn new() -> Self {
        Self {
            system: None,
            params: GenerateParams::default(),
            tools: Toolbox::default(),
            tool_choice: ToolChoice::default(),
            output: OutputFormat::default(),
            max_tool_rounds: 8,
            turns: Vec::new(),
            window: Window::default(),
        }
    }

    /// Returns all turns, the oldest first; also those that the model no longer sees.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Returns how many of the oldest turns were left out of the last question.
    #[must_use]
    pub fn forgotten(&self) -> usize {
        self.window.start()
    }

    /// Forgets everything that was said.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.window = Window::default();
    }

    /// Takes back the last turn and returns it.
    pub fn undo(&mut self) -> Option<Turn> {
        let turn = self.turns.pop();
        self.window.fit(self.turns.len());
        turn
    }

    /// Adds a turn as if it had been spoken: the question, and an answer that was cut short, say.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if `question` is not of the user; [`ErrorKind::Image`] if an
    /// image cannot be read.
    pub fn record(&mut self, question: Message, answer: impl Into<String>) -> Result<()> {
        let question = checked(question)?;
        self.push(vec![question, Message::assistant(answer)], None);
        Ok(())
    }

    pub(crate) fn push(&mut self, messages: Vec<Message>, tokens: Option<usize>) {
        self.turns.push(Turn { messages, tokens });
    }

    /// Asks `provider` and waits for the answer; tools that it calls are run, and it is asked again.
    ///
    /// If this fails or is dropped, the session is as it was before. Images given as files are read
    /// now, so that later turns see the same picture.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if `question` is not of the user; [`ErrorKind::ContextOverflow`]
    /// if it alone is too long for the model; otherwise as [`Provider::generate`].
    pub async fn ask(&mut self, provider: &dyn Provider, question: Message) -> Result<Response> {
        self.ask_with(provider, question, |_| {}).await
    }

    /// As [`ask`](Self::ask), and hands every event to `on_event` as it comes, those of answers that
    /// call tools included.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn ask_with(
        &mut self,
        provider: &dyn Provider,
        question: Message,
        mut on_event: impl FnMut(&Event) + Send,
    ) -> Result<Response> {
        let mut new = vec![checked(question)?];
        let tools = self.tools.definitions();
        let mut choice = self.tool_choice.clone();
        let mut window = self.window.clone();
        for round in 0..=self.max_tool_rounds {
            if round == self.max_tool_rounds && !tools.is_empty() {
                choice = ToolChoice::None;
            }
            let response = self.answer(provider, &new, &choice, &mut window, &mut on_event).await?;
            new.push(response.to_message());
            if response.tool_calls.is_empty() {
                let usage = response.completion.usage;
                let whole = usage.prompt_tokens + usage.completion_tokens;
                let before = window.tokens(&self.turns);
                self.window = window;
                self.push(new, whole.checked_sub(before).filter(|&tokens| tokens > 0));
                return Ok(response);
            }
            let results = self.tools.run(&response.tool_calls).await;
            new.push(Message::tool(results));
            choice = ToolChoice::Auto;
        }
        let rounds = self.max_tool_rounds;
        let message = format!("the model still calls tools after {rounds} rounds");
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Gets one answer, with as many old turns as there is room for.
    async fn answer(
        &self,
        provider: &dyn Provider,
        new: &[Message],
        choice: &ToolChoice,
        window: &mut Window,
        on_event: &mut (impl FnMut(&Event) + Send),
    ) -> Result<Response> {
        let info = provider.info();
        window.make_room(&self.turns, new, info, &self.params);
        loop {
            let request = self.request(new, choice, window.start(), info);
            let overflow = match one(provider, request, on_event).await {
                Err(error) if error.kind() == ErrorKind::ContextOverflow => error,
                other => return other,
            };
            // The provider counts exactly; what is thought of the size here is an estimate.
            if !window.drop_oldest(self.turns.len()) {
                return Err(overflow);
            }
        }
    }

    /// Returns the request of `new` after the old turns from `first` on.
    fn request(
        &self,
        new: &[Message],
        choice: &ToolChoice,
        first: usize,
        info: &ModelInfo,
    ) -> Request {
        let system = self.system.clone().map(Message::system);
        let old = self.turns[first..].iter().flat_map(|turn| &turn.messages);
        let old = adapt(old, new, info);
        Request {
            messages: system.into_iter().chain(old).chain(new.iter().cloned()).collect(),
            params: GenerateParams { system: None, ..self.params.clone() },
            tools: self.tools.definitions(),
            tool_choice: choice.clone(),
            output: self.output.clone(),
        }
    }
}

async fn one(
    provider: &dyn Provider,
    request: Request,
    on_event: &mut (impl FnMut(&Event) + Send),
) -> Result<Response> {
    let mut stream = provider.generate_stream(request).await?;
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await {
        let event = event?;
        on_event(&event);
        seen.push(Ok(event));
    }
    // Puts the pieces together as the core does.
    seen.into_iter().collect::<llm_core::EventStream>().collect().await
}

/// Returns `question` with its images read, if it is one.
fn checked(question: Message) -> Result<Message> {
    if question.role != Role::User {
        let role = question.role.as_str();
        let message = format!("expected a message of the user, found one of role {role}");
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    images::read(question)
}
