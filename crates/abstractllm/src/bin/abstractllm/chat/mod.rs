//! The command `chat`.

pub(crate) mod args;
mod command;
mod input;
mod turn;

use std::{io, time::Instant};

use abstractllm::{Error, ErrorKind, Part, session::Session, vision::Limits};
use serde_json::{Value, json};

use self::{
    args::ChatArgs,
    command::Command,
    input::{Input, Line},
};
use crate::{
    args::params,
    failure::{Failure, say},
    images::{self, Summary},
    interrupt::Interrupts,
    load::{Loaded, Wanted},
    output,
    progress::Bars,
    videos,
};

/// A conversation at a terminal, or with whoever pipes lines in.
struct Chat<'a> {
    args: &'a ChatArgs,
    quiet: bool,
    limits: Limits,
    bars: Bars,
    interrupts: Interrupts,
    wanted: Wanted,
    model: Loaded,
    load_seconds: f64,
    session: Session,
    /// Images and videos that go with the next message.
    waiting: Vec<(Part, Summary)>,
}

pub(crate) fn run(args: &ChatArgs, quiet: bool) -> Result<(), Failure> {
    let params = params(&args.sampling, &args.budget);
    params.validate()?;
    let wanted = Wanted::of(&args.model)?.answered_by_adapter()?;
    let limits = Limits::default();
    let mut session = match args.session.as_deref().filter(|path| path.exists()) {
        Some(path) => Session::load(path)?,
        None => Session::new(),
    };
    // What is said now wins over what was said then.
    session.system = params.system.clone().or(session.system);
    session.params = abstractllm::GenerateParams { system: None, ..params }.or(&session.params);
    let mut waiting = Vec::new();
    for image in &args.images {
        let source = images::open(image, &limits)?;
        waiting.push((Part::Image(source.image), source.summary));
    }
    for (video, summary) in videos::open(&args.videos, &limits)? {
        waiting.push((Part::Video(video), summary));
    }
    let interrupts = Interrupts::listen()
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot listen for Ctrl-C").with_source(e))?;
    let bars = Bars::new(quiet);
    let started = Instant::now();
    let model = wanted.load(limits, None, &bars, quiet)?;
    let mut chat = Chat {
        args,
        quiet,
        limits,
        bars,
        interrupts,
        wanted,
        model,
        load_seconds: started.elapsed().as_secs_f64(),
        session,
        waiting,
    };
    let done = chat.go_on();
    chat.model.flush();
    done
}

impl Chat<'_> {
    /// Reads lines until there are no more.
    fn go_on(&mut self) -> Result<(), Failure> {
        let mut input = Input::open()?;
        if input.is_terminal() && !self.quiet {
            say("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the conversation");
        }
        loop {
            let done = match input.next()? {
                Line::End => break,
                Line::Interrupted => {
                    say("Ctrl-D or /exit ends the conversation");
                    continue;
                }
                Line::Text(line) if line.trim().is_empty() => continue,
                Line::Text(line) => match command::parse(&line) {
                    Ok(Some(Command::Exit)) => break,
                    Ok(Some(command)) => self.obey(command),
                    Ok(None) => self.ask(line),
                    Err(error) => Err(error.into()),
                },
            };
            match done {
                // A person corrects it; a script that goes on would talk past it.
                Err(Failure::Error(error)) if input.is_terminal() => {
                    say(&format!("error: {}", error.chain()));
                }
                other => other?,
            }
        }
        input.end();
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Help => self.tell(command::HELP.trim_end(), json!({"help": command::HELP}))?,
            Command::Image(path) => {
                let source = images::open(path.as_ref(), &self.limits)?;
                let told = format!("{} goes with the next message", source.summary.source);
                let value = json!({"image": source.summary});
                self.waiting.push((Part::Image(source.image), source.summary));
                self.tell(&told, value)?;
            }
            Command::System(None) => {
                let system = self.session.system.clone();
                let told = system.as_deref().unwrap_or("there is no system prompt").to_owned();
                self.tell(&told, json!({"system": system}))?;
            }
            Command::System(Some(text)) => {
                let value = json!({"system": text});
                self.session.system = Some(text);
                self.tell("the model is told that from the next message on", value)?;
            }
            Command::Save(path) => {
                self.session.save(&path)?;
                let turns = self.session.turns().len();
                let told = format!("{path}: {turns} turn(s)");
                self.tell(&told, json!({"saved": path, "turns": turns}))?;
            }
            Command::Load(path) => {
                let loaded = Session::load(&path)?;
                let turns = loaded.turns().len();
                self.session = loaded;
                let told = format!("{path}: {turns} turn(s)");
                self.tell(&told, json!({"loaded": path, "turns": turns}))?;
            }
            Command::Undo => {
                let any = self.session.undo().is_some();
                let told = if any { "the last turn is taken back" } else { "nothing was said yet" };
                self.tell(told, json!({"undone": any}))?;
            }
            Command::Clear => {
                self.session.clear();
                self.waiting.clear();
                self.tell("everything said is forgotten", json!({"cleared": true}))?;
            }
            Command::Model(name) => self.change_model(name)?,
            Command::Exit => {}
        }
        Ok(())
    }

    /// Goes on with another model, which sees what was said so far.
    fn change_model(&mut self, name: String) -> Result<(), Failure> {
        let started = Instant::now();
        let mut wanted = self.wanted.clone();
        wanted.name_another(&name);
        self.model = wanted.load(self.limits, None, &self.bars, self.quiet)?;
        self.wanted = wanted;
        self.load_seconds = started.elapsed().as_secs_f64();
        let told = format!("{name} answers from now on");
        let value = json!({"model": name});
        Ok(self.tell(&told, value)?)
    }

    /// Says what a command did: a person on stderr, since it is no answer; a program on stdout.
    fn tell(&self, text: &str, value: Value) -> io::Result<()> {
        match self.args.json {
            true => {
                let mut object = json!({"event": "command"});
                if let (Some(all), Value::Object(more)) = (object.as_object_mut(), value) {
                    all.extend(more);
                }
                output::line(&object)
            }
            false => {
                say(text);
                Ok(())
            }
        }
    }
}
