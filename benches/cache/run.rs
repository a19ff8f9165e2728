//! Both sides in turns, a process each.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{Result, table};

/// What was asked for on the command line.
pub(crate) struct Options {
    peers: bool,
    python: Option<PathBuf>,
    rounds: usize,
    image: PathBuf,
    title: Option<String>,
}

/// One conversation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    /// Time to the first token of each turn, in seconds.
    pub(crate) first_s: [f64; 2],
    /// Tokens of each prompt, and how many of them were reused where that is said.
    pub(crate) prompt_tokens: [u64; 2],
    pub(crate) cached_tokens: [Option<u64>; 2],
    pub(crate) texts: [String; 2],
    /// Peak of resident memory.
    pub(crate) peak_bytes: u64,
}

/// One side and its conversations.
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) runs: Vec<Conversation>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut options = Self {
            peers: false,
            python: None,
            rounds: 3,
            image: root.join("models/tiny-vl/samples/scene.png"),
            title: None,
        };
        let mut rest = arguments.iter();
        while let Some(&argument) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
            match argument {
                "--peers" => options.peers = true,
                "--python" => options.python = Some(value()?.into()),
                "--rounds" => options.rounds = value()?.parse()?,
                "--image" => options.image = value()?.into(),
                "--write" => options.title = Some((*value()?).to_owned()),
                _ => return Err(format!("unknown option {argument}\n{}", crate::USAGE).into()),
            }
        }
        Ok(options)
    }
}

/// Measures and prints a table.
pub(crate) fn run(folder: &Path, options: &Options) -> Result<()> {
    let (folder, image) = (folder.canonicalize()?, options.image.canonicalize()?);
    let (folder, image) = (folder.to_string_lossy(), image.to_string_lossy());
    let ours = std::env::current_exe()?;
    let mut sides = vec![(ours, vec!["worker".to_owned()])];
    if options.peers {
        let python = match &options.python {
            Some(python) => python.clone(),
            None => benches::python::with_mlx_vlm()?,
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cache/peer.py");
        for mode in ["generate", "prompt-cache", "server"] {
            sides.push((python.clone(), vec![script.to_owned(), mode.to_owned()]));
        }
    }
    let mut measured: Vec<Side> = Vec::new();
    for round in 1..=options.rounds {
        for (i, (program, arguments)) in sides.iter().enumerate() {
            let (name, conversation) = converse(program, arguments, &[&folder, &image, "1"])?;
            eprintln!("round {round}: {name}: {:.3?} s", conversation.first_s);
            if round == 1 {
                measured.push(Side { name, runs: Vec::new() });
            }
            measured[i].runs.push(conversation);
        }
    }
    let expected = measured[0].runs[0].texts.clone();
    for side in &measured {
        for run in &side.runs {
            if run.texts != expected {
                let (name, texts) = (&side.name, &run.texts);
                return Err(format!("{name} answers {texts:?}, ours {expected:?}").into());
            }
        }
    }
    let text = table::render(&measured);
    println!("{text}");
    match &options.title {
        Some(title) => table::write(title, &text),
        None => Ok(()),
    }
}

/// Runs one process and reads the lines that worker.rs describes.
fn converse(program: &Path, arguments: &[String], more: &[&str]) -> Result<(String, Conversation)> {
    let output = Command::new(program)
        .args(arguments)
        .args(more)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(format!("{}: {}\n{}", program.display(), output.status, last.join("\n")).into());
    }
    let mut name = None;
    let mut conversation = Conversation::default();
    let mut turns = 0;
    for line in String::from_utf8(output.stdout)?.lines() {
        // Libraries of the other side print what is no JSON.
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(text) = line["name"].as_str() {
            name = Some(text.to_owned());
        } else if let Some(turn) = line["turn"].as_u64().and_then(|turn| turn.checked_sub(1)) {
            let turn = usize::try_from(turn)?;
            conversation.first_s[turn] =
                line["first_s"].as_f64().ok_or("no time to first token")?;
            conversation.prompt_tokens[turn] = line["prompt_tokens"].as_u64().unwrap_or_default();
            conversation.cached_tokens[turn] = line["cached_tokens"].as_u64();
            line["text"].as_str().unwrap_or_default().clone_into(&mut conversation.texts[turn]);
            turns += 1;
        } else if let Some(peak) = line["peak_bytes"].as_u64() {
            conversation.peak_bytes = peak;
        }
    }
    if turns != 2 {
        return Err(format!("{}: expected two turns, found {turns}", program.display()).into());
    }
    Ok((name.ok_or("a side without a name")?, conversation))
}
