//! What must be true of calls and results in a conversation.

use crate::{Error, ErrorKind, Message, Part, Result, Role, ToolCall};

/// Checks that only the assistant calls, that only tools give results, and that each call has exactly
/// one result before anybody else speaks: services refuse anything else.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] that names the message and the call.
pub(crate) fn check(messages: &[Message]) -> Result<()> {
    let mut open: Vec<&str> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        check_parts(i, message)?;
        if message.role != Role::Tool
            && let Some(id) = open.first()
        {
            return invalid(format!("message {i}: expected the result of call `{id}` before it"));
        }
        for result in message.tool_results() {
            let id = result.call_id.as_str();
            let Some(at) = open.iter().position(|&call| call == id) else {
                return invalid(format!(
                    "message {i}: result for call `{id}`, which was not made or has its result"
                ));
            };
            open.remove(at);
        }
        for ToolCall { id, .. } in message.tool_calls() {
            if open.contains(&id.as_str()) {
                return invalid(format!("message {i}: two calls have the id `{id}`"));
            }
            open.push(id);
        }
    }
    match open.first() {
        Some(id) => invalid(format!("the result of call `{id}` is missing")),
        None => Ok(()),
    }
}

fn check_parts(i: usize, message: &Message) -> Result<()> {
    for part in &message.parts {
        let what = match (message.role, part) {
            (Role::Assistant, Part::ToolCall(_)) | (Role::Tool, Part::ToolResult(_)) => continue,
            (role, Part::ToolCall(_)) => format!("a call in a message of role {}", role.as_str()),
            (role, Part::ToolResult(_)) => {
                format!("a result in a message of role {}", role.as_str())
            }
            (Role::Tool, _) => "a message of role tool holds results only".to_owned(),
            _ => continue,
        };
        return invalid(format!("message {i}: {what}"));
    }
    Ok(())
}

fn invalid<T>(what: String) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidRequest, what))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ToolResult;

    fn calls(ids: &[&str]) -> Message {
        let call = |id: &&str| ToolCall::new(*id, "f", json!({})).into();
        Message::new(Role::Assistant, ids.iter().map(call))
    }

    fn results(ids: &[&str]) -> Message {
        Message::tool(ids.iter().map(|id| ToolResult::new(*id, "")))
    }

    #[test]
    fn each_call_has_one_result() {
        let user = || Message::user(["hi".into()]);
        let call: Part = ToolCall::new("1", "f", json!({})).into();
        let result: Part = ToolResult::new("1", "").into();
        assert!(check(&[user(), calls(&["1", "2"]), results(&["2"]), results(&["1"])]).is_ok());
        // Some servers number the calls of each answer from the start.
        assert!(check(&[calls(&["1"]), results(&["1"]), calls(&["1"]), results(&["1"])]).is_ok());
        for (says, messages) in [
            ("the result of call `2` is missing", vec![calls(&["1", "2"]), results(&["1"])]),
            ("message 1: expected the result of call `1`", vec![calls(&["1"]), user()]),
            ("message 1: result for call `2`", vec![calls(&["1"]), results(&["2"])]),
            ("message 1: result for call `1`", vec![calls(&["1"]), results(&["1", "1"])]),
            ("message 0: two calls have the id `1`", vec![calls(&["1", "1"])]),
            ("message 0: a call in a message of role user", vec![Message::user([call])]),
            ("message 0: a result in a message of role user", vec![Message::user([result])]),
            ("message 0: a message of role tool", vec![Message::new(Role::Tool, ["x".into()])]),
        ] {
            let error = check(&messages).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().starts_with(says), "{says}: {error}");
        }
    }
}
