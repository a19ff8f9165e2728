//! A provider of one's own: it says the words of the prompt backwards.

use abstractllm::{
    Capabilities, Capability, Completion, Config, ConfigReader, Event, EventStream, FinishReason,
    GenerateParams, Message, ModelInfo, Provider, Request, Result, StopMatcher, Usage, async_trait,
    register_provider,
};

/// Makes `create_llm("backwards", ...)` work; its settings are those of `GenerateParams`.
pub fn register() -> Result<()> {
    register_provider("backwards", |config: Config| {
        let mut reader = ConfigReader::new(config);
        let defaults = reader.params()?;
        reader.finish()?;
        Ok(Box::new(Backwards::new(defaults)))
    })
}

#[derive(Debug)]
pub struct Backwards {
    info: ModelInfo,
    defaults: GenerateParams,
}

impl Backwards {
    pub fn new(defaults: GenerateParams) -> Self {
        let capabilities = [Capability::Streaming, Capability::MaxTokens, Capability::Seed];
        let info =
            ModelInfo::new("backwards", "backwards-1", Capabilities::from_iter(capabilities));
        Self { info, defaults }
    }
}

#[async_trait]
impl Provider for Backwards {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, mut request: Request) -> Result<EventStream> {
        request.params = request.params.or(&self.defaults);
        request.validate(&self.info)?;
        let prompt = request.messages.last().map(Message::text).unwrap_or_default();
        let words: Vec<&str> = prompt.split_whitespace().rev().collect();
        let most = request.params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize;
        let mut stop = StopMatcher::new(request.params.stop);
        let (mut events, mut made, mut stopped) = (Vec::new(), 0, false);
        for word in words.iter().take(most) {
            let matched = stop.push(&format!("{word} "));
            made += 1;
            events.push(matched.text);
            stopped = matched.stopped;
            if stopped {
                break;
            }
        }
        events.push(stop.finish());
        let cut = made < words.len() && !stopped;
        let reason = if cut { FinishReason::Length } else { FinishReason::Stop };
        let end = Event::End(Completion::new(reason, Usage::new(words.len(), made)));
        let texts = events.into_iter().filter(|text| !text.is_empty()).map(Event::Text);
        Ok(EventStream::from_iter(texts.chain([end]).map(Ok)))
    }
}
