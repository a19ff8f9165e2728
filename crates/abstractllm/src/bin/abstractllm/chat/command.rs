//! Lines that begin with `/`.

use abstractllm::{Error, ErrorKind, Result};

/// What a line asks of the program instead of the model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Image(String),
    /// Shows the system prompt, or sets it.
    System(Option<String>),
    Save(String),
    Load(String),
    Undo,
    Clear,
    Model(String),
    Exit,
}

pub(super) const HELP: &str = "\
/image PATH    an image goes with the next message; may be repeated
/system TEXT   what the model is told before everything else; without TEXT it is shown
/save FILE     writes the conversation, with its images
/load FILE     goes on with a conversation that was saved
/model NAME    goes on with another model
/undo          takes back the last turn
/clear         forgets everything that was said
/help          shows this
/exit          ends, as Ctrl-D does
//TEXT         a message that begins with /
";

/// The names, for completion.
pub(super) const NAMES: &[&str] =
    &["/clear", "/exit", "/help", "/image ", "/load ", "/model ", "/save ", "/system ", "/undo"];

/// Returns the command that `line` is, if it is one.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] if there is no such command, or something is missing.
pub(super) fn parse(line: &str) -> Result<Option<Command>> {
    let Some(rest) = line.trim().strip_prefix('/') else { return Ok(None) };
    if rest.starts_with('/') {
        return Ok(None);
    }
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let needed = |what: &str| match argument.is_empty() {
        true => Err(invalid(format!("/{name} needs a {what}; /help lists the commands"))),
        false => Ok(unquoted(argument)),
    };
    Ok(Some(match name {
        "help" => Command::Help,
        "image" => Command::Image(needed("path")?),
        "system" => Command::System((!argument.is_empty()).then(|| argument.to_owned())),
        "save" => Command::Save(needed("file")?),
        "load" => Command::Load(needed("file")?),
        "model" => Command::Model(needed("name")?),
        "undo" => Command::Undo,
        "clear" => Command::Clear,
        "exit" | "quit" => Command::Exit,
        _ => return Err(invalid(format!("there is no command /{name}; /help lists them"))),
    }))
}

/// Terminals put quotes around a file that is dropped on them.
fn unquoted(text: &str) -> String {
    let inside = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"')).unwrap_or(text).to_owned()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        let parse = |line| parse(line).unwrap();
        assert_eq!(parse("What is 1/2?"), None);
        assert_eq!(parse("//etc is a folder"), None);
        assert_eq!(parse(" /image  a b.png "), Some(Command::Image("a b.png".to_owned())));
        assert_eq!(parse("/image 'a b.png'"), Some(Command::Image("a b.png".to_owned())));
        assert_eq!(parse("/system"), Some(Command::System(None)));
        assert_eq!(parse("/system Be brief."), Some(Command::System(Some("Be brief.".into()))));
        assert_eq!(parse("/quit"), Some(Command::Exit));
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for (line, says) in [("/imgae a.png", "no command /imgae"), ("/save", "/save needs a file")]
        {
            assert!(parse(line).unwrap_err().to_string().contains(says), "{line}");
        }
        let named = NAMES.iter().all(|name| HELP.contains(name.trim()));
        assert!(named, "a command is missing from the help");
    }
}
