//! One question to a model.

use crate::{
    Capability, Error, ErrorKind, GenerateParams, Image, Message, ModelInfo, Part, Result, Role,
};

/// A conversation and how its next turn is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The conversation so far; the last message is answered.
    pub messages: Vec<Message>,
    /// How the answer is wanted.
    pub params: GenerateParams,
}

impl Request {
    /// Returns a request with default parameters.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self { messages: messages.into_iter().collect(), params: GenerateParams::default() }
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
        let images = self.messages.iter().flat_map(Message::images).count();
        let needed = match images {
            0 => None,
            1 => Some(Capability::Vision),
            _ => Some(Capability::MultipleImages),
        };
        match needed {
            Some(c) if !info.capabilities.has(c) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} cannot take {images} image(s): it lacks {c:?}", info.model),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;

    fn info(capabilities: &[Capability]) -> ModelInfo {
        ModelInfo::new("test", "m", Capabilities::from_iter(capabilities.iter().copied()))
    }

    #[test]
    fn a_missing_capability_is_named() {
        let two = Request::images([Image::encoded(vec![1]), Image::encoded(vec![2])], "compare");
        let error = two.validate(&info(&[Capability::Vision])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "m cannot take 2 image(s): it lacks MultipleImages");
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
}
