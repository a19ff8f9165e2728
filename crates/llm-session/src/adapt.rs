//! Old turns for a model that cannot take all that is in them, since it is not the one they were
//! spoken with.

use llm_core::{Capability, Message, ModelInfo, Part, Role};

/// Says what was there, to a model that cannot see it.
const IMAGE: &str = "[an image]";
const VIDEO: &str = "[a video]";

/// Returns the `old` messages as the model of `info` can take them, beside the `new` ones.
///
/// Images become a word where the model has no eyes, and videos where it reads none; where it takes a single one, only the last
/// image of all is kept. Calls and their results are left out where the model knows no tools: the
/// answers that came of them stay.
pub(crate) fn adapt<'a>(
    old: impl Iterator<Item = &'a Message>,
    new: &[Message],
    info: &ModelInfo,
) -> Vec<Message> {
    let can = |capability| info.capabilities.has(capability);
    let mut messages: Vec<Message> = old.cloned().collect();
    if !can(Capability::ToolUse) {
        messages.retain(|m| m.role != Role::Tool && m.tool_calls().next().is_none());
    }
    if !can(Capability::Video) {
        for part in messages.iter_mut().flat_map(|message| &mut message.parts) {
            if let Part::Video(_) = part {
                *part = VIDEO.into();
            }
        }
    }
    let mut left = match (can(Capability::Vision), can(Capability::MultipleImages)) {
        (_, true) => return messages,
        (true, false) => 1_usize.saturating_sub(new.iter().flat_map(Message::images).count()),
        (false, false) => 0,
    };
    for part in messages.iter_mut().rev().flat_map(|message| message.parts.iter_mut().rev()) {
        if let Part::Image(_) = part {
            match left {
                0 => *part = IMAGE.into(),
                _ => left -= 1,
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use llm_core::{Capabilities, Image, ToolCall, ToolResult};
    use serde_json::json;

    use super::*;

    fn image(byte: u8) -> Part {
        Image::encoded(vec![byte]).into()
    }

    fn adapted(capabilities: &[Capability], new: &[Message]) -> Vec<Message> {
        let old = [
            Message::user([image(1), image(2), "a".into()]),
            Message::new(Role::Assistant, [ToolCall::new("1", "f", json!({})).into()]),
            Message::tool([ToolResult::new("1", "x")]),
            Message::assistant("b"),
        ];
        let info = ModelInfo::new("p", "m", Capabilities::from_iter(capabilities.iter().copied()));
        adapt(old.iter(), new, &info)
    }

    #[test]
    fn a_model_sees_what_it_can_take() {
        use Capability::{MultipleImages, ToolUse, Vision};
        assert_eq!(adapted(&[Vision, MultipleImages, ToolUse], &[]).len(), 4);
        let blind = adapted(&[], &[]);
        let question = Message::user([IMAGE.into(), IMAGE.into(), "a".into()]);
        assert_eq!(blind, [question, Message::assistant("b")]);
        let one = adapted(&[Vision], &[]);
        assert_eq!(one[0].parts, [IMAGE.into(), image(2), "a".into()]);
        let video = [Message::user([llm_core::Video::path("a.gif").into(), "a".into()])];
        let seen = |capabilities: &[Capability]| {
            let can = Capabilities::from_iter(capabilities.iter().copied());
            adapt(video.iter(), &[], &ModelInfo::new("p", "m", can)).remove(0).parts
        };
        assert_eq!(seen(&[Vision, MultipleImages]), [VIDEO.into(), "a".into()]);
        assert_eq!(seen(&[Vision, MultipleImages, Capability::Video]), video[0].parts);
        let none_left = adapted(&[Vision], &[Message::user([image(3)])]);
        assert_eq!(none_left[0].parts, [IMAGE.into(), IMAGE.into(), "a".into()]);
    }
}
